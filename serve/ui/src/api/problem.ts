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

const codeOf = (error: unknown): string => (error instanceof ApiProblem ? error.code : UNTOLD);

/** The API does not change its mind about it, unless it was only asked too often, or it was not the API who answered. */
export const isRefusal = (error: unknown): boolean =>
  isDamage(error) ||
  (error instanceof ApiProblem &&
    error.status >= 400 &&
    error.status < 500 &&
    error.status !== 429 &&
    error.code !== UNTOLD);

/** What was damaged in the store stays so, though it is told as a failure of the API. */
const isDamage = (error: unknown): boolean => codeOf(error) === "event-corrupted";

/** The stream was made again, and has not come so far. */
export const isAhead = (error: unknown): boolean => codeOf(error) === "sequence-ahead";

export const isUnknownRun = (error: unknown): boolean => codeOf(error) === "run-not-found";

/** The table does not have the event: not yet, if the live stream told of it. */
export const isUnknownEvent = (error: unknown): boolean => codeOf(error) === UNKNOWN_EVENT;

const UNKNOWN_EVENT = "event-not-found";

export const unknownEvent = () => new ApiProblem(404, UNKNOWN_EVENT, "No such event", "nothing is stored there yet");

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
