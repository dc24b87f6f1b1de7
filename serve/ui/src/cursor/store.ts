/** The one cursor that every panel follows: a sequence, or the end of what there is. */

import { create } from "zustand";
import type { RunLog } from "../run/log";

export const SPEEDS = [0.5, 1, 2, 5, 20, 100] as const;

interface CursorStore {
  /** null follows the end, which moves while the run is alive. */
  seq: number | null;
  /** A sequence that is known to be there, though the log may not have it yet: what an act recorded. */
  expected: number;
  playing: boolean;
  speed: number;
  goTo: (seq: number) => void;
  follow: () => void;
  expect: (seq: number) => void;
  setPlaying: (playing: boolean) => void;
  setSpeed: (speed: number) => void;
}

export const useCursor = create<CursorStore>((set) => ({
  seq: null,
  expected: 0,
  playing: false,
  speed: 1,
  goTo: (seq) => set({ seq }),
  follow: () => set({ seq: null, playing: false }),
  expect: (expected) => set({ expected }),
  setPlaying: (playing) => set({ playing }),
  setSpeed: (speed) => set({ speed }),
}));

/** Place of the cursor's event in the log; -1 before the first. */
export function useCursorIndex(log: RunLog): number {
  const seq = useCursor((cursor) => cursor.seq);
  return seq === null ? log.last : log.indexAt(seq);
}
