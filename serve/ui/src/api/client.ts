/** Asks the API, with types from its committed description. */

import createClient from "openapi-fetch";
import { problemOf, unreachable } from "./problem";
import type { paths } from "./schema";
import { authorization, NOT_A_TOKEN, useToken } from "./token";

/** The API gives up what takes it 120 s: whoever says nothing for longer is frozen, and a dialog that waits for it stuck. */
const PATIENCE_MILLISECONDS = 150_000;

/** `fetch` with the token; anything but success is thrown as a problem. */
export async function ask(input: string | Request, init?: RequestInit): Promise<Response> {
  return answerTo(new Request(input, init), AbortSignal.timeout(PATIENCE_MILLISECONDS));
}

/** The same for an answer that has no end. */
export const listen = (url: string, init: RequestInit): Promise<Response> => answerTo(new Request(url, init));

async function answerTo(request: Request, ...ends: AbortSignal[]): Promise<Response> {
  const { token } = useToken.getState();
  request.headers.set("Authorization", authorization().Authorization);
  const response = await fetch(request, { signal: AbortSignal.any([request.signal, ...ends]) }).catch(
    (error: unknown) => {
      throw request.signal.aborted ? error : unreachable();
    },
  );
  if (response.ok) return response;
  const problem = await problemOf(response);
  // Another one may have been given meanwhile.
  if (problem.status === 401 && useToken.getState().token === token) useToken.getState().forget(NOT_A_TOKEN);
  throw problem;
}

export const api = createClient<paths>({ baseUrl: location.origin, fetch: ask });

/** The document of an answer; `ask` has thrown already when there is none. */
export async function documentOf<T>(answer: Promise<{ data?: T }>): Promise<T> {
  return (await answer).data as T;
}
