/** Fills a run's log: what the table holds first, then what is stored from now on. */

import { useEffect, useState, useSyncExternalStore } from "react";
import { isRefusal } from "../api/problem";
import { type Outline, readOutline } from "../api/queries";
import { type Connection, follow, pause } from "../api/stream";
import { RunLog } from "./log";
import { rowsOf } from "./row";

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
/** Sequences by which one part of the table may be behind another; the stream has them all. */
const OVERLAP = 1_000;

export function useRunLog(run: string): Followed {
  const [log, setLog] = useState(() => new RunLog());
  const [status, setStatus] = useState<Omit<Followed, "log" | "version">>(BEGINNING);
  useEffect(() => {
    const stop = new AbortController();
    const fresh = new RunLog();
    setLog(fresh);
    setStatus(BEGINNING);
    fill(run, fresh, stop.signal, (change) => setStatus((known) => ({ ...known, ...change }))).catch((error: Error) => {
      if (!stop.signal.aborted) setStatus((known) => ({ ...known, error }));
    });
    return () => stop.abort();
  }, [run]);
  const version = useSyncExternalStore(log.subscribe, log.getVersion);
  return { log, version, ...status };
}

const BEGINNING = { loaded: false, connection: "connecting" as Connection, error: null };

type Tell = (change: Partial<Followed>) => void;

async function fill(run: string, log: RunLog, signal: AbortSignal, tell: Tell): Promise<void> {
  for (let limit = FIRST, more = true; more; limit = NEXT) {
    const rows = rowsOf(await outline(run, log.rows.at(-1)?.seq ?? 0, limit, signal, tell));
    log.append(rows);
    more = rows.length === limit;
  }
  tell({ loaded: true, error: null });
  const after = Math.max(0, (log.rows.at(-1)?.seq ?? 0) - OVERLAP);
  const onConnection = (connection: Connection) => tell({ connection });
  await follow(run, after, { onEvents: (events) => log.appendEvents(events), onConnection }, signal);
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
