/** Small marks with a meaning of their own; none relies on its colour alone. */

import type { Role } from "../run/row";
import { short } from "../run/words";

const VERDICTS: Record<string, string> = { merged: "good", rejected: "bad", failed: "bad", cancelled: "dull" };
const SIGNS: Record<string, string> = { merged: "✓", rejected: "✕", failed: "!", cancelled: "◌" };

/** Where a run stands: its verdict once it is closed. */
export function RunState({ state, closed }: { state: string; closed: boolean }) {
  const tone = closed ? (VERDICTS[state] ?? "dull") : "live";
  return (
    <span className={`badge badge-${tone}`}>
      <span aria-hidden="true">{closed ? (SIGNS[state] ?? "•") : "●"}</span> {state || "external"}
    </span>
  );
}

/** Characters; a name may have a hundred thousand, and each of many rows shows one. */
const LONGEST_NAME = 200;

export function AgentName({ name, role }: { name: string; role: Role }) {
  return (
    <span className={`agent role-${role || "none"}`}>
      <i aria-hidden="true" />
      {short(name, LONGEST_NAME) || "unnamed"}
    </span>
  );
}
