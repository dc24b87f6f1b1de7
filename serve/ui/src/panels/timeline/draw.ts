/** Draws lanes and, below them, how fast events came. What falls on one pixel of a lane is one mark, so the cost is that of the picture. */

import type { Kind } from "../../api/event";
import type { RunLog } from "../../run/log";
import type { Scale } from "../../run/scale";
import { arrowsOf, drawArrows } from "./arrows";
import { type Colours, DENSITY_HEIGHT, LANE_HEIGHT } from "./sizes";

/** Pixels of one mark. */
const MARK = 2;

/** Of several events on one mark the later kind of this list is shown. */
const IMPORTANCE: Kind[] = [
  "unknown",
  "system_signal",
  "model_call",
  "tool_call",
  "run_transition",
  "state_change",
  "decision",
];
const HEIGHTS: Record<Kind, number> = {
  unknown: 4,
  system_signal: 4,
  model_call: 10,
  tool_call: 10,
  run_transition: 14,
  state_change: 16,
  decision: 18,
};

export function draw(canvas: HTMLCanvasElement, log: RunLog, scale: Scale, width: number, height: number): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const dense = devicePixelRatio || 1;
  canvas.width = width * dense;
  canvas.height = height * dense;
  context.scale(dense, dense);
  const colours = coloursOf(canvas);
  const { marks, density } = binned(log, scale, Math.max(1, Math.floor(width / MARK)));
  drawLanes(context, log, width, colours);
  drawArrows(context, arrowsOf(log, scale, width), colours);
  for (const [lane, kinds] of marks.entries()) drawMarks(context, kinds, lane, colours);
  drawDensity(context, density, height, colours);
}

function coloursOf(canvas: HTMLElement): Colours {
  const style = getComputedStyle(canvas);
  const known = new Map<string, string>();
  return (name) => {
    const colour = known.get(name) ?? style.getPropertyValue(`--${name}`);
    known.set(name, colour);
    return colour;
  };
}

function binned(log: RunLog, scale: Scale, bins: number) {
  const marks = Array.from({ length: log.lanes }, () => new Int8Array(bins).fill(-1));
  const density = new Float64Array(bins);
  let from = { bin: 0, index: 0 };
  for (const [index, row] of log.rows.entries()) {
    const bin = Math.min(bins - 1, Math.floor(scale.at(index) * bins));
    const lane = marks[log.laneOf(row)];
    if (lane) lane[bin] = Math.max(lane[bin] ?? -1, IMPORTANCE.indexOf(row.kind));
    if (bin !== from.bin) {
      density[from.bin] = eventsASecond(log, from.index, index);
      from = { bin, index };
    }
  }
  density[from.bin] = eventsASecond(log, from.index, log.rows.length - 1);
  return { marks, density };
}

/** Between two places of the log; the axis alone does not tell, since it has as much room for each event. */
function eventsASecond(log: RunLog, begin: number, end: number): number {
  const milliseconds = (log.rows[end]?.time ?? 0) - (log.rows[begin]?.time ?? 0);
  return ((end - begin) * 1_000) / Math.max(1, milliseconds);
}

function drawLanes(context: CanvasRenderingContext2D, log: RunLog, width: number, colours: Colours): void {
  context.fillStyle = colours("line");
  for (let lane = 0; lane < log.lanes; lane += 1) {
    context.fillRect(0, lane * LANE_HEIGHT + LANE_HEIGHT / 2 - 0.5, width, 1);
  }
}

function drawMarks(context: CanvasRenderingContext2D, kinds: Int8Array, lane: number, colours: Colours): void {
  const middle = lane * LANE_HEIGHT + LANE_HEIGHT / 2;
  kinds.forEach((importance, bin) => {
    const kind = IMPORTANCE[importance];
    if (!kind) return;
    context.fillStyle = colours(`kind-${kind}`);
    context.fillRect(bin * MARK, middle - HEIGHTS[kind] / 2, kind === "system_signal" ? MARK - 1 : MARK, HEIGHTS[kind]);
  });
}

function drawDensity(context: CanvasRenderingContext2D, density: Float64Array, height: number, colours: Colours): void {
  // Bursts are thousands of times as dense as waits: the logarithm shows both.
  const most = density.reduce((a, b) => Math.max(a, b), 1);
  const room = DENSITY_HEIGHT - 8;
  context.fillStyle = colours("density");
  density.forEach((number, bin) => {
    const bar = number ? Math.max(2, (Math.log1p(number) / Math.log1p(most)) * room) : 0;
    context.fillRect(bin * MARK, height - bar, MARK, bar);
  });
}
