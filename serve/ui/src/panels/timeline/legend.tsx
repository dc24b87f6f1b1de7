/** What the marks of the lanes mean. */

import { KIND_NAMES, KINDS } from "../../run/sentence";

export function Legend() {
  return (
    <ul className="legend" aria-label="Marks">
      {KINDS.filter((kind) => kind !== "unknown").map((kind) => (
        <li key={kind}>
          <i className={`mark kind-${kind}`} aria-hidden="true" />
          {KIND_NAMES[kind]}
        </li>
      ))}
      <li>
        <span className="legend-arrow" aria-hidden="true">
          ↴
        </span>
        hand-off
      </li>
    </ul>
  );
}
