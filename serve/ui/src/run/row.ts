/** One line of a run's log, as light as a list of fifty thousand needs it. */

import { type Kind, type SwarmEvent, timeOf } from "../api/event";
import type { Outline } from "../api/queries";
import { cut } from "./words";

export type Role = "architect" | "coder" | "reviewer" | "operator" | "";

export interface Row {
  seq: number;
  /** By the agent's own clock, milliseconds since 1970. */
  time: number;
  eventId: string;
  kind: Kind;
  role: Role;
  agent: string;
  taskId: string;
  /** Id of the event that caused it; empty where none is named. */
  parent: string;
  name: string;
  result: string;
  text: string;
  confidence: number;
  inputTokens: number;
  outputTokens: number;
  durationMs: number;
}

/** Whether it tells of something that went wrong. */
export const isFailure = ({ kind, result }: Row): boolean =>
  kind === "unknown" || result === "CRITICAL_FAILURE" || FAILED[kind]?.(result) === true;

const FAILED: Partial<Record<Kind, (result: string) => boolean>> = {
  tool_call: (result) => result !== "OK",
  model_call: (result) => result === "FAILED",
  run_transition: (result) => result === "failed" || result === "rejected",
};

/** Characters of each text, as the outline cuts them: names of agents must come out the same. */
const TEXT = 200;

const ROLES: Record<string, Role> = {
  ROLE_ARCHITECT: "architect",
  ROLE_CODER: "coder",
  ROLE_REVIEWER: "reviewer",
  ROLE_OPERATOR: "operator",
};

/** From its name in the .proto; one of a newer schema comes as a number. */
export const roleOf = (name: string | number = ""): Role => ROLES[name] ?? "";

/** Protobuf's JSON writes what is no number, and infinity, as a text. */
const finite = (value: number | string | undefined): number => (typeof value === "number" ? value : 0);

export function rowsOf(outline: Outline): Row[] {
  return outline.seq.map((seq, at) => ({
    seq,
    time: (outline.time[at] ?? 0) / 1_000,
    eventId: outline.event_id[at] ?? "",
    kind: (outline.kind[at] ?? "unknown") as Kind,
    role: (outline.role[at] ?? "") as Role,
    agent: outline.agent[at] ?? "",
    taskId: outline.task_id[at] ?? "",
    parent: outline.parent[at] ?? "",
    name: outline.name[at] ?? "",
    result: outline.result[at] ?? "",
    text: outline.text[at] ?? "",
    confidence: outline.confidence[at] ?? 0,
    inputTokens: outline.input_tokens[at] ?? 0,
    outputTokens: outline.output_tokens[at] ?? 0,
    durationMs: outline.duration_ms[at] ?? 0,
  }));
}

const VERDICTS = new Set(["merged", "rejected", "failed", "cancelled"]);

export const isVerdict = (row: Row): boolean =>
  row.kind === "run_transition" && !row.taskId && VERDICTS.has(row.result);

/** A clock that was never set tells a time before the computer; the outline passes it over too. */
function millisecondsOf(event: SwarmEvent): number {
  const told = Date.parse(timeOf(event));
  return told > 0 ? told : Date.parse(event.stream_time);
}

/** The same line from an event of the live stream. */
export function rowOfEvent(event: SwarmEvent): Row {
  return {
    seq: event.seq,
    time: millisecondsOf(event),
    eventId: event.event_id,
    kind: event.kind,
    role: roleOf(event.agent_role),
    agent: cut(event.agent_name || event.agent_id || "", TEXT),
    taskId: cut(event.task_id ?? "", TEXT),
    parent: event.parent_event_id ?? "",
    inputTokens: event.model_call?.input_tokens ?? 0,
    outputTokens: event.model_call?.output_tokens ?? 0,
    confidence: finite(event.decision?.confidence_score),
    durationMs: finite(event.model_call?.duration_ms ?? event.tool_call?.duration_ms),
    ...saidBy(event),
  };
}

function saidBy({ decision, state_change, model_call, tool_call, run_transition, system_signal }: SwarmEvent) {
  const said = (...texts: (string | undefined)[]) => {
    const [name = "", result = "", text = ""] = texts.map((one = "") => cut(one, TEXT));
    return { name, result, text };
  };
  if (decision) return said(decision.input_trigger, "", decision.rationale);
  if (state_change) return said(state_change.target_resource, state_change.reason, state_change.diff_patch);
  if (model_call) {
    const { model, error, completion } = model_call;
    return said(model, error ? "FAILED" : "OK", completion || error);
  }
  if (tool_call) return said(tool_call.tool, tool_call.outcome, tool_call.output);
  if (run_transition) return said("", run_transition.to_state, run_transition.reason);
  return said("", system_signal?.status, system_signal?.detail);
}
