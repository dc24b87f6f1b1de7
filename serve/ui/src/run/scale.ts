/** Where each event lies between the left end (0) and the right end (1) of the timeline. */

import type { Row } from "./row";

export type ScaleMode = "event" | "time";

export interface Scale {
  at: (index: number) => number;
  indexAt: (fraction: number) => number;
}

/** Gaps of more than this many median gaps are drawn as this many, so that bursts stay readable after idle hours. */
const LONGEST_GAP = 12;

export function scaleOf(rows: readonly Row[], mode: ScaleMode): Scale {
  return mode === "event" ? byEvent(rows.length) : byTime(rows);
}

function byEvent(count: number): Scale {
  const span = Math.max(1, count - 1);
  return {
    at: (index) => Math.max(0, index) / span,
    indexAt: (fraction) => Math.round(clamp(fraction) * (count - 1)),
  };
}

function byTime(rows: readonly Row[]): Scale {
  const gaps = rows.map((row, at) => Math.max(0, row.time - (rows[at - 1]?.time ?? row.time)));
  const sorted = Float64Array.from(gaps.filter((gap) => gap > 0)).sort();
  const longest = LONGEST_GAP * (sorted[sorted.length >> 1] ?? 1);
  const places = new Float64Array(rows.length);
  for (let at = 1; at < rows.length; at += 1) places[at] = (places[at - 1] ?? 0) + Math.min(gaps[at] ?? 0, longest);
  const span = places.at(-1) || 1;
  return {
    at: (index) => (places[Math.max(0, index)] ?? 0) / span,
    indexAt: (fraction) => nearest(places, clamp(fraction) * span),
  };
}

function nearest(places: Float64Array, wanted: number): number {
  let low = 0;
  let high = places.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((places[middle] ?? 0) < wanted) low = middle + 1;
    else high = middle;
  }
  return low > 0 && wanted - (places[low - 1] ?? 0) < (places[low] ?? 0) - wanted ? low - 1 : low;
}

const clamp = (fraction: number) => Math.min(1, Math.max(0, fraction));
