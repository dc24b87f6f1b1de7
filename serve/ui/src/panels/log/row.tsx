/** One event of the log. All that agents and models wrote is text here, never markup. */

import { memo } from "react";
import type { Decision } from "../../api/event";
import { moveTo } from "../../cursor/moves";
import { AgentName } from "../../parts/badges";
import type { RunLog } from "../../run/log";
import { isFailure, type Row } from "../../run/row";
import { KIND_NAMES, sentenceOf } from "../../run/sentence";
import { count, milliseconds, offset, percent, short } from "../../run/words";

interface Props {
  log: RunLog;
  place: number;
  decision: Decision | undefined;
  top: number;
  height: number;
  current: boolean;
  future: boolean;
}

export const LogRow = memo(function LogRow({ log, place, decision, top, height, current, future }: Props) {
  const row = log.rows[place];
  if (!row) return null;
  const rejected = decision?.rejected_alternatives ?? [];
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the list around it takes the keys
    // biome-ignore lint/a11y/useFocusableInteractive: the list keeps the focus and names its active row
    <div
      id={`row-${row.seq}`}
      className={`log-row log-${row.kind} ${isFailure(row) ? "log-failed" : ""} ${future ? "log-future" : ""}`}
      role="option"
      aria-selected={current}
      style={{ top, height }}
      onClick={() => moveTo(log, place)}
    >
      <span className="log-time">{offset((row.time - (log.rows[0]?.time ?? 0)) / 1_000)}</span>
      <AgentName name={row.agent} role={row.role} />
      <span className="log-kind">
        <i className={`mark kind-${row.kind}`} aria-hidden="true" />
        {KIND_NAMES[row.kind]}
      </span>
      <span className="log-text" title={row.text}>
        <bdi>{sentenceOf(row, decision)}</bdi>
      </span>
      <span className="log-cost">{costOf(row)}</span>
      {row.kind === "decision" && (
        <span className="log-rejected">
          {rejected.length ? "turned down: " : "no alternative turned down"}
          {rejected.slice(0, 4).map((one, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: the same may be turned down twice
            <bdi key={at}>{short(one, LONGEST_REJECTED)}</bdi>
          ))}
          {rejected.length > 4 && `and ${rejected.length - 4} more`}
        </span>
      )}
    </div>
  );
});

/** Characters. */
const LONGEST_REJECTED = 200;

function costOf(row: Row): string {
  if (row.kind === "decision") return row.confidence ? percent(row.confidence) : "";
  if (row.kind === "model_call") return `${count(row.inputTokens + row.outputTokens)} tok`;
  return row.durationMs ? milliseconds(row.durationMs) : "";
}
