/** What decisions chose and turned down; asked for in stretches, and only for what rests in sight. */

import { useQueries } from "@tanstack/react-query";
import { useCallback, useMemo } from "react";
import type { Decision } from "../api/event";
import { DECISIONS_AT_ONCE, decisionsQuery } from "../api/queries";
import type { RunLog } from "./log";
import type { Row } from "./row";
import { useSettled } from "./settled";

const SETTLE_MILLISECONDS = 100;

export type Decided = (row: Row) => Decision | undefined;

/** For the events at these places of the log; a decision is undefined until it is known. */
export function useDecisions(run: string, log: RunLog, places: readonly number[]): Decided {
  const settled = useSettled(stretchesOf(log, places).join(), SETTLE_MILLISECONDS);
  const queries = useMemo(() => {
    const stretches = settled ? settled.split(",").map((stretch) => stretch.split("+").map(Number)) : [];
    return stretches.map(([after = 0, held = 0]) => decisionsQuery(run, after, held));
  }, [settled, run]);
  const found = useQueries({ queries, combine });
  return useCallback(
    (row) => log.streamed(row)?.decision ?? found.find((stretch) => stretch?.has(row.seq))?.get(row.seq),
    [found, log],
  );
}

const combine = (results: { data?: Map<number, Decision> | undefined }[]) => results.map(({ data }) => data);

/** "after+held" of the stretches of decisions that hold these, but for those the live stream brought. */
function stretchesOf(log: RunLog, places: readonly number[]): string[] {
  const total = log.decisionsAt(log.last);
  const stretches = new Set<string>();
  for (const place of places) {
    const row = log.rows[place];
    if (row?.kind !== "decision" || log.streamed(row)) continue;
    const number = log.decisionsAt(place) - 1;
    const begin = number - (number % DECISIONS_AT_ONCE);
    stretches.add(`${beginOf(log, begin)}+${Math.min(DECISIONS_AT_ONCE, total - begin)}`);
  }
  return [...stretches];
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
