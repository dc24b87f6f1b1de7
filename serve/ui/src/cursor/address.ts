/** The cursor in the address: `?at=SEQ`, so that a link names a moment. */

import { useEffect } from "react";
import { useCursor } from "./store";

/** Browsers refuse more than a hundred changes of the address in ten seconds or so. */
const SETTLE_MILLISECONDS = 200;

export function useCursorInAddress(run: string): void {
  // biome-ignore lint/correctness/useExhaustiveDependencies: another run begins with its own address
  useEffect(() => {
    read();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const forget = () => {
      clearTimeout(timer);
      timer = undefined;
    };
    const settle = () => {
      if (timer === undefined) return;
      forget();
      write(useCursor.getState().seq);
    };
    const stop = useCursor.subscribe(() => {
      forget();
      timer = setTimeout(settle, SETTLE_MILLISECONDS);
    });
    // Once a link was followed, the address is that of another page.
    addEventListener("click", settle, { capture: true });
    addEventListener("pagehide", settle);
    addEventListener("popstate", read);
    return () => {
      forget();
      stop();
      removeEventListener("click", settle, { capture: true });
      removeEventListener("pagehide", settle);
      removeEventListener("popstate", read);
      useCursor.setState({ seq: null, eventId: "", expected: 0, playing: false });
    };
  }, [run]);
}

/** The address of a moment of a run, with a file of its main workspace open where one is named. */
export const linkTo = (run: string, seq: number, file = ""): string =>
  `/runs/${encodeURIComponent(run)}?at=${seq}${file && `&file=${encodeURIComponent(file)}`}`;

/** The address of what is looked at now, at a moment of it. */
export function linkToHere(seq: number): string {
  const url = new URL(location.href);
  url.searchParams.set("at", String(seq));
  return url.href;
}

export const linkToCompare = (a: string, b: string): string =>
  `/compare/${encodeURIComponent(a)}/${encodeURIComponent(b)}`;

/** A part of the page that is open says so in the address, as `?name=1`. */
export const isOpenInAddress = (name: string): boolean => new URLSearchParams(location.search).has(name);

export const keepOpenInAddress = (name: string, open: boolean): void => change(name, open ? "1" : null);

export const fileInAddress = (): string | null => new URLSearchParams(location.search).get("file");

export const keepFileInAddress = (file: string | null): void => change("file", file);

/** The workspace whose files are meant where no other is named. */
const MAIN = "main";

export const workspaceInAddress = (): string => new URLSearchParams(location.search).get("workspace") || MAIN;

export const keepWorkspaceInAddress = (workspace: string): void =>
  change("workspace", workspace === MAIN ? null : workspace);

function read(): void {
  const text = new URLSearchParams(location.search).get("at") ?? "";
  useCursor.setState({ seq: /^\d{1,18}$/.test(text) ? Number(text) : null, eventId: "", playing: false });
}

const write = (seq: number | null): void => change("at", seq === null ? null : String(seq));

function change(name: string, value: string | null): void {
  const url = new URL(location.href);
  if (value === null) url.searchParams.delete(name);
  else url.searchParams.set(name, value);
  if (url.href !== location.href) history.replaceState(history.state, "", url);
}
