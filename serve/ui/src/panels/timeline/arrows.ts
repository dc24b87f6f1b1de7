/** Hand-offs between lanes, as arrows. Those that would lie on each other are one, and no picture has more than a person can tell apart. */

import type { RunLog } from "../../run/log";
import type { Scale } from "../../run/scale";
import { type Colours, LANE_HEIGHT } from "./sizes";

export interface Arrow {
  fromX: number;
  toX: number;
  fromLane: number;
  toLane: number;
}

const MOST = 600;
/** Pixels within which ends are the same; doubled until there are few enough arrows. */
const GRAIN = 4;
/** Pixels between an arrow's ends and the middle of its lane, so that marks stay readable. */
const CLEAR = 8;
const HEAD = 4;

export function arrowsOf(log: RunLog, scale: Scale, width: number): Arrow[] {
  const all = log.handoffs.map(({ from, to }) => ({
    fromX: scale.at(from) * width,
    toX: scale.at(to) * width,
    fromLane: laneAt(log, from),
    toLane: laneAt(log, to),
  }));
  let arrows = distinct(all, GRAIN);
  for (let grain = GRAIN * 2; arrows.length > MOST && grain < width; grain *= 2) arrows = distinct(arrows, grain);
  return arrows.slice(-MOST);
}

function laneAt(log: RunLog, place: number): number {
  const row = log.rows[place];
  return row ? log.laneOf(row) : 0;
}

function distinct(arrows: readonly Arrow[], grain: number): Arrow[] {
  const found = new Map<string, Arrow>();
  for (const arrow of arrows) {
    const { fromX, toX, fromLane, toLane } = arrow;
    found.set(`${Math.round(fromX / grain)} ${Math.round(toX / grain)} ${fromLane} ${toLane}`, arrow);
  }
  return [...found.values()];
}

export function drawArrows(context: CanvasRenderingContext2D, arrows: readonly Arrow[], colours: Colours): void {
  context.beginPath();
  for (const arrow of arrows) trace(context, arrow);
  context.strokeStyle = colours("dim");
  context.globalAlpha = arrows.length > MOST / 4 ? 0.35 : 0.7;
  context.stroke();
  context.globalAlpha = 1;
}

function trace(context: CanvasRenderingContext2D, { fromX, toX, fromLane, toLane }: Arrow): void {
  const down = toLane > fromLane ? 1 : -1;
  const fromY = fromLane * LANE_HEIGHT + LANE_HEIGHT / 2 + down * CLEAR;
  const toY = toLane * LANE_HEIGHT + LANE_HEIGHT / 2 - down * CLEAR;
  const middle = (fromY + toY) / 2;
  context.moveTo(fromX, fromY);
  context.bezierCurveTo(fromX, middle, toX, middle, toX, toY);
  context.moveTo(toX - HEAD, toY - down * HEAD);
  context.lineTo(toX, toY);
  context.lineTo(toX + HEAD, toY - down * HEAD);
}
