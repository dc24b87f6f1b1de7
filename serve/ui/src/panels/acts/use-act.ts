/** Doing something once. */

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useRef } from "react";

/** An act on its way, done or refused; while it is on its way, to ask for it again does nothing. */
export function useAct<Asked, Done>(act: (asked: Asked) => Promise<Done>) {
  const queries = useQueryClient();
  // The second half of a double click comes before anything is drawn anew.
  const onItsWay = useRef(false);
  const { mutate, data, error, isPending } = useMutation<Done, Error, Asked>({
    networkMode: "always",
    mutationFn: act,
    onSettled: () => {
      onItsWay.current = false;
      void queries.invalidateQueries({ queryKey: ["runs"] });
      void queries.invalidateQueries({ queryKey: ["run"] });
    },
  });
  const ask = (asked: Asked) => {
    if (onItsWay.current) return;
    onItsWay.current = true;
    mutate(asked);
  };
  return { ask, done: data, error, busy: isPending };
}

/** An Idempotency-Key for a body: the same one while the body is the same. */
export function useKey(): (body: unknown) => string {
  const last = useRef({ text: "", key: "" });
  return (body) => {
    const text = JSON.stringify(body);
    if (text !== last.current.text) last.current = { text, key: newKey() };
    return last.current.key;
  };
}

/** `crypto.randomUUID` is for secure contexts only, and the page may be opened by a host's name. */
function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
