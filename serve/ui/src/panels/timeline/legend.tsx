/** What the marks of the lanes mean. */

import { memo } from "react";
import { KIND_NAMES, KINDS } from "../../run/sentence";

export const Legend = memo(function Legend() {
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
});
