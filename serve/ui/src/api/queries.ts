/** Every question the page asks, with its place in the cache. */

import { infiniteQueryOptions, keepPreviousData, queryOptions } from "@tanstack/react-query";
import { api, ask, documentOf } from "./client";
import type { SwarmEvent } from "./event";
import { isRefusal, isUnknownEvent, unknownEvent } from "./problem";
import type { components } from "./schema";

export type Run = components["schemas"]["RunDocument"];
export type ListedRun = components["schemas"]["ListedRun"];
export type State = components["schemas"]["StateDocument"];
export type Content = components["schemas"]["ContentDocument"];
export type Blame = components["schemas"]["BlameDocument"];
export type Verdict = components["schemas"]["VerifyDocument"];
export type Trace = components["schemas"]["TraceDocument"];
export type Span = components["schemas"]["SpanDocument"];
export type Compared = components["schemas"]["CompareDocument"];
export type Cluster = components["schemas"]["ClusterDocument"];
export type Pipeline = components["schemas"]["PipelineDocument"];
export type Outline = components["schemas"]["OutlineDocument"];

const RUNS_REFRESH = 5_000;
const RUNS_AT_ONCE = 100;
const BEHIND_REFRESH = 500;
const CLUSTER_REFRESH = 5_000;
const AGAIN_REFRESH = 3_000;
/** At an answer that seems to lack something: it may never come, as copies of events that the table leaves out. */
export const MOST_LOOKS = 20;

/** What nobody answered is asked again until somebody does. */
export const whereUnanswered = ({ state: { error } }: { state: { error: Error | null } }) =>
  error && !isRefusal(error) ? AGAIN_REFRESH : false;

/** Runs with all words of a search, the newest first. */
export const runsQuery = (search: string) =>
  infiniteQueryOptions({
    queryKey: ["runs", search],
    queryFn: ({ pageParam, signal }) => {
      const query = { limit: RUNS_AT_ONCE, q: search, ...(pageParam && { cursor: pageParam }) };
      return documentOf(api.GET("/api/v1/runs", { params: { query }, signal }));
    },
    initialPageParam: "",
    getNextPageParam: (page) => page.meta.cursor,
    refetchInterval: RUNS_REFRESH,
    placeholderData: keepPreviousData,
  });

/**
 * `newest` is the last sequence that the page knows of: a closed run grows too, by an undo. `ending`: the live stream
 * told the verdict already, and the table has it in a moment.
 */
export const runQuery = (run: string, newest = 0, ending = false) =>
  queryOptions({
    queryKey: ["run", run],
    queryFn: ({ signal }) => documentOf(api.GET("/api/v1/runs/{run}", { params: { path: { run } }, signal })),
    // A closed run holds no stream, so a change that somebody else takes back is learnt of by asking.
    refetchInterval: ({ state: { data, dataUpdateCount } }) => {
      const behind = data?.closed ? data.last_seq < newest && dataUpdateCount < MOST_LOOKS : ending;
      return behind ? BEHIND_REFRESH : RUNS_REFRESH;
    },
  });

/** The chain's verdict; asked anew when the run has grown. */
export const verdictQuery = (run: string, lastSeq: number) =>
  queryOptions({
    queryKey: ["verdict", run, lastSeq],
    queryFn: ({ signal }) => documentOf(api.GET("/api/v1/runs/{run}/verify", { params: { path: { run } }, signal })),
    staleTime: Number.POSITIVE_INFINITY,
    // A table that is far behind lacks what it will have.
    refetchInterval: (query) => {
      const { data, dataUpdateCount } = query.state;
      const behind = data?.stream.only_in_stream.length && dataUpdateCount < MOST_LOOKS;
      return behind ? AGAIN_REFRESH : whereUnanswered(query);
    },
  });

/**
 * Files, tasks and agents at a sequence, which never change once they are there. `events` is how many the page knows of
 * up to it.
 */
export const stateQuery = (run: string, at: number, events = 0) =>
  queryOptions({
    queryKey: ["state", run, at],
    queryFn: async ({ signal }) => {
      const params = { path: { run }, query: { at } };
      return (await documentOf(api.GET("/api/v1/runs/{run}/state", { params, signal }))) as State;
    },
    staleTime: Number.POSITIVE_INFINITY,
    // The live stream is ahead of the table: the answer then ends before what was asked for, or has gaps.
    refetchInterval: (query) => {
      const { data, dataUpdateCount } = query.state;
      const behind = data && (data.at < at || folded(data) < events);
      return behind && dataUpdateCount < MOST_LOOKS ? BEHIND_REFRESH : whereUnanswered(query);
    },
  });

/** Events that a state was made of. */
const folded = (state: State) => state.agents.reduce((sum, agent) => sum + agent.events, 0);

export interface FileAt {
  run: string;
  at: number;
  workspace: string;
  path: string;
  pathHex: string;
}

export const contentQuery = ({ run, at, workspace, path, pathHex }: FileAt) =>
  queryOptions({
    queryKey: ["content", run, at, workspace, path, pathHex],
    queryFn: async ({ signal }) => {
      const name = pathHex ? { path_hex: pathHex } : { path };
      const params = { path: { run }, query: { at, workspace, ...name } };
      return (await documentOf(api.GET("/api/v1/runs/{run}/state", { params, signal }))) as Content;
    },
    staleTime: Number.POSITIVE_INFINITY,
  });

/** For each line of a text file the change and the decision that it comes from. */
export const blameQuery = ({ run, at, workspace, path, pathHex }: FileAt) =>
  queryOptions({
    queryKey: ["blame", run, at, workspace, path, pathHex],
    queryFn: ({ signal }) => {
      const name = pathHex ? { path_hex: pathHex } : { path };
      const params = { path: { run }, query: { at, workspace, ...name } };
      return documentOf(api.GET("/api/v1/runs/{run}/blame", { params, signal }));
    },
    staleTime: Number.POSITIVE_INFINITY,
  });

/** An event that has no id is read by its place in the run. */
export const eventQuery = (run: string, eventId: string, seq: number) =>
  queryOptions({
    queryKey: eventId ? ["event", eventId] : ["event", run, seq],
    queryFn: ({ signal }) => (eventId ? readEvent(eventId, signal) : readEventAt(run, seq, signal)),
    staleTime: Number.POSITIVE_INFINITY,
    // The page asks only for events that it was told of: the table has them in a moment, and what is too large for
    // one is there once the bus is.
    refetchInterval: (query) => {
      const { data, error, dataUpdateCount, errorUpdateCount } = query.state;
      const early = isUnknownEvent(error) || data?.inflated === false;
      return early && dataUpdateCount + errorUpdateCount < MOST_LOOKS ? BEHIND_REFRESH : whereUnanswered(query);
    },
  });

async function readEvent(eventId: string, signal: AbortSignal): Promise<SwarmEvent> {
  const params = { path: { event_id: eventId } };
  return (await documentOf(api.GET("/api/v1/events/{event_id}", { params, signal }))) as unknown as SwarmEvent;
}

async function readEventAt(run: string, seq: number, signal: AbortSignal): Promise<SwarmEvent> {
  const query = { run, after: seq - 1, limit: 1 };
  const page = await documentOf(api.GET("/api/v1/events", { params: { query }, signal }));
  const [event] = page.data as unknown as SwarmEvent[];
  if (event?.seq !== seq) throw unknownEvent();
  return event;
}

export const DECISIONS_AT_ONCE = 100;

/**
 * What a stretch of decisions chose and turned down, by sequence; the outline has no room for it.
 * `held` is how many there are in it: the last stretch of a living run is asked for anew as it grows.
 */
export const decisionsQuery = (run: string, after: number, held: number) =>
  queryOptions({
    queryKey: ["decisions", run, after, held],
    queryFn: async ({ signal }) => {
      const fields = "decision.action,decision.rejected_alternatives";
      const query = { run, kind: "decision" as const, after, limit: DECISIONS_AT_ONCE, fields };
      const page = await documentOf(api.GET("/api/v1/events", { params: { query }, signal }));
      return new Map((page.data as unknown as SwarmEvent[]).map((event) => [event.seq, event.decision ?? {}]));
    },
    staleTime: Number.POSITIVE_INFINITY,
    refetchInterval: (query) => {
      const { data, dataUpdateCount } = query.state;
      return data && data.size < held && dataUpdateCount < MOST_LOOKS ? BEHIND_REFRESH : whereUnanswered(query);
    },
  });

export const traceQuery = (trace: string) =>
  queryOptions({
    queryKey: ["trace", trace],
    queryFn: ({ signal }) => {
      const params = { path: { trace_id: trace } };
      return documentOf(api.GET("/api/v1/traces/{trace_id}", { params, signal }));
    },
  });

export const compareQuery = (run: string, other: string) =>
  queryOptions({
    queryKey: ["compare", run, other],
    queryFn: ({ signal }) => {
      const params = { path: { run, other } };
      return documentOf(api.GET("/api/v1/runs/{run}/compare/{other}", { params, signal }));
    },
  });

/** Asked again while somebody looks: a tab that is out of sight asks nothing. */
export const clusterQuery = queryOptions({
  queryKey: ["cluster"],
  queryFn: ({ signal }) => documentOf(api.GET("/api/v1/cluster", { signal })),
  refetchInterval: CLUSTER_REFRESH,
});

export const pipelineQuery = queryOptions({
  queryKey: ["pipeline"],
  queryFn: ({ signal }) => documentOf(api.GET("/api/v1/pipeline", { signal })),
  refetchInterval: CLUSTER_REFRESH,
});

export async function readOutline(run: string, after: number, limit: number, signal: AbortSignal): Promise<Outline> {
  const url = `${location.origin}/api/v1/runs/${encodeURIComponent(run)}/outline?after=${after}&limit=${limit}`;
  return (await ask(url, { signal })).json() as Promise<Outline>;
}

/** The whole run as one file; the browser keeps a large one on disk. */
export async function readHtml(run: string): Promise<Blob> {
  return (await ask(`${location.origin}/api/v1/runs/${encodeURIComponent(run)}/export.html`)).blob();
}
