/** What a decision chose and turned down; asked for in stretches, and only for what is in sight. */

import { useQuery } from "@tanstack/react-query";
import type { Decision } from "../api/event";
import { DECISIONS_AT_ONCE, decisionsQuery } from "../api/queries";
import type { RunLog } from "./log";

/** For the decision at a place of the log; undefined until it is known. */
export function useDecision(run: string, log: RunLog, index: number): Decision | undefined {
  const row = log.rows[index];
  const number = row?.kind === "decision" ? log.decisionsAt(index) - 1 : -1;
  const known = row && log.decided.get(row.seq);
  const after = number < 0 ? 0 : beginOf(log, number - (number % DECISIONS_AT_ONCE));
  const { data } = useQuery({ ...decisionsQuery(run, after), enabled: number >= 0 && !known });
  return known ?? (row && data?.get(row.seq));
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
