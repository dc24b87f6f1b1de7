/** What the run is about, where it stands, and what it had cost at the cursor. */

import type { Run } from "../../api/queries";
import type { Connection } from "../../api/stream";
import { LONGEST_REASON, taskOf } from "../../pages/runs";
import { RunState } from "../../parts/badges";
import type { RunLog } from "../../run/log";
import { count, percent, seconds, short } from "../../run/words";
import { ChainBadge } from "./chain";
import { CopyLink } from "./copy-link";
import { LivePill } from "./live";
import { ParentLink } from "./parent";
import { SaveAsHtml } from "./save";
import "./header.css";

interface Props {
  run: Run;
  log: RunLog;
  index: number;
  loaded: boolean;
  connection: Connection;
}

export function RunHeader({ run, log, index, loaded, connection }: Props) {
  return (
    <header className="run-header">
      <div className="run-title">
        <h1>{taskOf(run)}</h1>
        <p className="dim">{short(run.reason, LONGEST_REASON)}</p>
      </div>
      <div className="run-marks">
        <RunState state={run.state} closed={run.closed} />
        <ChainBadge run={run} loaded={loaded} />
        <LivePill closed={run.closed} connection={connection} />
        <ParentLink run={run} />
        <SaveAsHtml run={run.run_id} />
        <CopyLink seq={log.rows[index]?.seq} />
      </div>
      <TotalsAtCursor log={log} index={index} />
    </header>
  );
}

function TotalsAtCursor({ log, index }: { log: RunLog; index: number }) {
  const totals = log.totalsAt(index);
  const end = log.totalsAt(log.last);
  return (
    <dl className="totals" aria-label="Up to the cursor">
      <Total name="Elapsed" value={seconds(totals.seconds)} part={totals.seconds / (end.seconds || 1)} />
      <Total name="Events" value={count(totals.events)} part={totals.events / (end.events || 1)} />
      <Total name="Decisions" value={count(totals.decisions)} part={totals.decisions / (end.decisions || 1)} />
      <Total name="Confidence" value={percent(totals.confidence)} part={totals.confidence ?? 0} />
      <Total name="Changes" value={count(totals.changes)} part={totals.changes / (end.changes || 1)} />
      <Total name="Tokens in" value={count(totals.inputTokens)} part={totals.inputTokens / (end.inputTokens || 1)} />
      <Total
        name="Tokens out"
        value={count(totals.outputTokens)}
        part={totals.outputTokens / (end.outputTokens || 1)}
      />
    </dl>
  );
}

function Total({ name, value, part }: { name: string; value: string; part: number }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
      <i className="gauge" aria-hidden="true" style={{ transform: `scaleX(${Math.min(1, part)})` }} />
    </div>
  );
}
