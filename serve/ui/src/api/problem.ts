/** What the API says when it does not do what it was asked for (RFC 9457). */

export class ApiProblem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly title: string,
    detail: string,
    /** Paths that later work changed too, where an undo is refused for that. */
    readonly conflicts: readonly string[] = [],
  ) {
    super(detail);
  }
}

const UNTOLD = "unknown";

/** The API does not change its mind about it, unless it was only asked too often, or it was not the API who answered. */
export const isRefusal = (error: unknown): boolean =>
  error instanceof ApiProblem &&
  error.status >= 400 &&
  error.status < 500 &&
  error.status !== 429 &&
  error.code !== UNTOLD;

/** The table does not have the event: not yet, if the live stream told of it. */
export const isUnknownEvent = (error: unknown): boolean =>
  error instanceof ApiProblem && error.code === "event-not-found";

export async function problemOf(response: Response): Promise<ApiProblem> {
  const document: unknown = await response.json().catch(() => null);
  const told = (document ?? {}) as { code?: string; title?: string; detail?: string; conflicts?: string[] };
  return new ApiProblem(
    response.status,
    String(told.code ?? UNTOLD),
    String(told.title ?? `HTTP ${response.status}`),
    String(told.detail ?? "the API gave no reason"),
    told.conflicts,
  );
}

/** No answer at all. */
export const unreachable = () =>
  new ApiProblem(
    0,
    "unreachable",
    "The API does not answer",
    "`enchanted status` shows the services, `enchanted up` starts them",
  );
