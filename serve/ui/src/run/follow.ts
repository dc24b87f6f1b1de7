/** Fills a run's log: what the table holds first, then what is stored from now on. */

import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { SwarmEvent } from "../api/event";
import { isRefusal, isUnknownRun } from "../api/problem";
import { type Outline, type Run, readOutline } from "../api/queries";
import { type Connection, follow, pause } from "../api/stream";
import { useLinger } from "./linger";
import { RunLog } from "./log";
import { rowsOf } from "./row";
import { useVisible } from "./visible";

export interface Followed {
  log: RunLog;
  /** Of the log: what is made of it is made anew when it grows. */
  version: number;
  loaded: boolean;
  connection: Connection;
  error: Error | null;
}

/** The first answer is short, so that something is to be seen at once. */
const FIRST = 2_000;
const NEXT = 50_000;
const AGAIN_MILLISECONDS = 2_000;
/** After the verdict agents still say that they stop, and the verdict's count has not got that. */
const LAST_WORDS_MILLISECONDS = 10_000;
const HIDDEN_MILLISECONDS = 5_000;
/** Sequences by which one part of the table may be behind another; the stream has them all. */
const OVERLAP = 5_000;

/** `known` is what the API says of the run, `wanted` a sequence that the log is not whole without. */
export function useRunLog(run: string, known: Run | undefined, wanted: number): Followed {
  const [log, setLog] = useState(() => new RunLog());
  const [status, setStatus] = useState<Omit<Followed, "log" | "version">>(BEGINNING);
  const [attempt, setAttempt] = useState(0);
  /** How far the live stream was read; a tab that was out of sight goes on from there. */
  const heard = useRef<number | null>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another attempt begins anew
  useEffect(() => {
    const stop = new AbortController();
    const fresh = new RunLog();
    heard.current = null;
    setLog(fresh);
    setStatus(BEGINNING);
    const tell: Tell = (change) => stop.signal.aborted || setStatus((last) => ({ ...last, ...change }));
    fill(run, fresh, stop.signal, tell)
      .then(() => tell({ loaded: true, error: null }))
      .catch((error: Error) => tell({ error }));
    return () => stop.abort();
  }, [run, attempt]);
  // Whoever opens a run before its first event is refused until there is one.
  const early = known !== undefined && isUnknownRun(status.error);
  useEffect(() => {
    if (!early) return;
    const timer = setTimeout(() => setAttempt((last) => last + 1), AGAIN_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [early]);
  const version = useSyncExternalStore(log.subscribe, log.getVersion);
  const growing = useLinger(
    status.loaded && known !== undefined && !isWhole(log, known, wanted),
    LAST_WORDS_MILLISECONDS,
  );
  // A browser has six connections for each origin: tabs that nobody looks at leave them to the others.
  const looked = useLinger(useVisible(), HIDDEN_MILLISECONDS);
  const following = growing && looked;
  useEffect(() => {
    if (!following) return;
    const stop = new AbortController();
    const onConnection = (connection: Connection) => setStatus((last) => ({ ...last, connection }));
    const onEvents = (events: SwarmEvent[]) => log.appendEvents(events);
    const onPosition = (seq: number) => {
      if (!stop.signal.aborted) heard.current = seq;
    };
    const after = heard.current ?? Math.max(0, log.lastSeq - OVERLAP);
    void follow(run, after, { onEvents, onConnection, onPosition }, stop.signal);
    return () => stop.abort();
  }, [run, log, following]);
  return { log, version, ...status };
}

const BEGINNING = { loaded: false, connection: "connecting" as Connection, error: null };

/** Nothing more is to come: to stay connected would cost a place that a living run needs. */
const isWhole = (log: RunLog, known: Run, wanted: number): boolean =>
  known.closed && log.rows.length >= known.events && log.lastSeq >= wanted;

type Tell = (change: Partial<Followed>) => unknown;

async function fill(run: string, log: RunLog, signal: AbortSignal, tell: Tell): Promise<void> {
  for (let limit = FIRST, more = true; more; limit = NEXT) {
    const rows = rowsOf(await outline(run, log.lastSeq, limit, signal, tell));
    log.append(rows);
    more = rows.length === limit;
  }
}

/** Asked for until the API answers: nobody has to load the page anew because it was away. */
async function outline(run: string, after: number, limit: number, signal: AbortSignal, tell: Tell): Promise<Outline> {
  for (;;) {
    try {
      return await readOutline(run, after, limit, signal);
    } catch (error) {
      if (signal.aborted || isRefusal(error)) throw error;
      tell({ error: error as Error, connection: "broken" });
    }
    await pause(AGAIN_MILLISECONDS, signal);
  }
}
