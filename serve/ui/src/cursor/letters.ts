/** Whether keys of one character act: who speaks to the computer, or hits keys by chance, turns them off. */

import { create } from "zustand";

const KEY = "enchanted.letters";

interface LettersStore {
  on: boolean;
  toggle: () => void;
}

export const useLetters = create<LettersStore>((set, get) => ({
  on: localStorage.getItem(KEY) !== "off",
  toggle: () => {
    const on = !get().on;
    localStorage.setItem(KEY, on ? "on" : "off");
    set({ on });
  },
}));
