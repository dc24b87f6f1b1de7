/** Dark or light: the system's choice until the person makes another. */

import { create } from "zustand";

export type Theme = "dark" | "light";

const KEY = "enchanted.theme";
const system = matchMedia("(prefers-color-scheme: light)");

interface ThemeStore {
  theme: Theme;
  toggle: () => void;
}

export const useTheme = create<ThemeStore>((set, get) => ({
  theme: initial(),
  toggle: () => {
    const theme = get().theme === "dark" ? "light" : "dark";
    localStorage.setItem(KEY, theme);
    set({ theme });
  },
}));

function initial(): Theme {
  const kept = localStorage.getItem(KEY);
  if (kept === "dark" || kept === "light") return kept;
  return system.matches ? "light" : "dark";
}

const apply = ({ theme }: ThemeStore) => {
  document.documentElement.dataset.theme = theme;
};
apply(useTheme.getState());
useTheme.subscribe(apply);
system.addEventListener("change", () => useTheme.setState({ theme: initial() }));
