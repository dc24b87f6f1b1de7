/** Everything that moves the cursor, whether a key, a button or the clock asks for it. */

import type { RunLog } from "../run/log";
import { placeOf, useCursor } from "./store";

/** Place of the cursor's event, as of now. */
export const cursorPlace = (log: RunLog): number => placeOf(useCursor.getState(), log);

/** To a place of the log, held within it. */
export function moveTo(log: RunLog, index: number): void {
  const row = log.rows[Math.min(log.last, Math.max(0, index))];
  if (row) useCursor.getState().goTo(row.seq, row.eventId);
}

export const moveBy = (log: RunLog, steps: number): void => moveTo(log, cursorPlace(log) + steps);

export function toNextChange(log: RunLog): void {
  const next = log.changeAfter(cursorPlace(log));
  if (next >= 0) moveTo(log, next);
}

export function toPreviousChange(log: RunLog): void {
  const previous = log.changeAt(cursorPlace(log) - 1);
  if (previous >= 0) moveTo(log, previous);
}

/** To the next or the previous failure, around the ends: from the end of a run to its first one. */
export function toFailure(log: RunLog, steps: 1 | -1): void {
  const failure = log.failureFrom(cursorPlace(log), steps);
  if (failure >= 0) moveTo(log, failure);
}

/** Play from the cursor, from the beginning where it is at the end; or stop. */
export function togglePlaying(log: RunLog): void {
  const { playing, setPlaying } = useCursor.getState();
  if (!playing && cursorPlace(log) >= log.last) moveTo(log, 0);
  setPlaying(!playing);
}
