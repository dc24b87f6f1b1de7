/** Asks the API, with types from its committed description. */

import createClient from "openapi-fetch";
import { problemOf, unreachable } from "./problem";
import type { paths } from "./schema";
import { authorization, NOT_A_TOKEN, useToken } from "./token";

/** `fetch` with the token; anything but success is thrown as a problem. */
export async function ask(input: string | Request, init?: RequestInit): Promise<Response> {
  const request = new Request(input, init);
  request.headers.set("Authorization", authorization().Authorization);
  const response = await fetch(request).catch((error: unknown) => {
    throw request.signal.aborted ? error : unreachable();
  });
  if (response.ok) return response;
  const problem = await problemOf(response);
  if (problem.status === 401) useToken.getState().forget(NOT_A_TOKEN);
  throw problem;
}

export const api = createClient<paths>({ baseUrl: location.origin, fetch: ask });

/** The document of an answer; `ask` has thrown already when there is none. */
export async function documentOf<T>(answer: Promise<{ data?: T }>): Promise<T> {
  return (await answer).data as T;
}
