/** The one cursor that every panel follows: a sequence, or the end of what there is. */

import { create } from "zustand";
import type { RunLog } from "../run/log";

export const SPEEDS = [0.5, 1, 2, 5, 20, 100] as const;

interface CursorStore {
  /** null follows the end, which moves while the run is alive. */
  seq: number | null;
  /** Which of the events with that sequence, where a stream that was made again has two; empty for the last. */
  eventId: string;
  /** A sequence that is known to be there, though the log may not have it yet: what an act recorded. */
  expected: number;
  playing: boolean;
  speed: number;
  goTo: (seq: number, eventId?: string) => void;
  follow: () => void;
  expect: (seq: number) => void;
  setPlaying: (playing: boolean) => void;
  setSpeed: (speed: number) => void;
}

export const useCursor = create<CursorStore>((set) => ({
  seq: null,
  eventId: "",
  expected: 0,
  playing: false,
  speed: 1,
  goTo: (seq, eventId = "") => set({ seq, eventId }),
  follow: () => set({ seq: null, eventId: "", playing: false }),
  expect: (expected) => set({ expected }),
  setPlaying: (playing) => set({ playing }),
  setSpeed: (speed) => set({ speed }),
}));

/** Place of the cursor's event in the log; -1 before the first. */
export const placeOf = ({ seq, eventId }: Pick<CursorStore, "seq" | "eventId">, log: RunLog): number =>
  seq === null ? log.last : log.placeOf(seq, eventId);

/** The same, as it moves. */
export function useCursorIndex(log: RunLog): number {
  return useCursor((cursor) => placeOf(cursor, log));
}
