/** Whether anybody can see the page. */

import { useSyncExternalStore } from "react";

export const useVisible = (): boolean => useSyncExternalStore(subscribe, () => document.visibilityState === "visible");

function subscribe(changed: () => void): () => void {
  document.addEventListener("visibilitychange", changed);
  return () => document.removeEventListener("visibilitychange", changed);
}
