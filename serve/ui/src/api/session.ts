/** A link may carry a one-time code in the place of the token: `enchanted open` prints such links. */

import { problemOf, unreachable } from "./problem";
import { useToken } from "./token";

/** A page that waits for an API that never answers would stay empty. */
const PATIENCE_MILLISECONDS = 10_000;
const CODE = /^#code=([0-9a-f]+)$/;

/** Exchanges the code in the address, if there is one, for the token. */
export async function redeem(): Promise<void> {
  const code = CODE.exec(location.hash)?.[1];
  if (!code) return;
  // It is of no more use: neither in the history nor in a copied address.
  history.replaceState(history.state, "", location.pathname + location.search);
  try {
    useToken.getState().accept(await tokenFor(code));
  } catch (problem) {
    if (!useToken.getState().token) useToken.getState().forget(String((problem as Error).message));
  }
}

async function tokenFor(code: string): Promise<string> {
  const response = await fetch("/api/v1/sessions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code }),
    signal: AbortSignal.timeout(PATIENCE_MILLISECONDS),
  }).catch(() => {
    throw unreachable();
  });
  if (!response.ok) throw await problemOf(response);
  return ((await response.json()) as { token: string }).token;
}
