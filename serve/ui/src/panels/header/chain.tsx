/** Whether the run's hash chains hold, and where one breaks. */

import { useQuery } from "@tanstack/react-query";
import { type Run, type Verdict, verdictQuery } from "../../api/queries";
import { useCursor } from "../../cursor/store";
import { count } from "../../run/words";

export function ChainBadge({ run, loaded }: { run: Run; loaded: boolean }) {
  // An open run is checked once it is looked at; only its close makes the verdict whole. It takes the API as long as
  // everything else together, so it waits until the log is there.
  const asked = verdictQuery(run.run_id, run.closed ? run.last_seq : 0);
  const { data, error } = useQuery({ ...asked, enabled: loaded });
  const goTo = useCursor((cursor) => cursor.goTo);
  if (error) return <span className="badge badge-dull">chain not checked</span>;
  if (!data) return <span className="badge badge-dull">checking the chain …</span>;
  const fault = data.first_bad ?? data.missing[0] ?? strayed(data);
  if (!fault) {
    const found = data.closed ? "intact and complete" : "intact so far";
    return (
      <span className="badge badge-good" title={`${count(data.checked)} events checked: ${found}`}>
        <span aria-hidden="true">✓</span> chain {data.closed ? "verified" : "intact so far"}
      </span>
    );
  }
  const where = fault.seq ? `at ${fault.seq}` : `before ${fault.agent_seq}`;
  return (
    <button type="button" className="badge badge-bad" title={fault.why} onClick={() => fault.seq && goTo(fault.seq)}>
      <span aria-hidden="true">!</span> {brokenIn(data)} {where}
    </button>
  );
}

/** What the table and the stream do not have both. */
function strayed({ stream }: Verdict): { seq: number; agent_seq: number; why: string } | undefined {
  const [seq] = [...stream.only_in_stream, ...stream.only_in_table];
  if (seq === undefined) return undefined;
  const why = stream.only_in_stream.length ? "the table lacks it" : "the stream never had it";
  return { seq, agent_seq: 0, why };
}

const brokenIn = (verdict: Verdict) => (verdict.intact ? "event missing" : "chain broken");
