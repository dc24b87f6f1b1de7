/** Moves the cursor while it plays: at the pace of the run, with long waits shortened. */

import { useEffect } from "react";
import type { RunLog } from "../run/log";
import { cursorPlace, moveTo } from "./moves";
import { useCursor } from "./store";

/** Milliseconds that the longest wait between two events takes at speed 1. */
const LONGEST_WAIT = 1_000;

/** Of one step: a tab that was out of sight got no frames, and goes on from where it was. */
const LONGEST_STEP = 250;

export function useClock(log: RunLog): void {
  const playing = useCursor((cursor) => cursor.playing);
  useEffect(() => {
    if (!playing) return;
    let before = performance.now();
    let owed = 0;
    let frame = requestAnimationFrame(function step(now: number) {
      const { speed, setPlaying } = useCursor.getState();
      owed += Math.min(LONGEST_STEP, now - before) * speed;
      before = now;
      const start = cursorPlace(log);
      let index = start;
      for (let wait = waitAfter(log, index); index < log.last && wait <= owed; wait = waitAfter(log, index)) {
        owed -= wait;
        index += 1;
      }
      if (index !== start) moveTo(log, index);
      if (index >= log.last) setPlaying(false);
      frame = requestAnimationFrame(step);
    });
    return () => cancelAnimationFrame(frame);
  }, [playing, log]);
}

function waitAfter(log: RunLog, index: number): number {
  const wait = (log.rows[index + 1]?.time ?? 0) - (log.rows[index]?.time ?? 0);
  return Math.min(LONGEST_WAIT, Math.max(1, wait));
}
