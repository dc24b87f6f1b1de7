/** Which events the log shows. */

import type { Kind } from "../../api/event";
import type { RunLog } from "../../run/log";
import type { Row } from "../../run/row";

export interface Filter {
  hidden: ReadonlySet<Kind>;
  agent: string;
  text: string;
}

/** Signs of life are many and say little. */
export const NO_FILTER: Filter = { hidden: new Set<Kind>(["system_signal"]), agent: "", text: "" };

/** Places in the log of the events that pass, in order. */
export function placesOf(log: RunLog, filter: Filter): number[] {
  const text = filter.text.trim().toLowerCase();
  const places: number[] = [];
  for (const [place, row] of log.rows.entries()) {
    if (!filter.hidden.has(row.kind) && (!filter.agent || row.agent === filter.agent) && contains(row, text))
      places.push(place);
  }
  return places;
}

function contains(row: Row, text: string): boolean {
  return !text || `${row.text} ${row.name} ${row.result} ${row.taskId} ${row.seq}`.toLowerCase().includes(text);
}

/** The last of the places up to one of the log; -1 where all come after it. */
export function placeUpTo(places: readonly number[], place: number): number {
  let low = 0;
  let high = places.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((places[middle] ?? 0) <= place) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
