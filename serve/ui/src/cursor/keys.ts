/** The keyboard: one list, which the help shows too. */

import { useEffect } from "react";
import type { RunLog } from "../run/log";
import { useLetters } from "./letters";
import { moveBy, moveTo, toFailure, togglePlaying, toNextChange, toPreviousChange } from "./moves";
import { useCursor } from "./store";

interface Shortcut {
  keys: string[];
  shown: string;
  does: string;
  act: (log: RunLog) => void;
}

export const SHORTCUTS: Shortcut[] = [
  { keys: [" "], shown: "Space", does: "play or pause", act: togglePlaying },
  { keys: ["ArrowLeft"], shown: "←", does: "one event back", act: (log) => moveBy(log, -1) },
  { keys: ["ArrowRight"], shown: "→", does: "one event on", act: (log) => moveBy(log, 1) },
  { keys: ["PageUp"], shown: "Page up", does: "ten events back", act: (log) => moveBy(log, -10) },
  { keys: ["PageDown"], shown: "Page down", does: "ten events on", act: (log) => moveBy(log, 10) },
  { keys: ["["], shown: "[", does: "previous change of files", act: toPreviousChange },
  { keys: ["]"], shown: "]", does: "next change of files", act: toNextChange },
  { keys: ["e"], shown: "E", does: "next failure, from the end the first", act: (log) => toFailure(log, 1) },
  { keys: ["E"], shown: "Shift E", does: "previous failure", act: (log) => toFailure(log, -1) },
  { keys: ["Home"], shown: "Home", does: "the first event", act: (log) => moveTo(log, 0) },
  {
    keys: ["End", "l", "L"],
    shown: "End or L",
    does: "the end, and follow it",
    act: () => useCursor.getState().follow(),
  },
];

const TYPING = "input, textarea, select, [contenteditable]";
const PRESSED_BY_SPACE = "button, a, summary, [role=option]";

export function useShortcuts(log: RunLog): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.defaultPrevented || isModified(event) || isForOthers(event)) return;
      const key = keyOf(event);
      if (isLetter(key) && !useLetters.getState().on) return;
      const shortcut = SHORTCUTS.find((one) => one.keys.includes(key));
      if (!shortcut) return;
      event.preventDefault();
      shortcut.act(log);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [log]);
}

/** With a key that makes it something else's shortcut; many keyboards write a bracket with AltGr or Option. */
function isModified(event: KeyboardEvent): boolean {
  const writes = /^[[\]]$/.test(event.key) && (event.getModifierState("AltGraph") || !event.ctrlKey);
  return event.metaKey || ((event.ctrlKey || event.altKey) && !writes);
}

/** As if Caps Lock were off. */
function keyOf({ key, shiftKey }: KeyboardEvent): string {
  if (key.length > 1) return key;
  return shiftKey ? key.toUpperCase() : key.toLowerCase();
}

const isLetter = (key: string): boolean => key.length === 1 && key !== " ";

function isForOthers(event: KeyboardEvent): boolean {
  // What lies behind a dialog stays as it is.
  if (document.querySelector("dialog[open]")) return true;
  const target = event.target instanceof Element ? event.target : document.body;
  if (event.key.startsWith("Page") && isInScroller(target)) return true;
  return target.closest(TYPING) !== null || (event.key === " " && target.closest(PRESSED_BY_SPACE) !== null);
}

/** Within what scrolls by itself; the timeline's slider pages through events wherever it is. */
function isInScroller(element: Element | null): boolean {
  if (!element || element === document.body || element.role === "slider") return false;
  const scrolls =
    element.scrollHeight > element.clientHeight && /auto|scroll/.test(getComputedStyle(element).overflowY);
  return scrolls || isInScroller(element.parentElement);
}
