/** What decisions chose and turned down; asked for in stretches, and only for what rests in sight. */

import { useQueries } from "@tanstack/react-query";
import { useCallback, useMemo } from "react";
import type { Decision } from "../api/event";
import { DECISIONS_AT_ONCE, decisionsQuery } from "../api/queries";
import type { RunLog } from "./log";
import { useSettled } from "./settled";

const SETTLE_MILLISECONDS = 100;

export type Decided = (seq: number) => Decision | undefined;

/** For the events at these places of the log; a decision is undefined until it is known. */
export function useDecisions(run: string, log: RunLog, places: readonly number[]): Decided {
  const settled = useSettled(stretchesOf(log, places).join(), SETTLE_MILLISECONDS);
  const queries = useMemo(() => {
    const stretches = settled ? settled.split(",").map(Number) : [];
    return stretches.map((stretch) => decisionsQuery(run, beginOf(log, stretch * DECISIONS_AT_ONCE)));
  }, [settled, run, log]);
  const found = useQueries({ queries, combine });
  return useCallback(
    (seq) => log.decided.get(seq) ?? found.find((stretch) => stretch?.has(seq))?.get(seq),
    [found, log],
  );
}

const combine = (results: { data?: Map<number, Decision> | undefined }[]) => results.map(({ data }) => data);

/** Numbers of the stretches that hold the decisions among these events, but for those the live stream brought. */
function stretchesOf(log: RunLog, places: readonly number[]): number[] {
  const stretches = new Set<number>();
  for (const place of places) {
    const row = log.rows[place];
    if (row?.kind === "decision" && !log.decided.has(row.seq)) {
      stretches.add(Math.floor((log.decisionsAt(place) - 1) / DECISIONS_AT_ONCE));
    }
  }
  return [...stretches].sort((a, b) => a - b);
}

/** The sequence after which the n-th decision (from 0) is the first. */
function beginOf(log: RunLog, number: number): number {
  let low = 0;
  let high = log.last;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (log.decisionsAt(middle) > number) high = middle;
    else low = middle + 1;
  }
  return (log.rows[low]?.seq ?? 1) - 1;
}
