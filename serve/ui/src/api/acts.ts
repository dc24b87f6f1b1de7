/** Everything the page asks the API to do. */

import { api, documentOf } from "./client";
import type { components } from "./schema";

type Schemas = components["schemas"];
export type Restored = Schemas["RestoreDocument"];
export type Undone = Schemas["UndoDocument"];
export type Started = Schemas["StartedRun"];

/** What is left out is as the API has it by default; its description has no word for that. */
export type RestoreAsked = Pick<Schemas["RestoreBody"], "at" | "workspace"> & Partial<Schemas["RestoreBody"]>;
export type ForkAsked = Pick<Schemas["ForkBody"], "at"> & Partial<Schemas["ForkBody"]>;
export type StartAsked = Pick<Schemas["RunBody"], "task" | "repo"> & Partial<Schemas["RunBody"]>;

export const restore = (run: string, asked: RestoreAsked): Promise<Restored> => {
  const body = asked as Schemas["RestoreBody"];
  return documentOf(api.POST("/api/v1/runs/{run}/restores", { params: { path: { run } }, body }));
};

export const undo = (run: string, eventId: string, dryRun: boolean): Promise<Undone> => {
  const body = { event_id: eventId, dry_run: dryRun };
  return documentOf(api.POST("/api/v1/runs/{run}/undos", { params: { path: { run } }, body }));
};

/** The same key begins one run, however often it is sent. */
export const fork = (run: string, asked: ForkAsked, key: string): Promise<Started> => {
  const params = { path: { run }, header: { "idempotency-key": key } };
  return documentOf(api.POST("/api/v1/runs/{run}/forks", { params, body: asked as Schemas["ForkBody"] }));
};

/** As for a fork. */
export const start = (asked: StartAsked, key: string): Promise<Started> => {
  const params = { header: { "idempotency-key": key } };
  return documentOf(api.POST("/api/v1/runs", { params, body: asked as Schemas["RunBody"] }));
};

export const cancel = (run: string): Promise<Started> =>
  documentOf(api.POST("/api/v1/runs/{run}/cancel", { params: { path: { run } } }));
