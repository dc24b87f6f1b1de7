/** Draws lanes and density. What falls on one pixel of a lane is one mark, so the cost is that of the picture. */

import type { Kind } from "../../api/event";
import type { RunLog } from "../../run/log";
import type { Scale } from "../../run/scale";

export const LANE_HEIGHT = 26;
export const DENSITY_HEIGHT = 34;
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
  const { marks, counts } = binned(log, scale, Math.max(1, Math.floor(width / MARK)));
  drawLanes(context, log, width, colours);
  for (const [lane, kinds] of marks.entries()) drawMarks(context, kinds, lane, colours);
  drawDensity(context, counts, height, colours);
}

type Colours = (name: string) => string;

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
  const marks = log.agents.map(() => new Int8Array(bins).fill(-1));
  const counts = new Uint32Array(bins);
  for (const [index, row] of log.rows.entries()) {
    const bin = Math.min(bins - 1, Math.floor(scale.at(index) * bins));
    const lane = marks[log.laneOf(row)];
    if (lane) lane[bin] = Math.max(lane[bin] ?? -1, IMPORTANCE.indexOf(row.kind));
    if (row.kind !== "system_signal") counts[bin] = (counts[bin] ?? 0) + 1;
  }
  return { marks, counts };
}

function drawLanes(context: CanvasRenderingContext2D, log: RunLog, width: number, colours: Colours): void {
  context.fillStyle = colours("line");
  for (let lane = 0; lane < log.agents.length; lane += 1) {
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

function drawDensity(context: CanvasRenderingContext2D, counts: Uint32Array, height: number, colours: Colours): void {
  const most = counts.reduce((a, b) => Math.max(a, b), 1);
  const room = DENSITY_HEIGHT - 8;
  context.fillStyle = colours("density");
  counts.forEach((number, bin) => {
    // The square root keeps single events visible beside bursts.
    const bar = number ? Math.max(2, Math.sqrt(number / most) * room) : 0;
    context.fillRect(bin * MARK, height - bar, MARK, bar);
  });
}
