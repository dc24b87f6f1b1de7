/** How far events are between the stream and the table, as a panel of the cluster page. */

import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { type Pipeline, pipelineQuery } from "../api/queries";
import { Failure, Loading } from "../parts/notes";
import { Panel } from "../parts/panel";
import { bytes, count, moment, percent, seconds } from "../run/words";

export function PipelinePanel() {
  const { data, error, isPending, refetch } = useQuery(pipelineQuery);
  return (
    <Panel name="pipeline" title="From the stream into the table">
      {error && <Failure error={error} retry={refetch} />}
      {isPending && <Loading what="the pipeline" />}
      {data && <Progress pipeline={data} />}
    </Panel>
  );
}

function Progress({
  pipeline: { stream, ingest, table, spans, dead_letters, reconciliation },
}: {
  pipeline: Pipeline;
}) {
  return (
    <>
      <dl className="totals">
        <Figure name="Events behind">{count(ingest.pending + ingest.ack_pending)}</Figure>
        <Figure name="Seconds behind">{seconds(ingest.lag_seconds)}</Figure>
        <Figure name="Events in the table">{count(table.rows - table.duplicates)}</Figure>
        <Figure name="Spans behind">{seconds(spans.ingest.lag_seconds)}</Figure>
        <Figure name="Stream">
          {bytes(stream.bytes)} {stream.max_bytes > 0 && `(${percent(stream.bytes / stream.max_bytes)})`}
        </Figure>
        <Figure name="Dead letters">{count(dead_letters)}</Figure>
        <Figure name="Reconciliation">{reconciliation ? soundness(reconciliation) : "unknown"}</Figure>
      </dl>
      <ul className="pipeline-notes">
        {!ingest.connected && (
          <li role="alert">
            No ingest has been here, so nothing reaches the table. <code>enchanted status</code> says what runs.
          </li>
        )}
        {dead_letters > 0 && (
          <li>
            Dead letters are messages nobody can read: <code>enchanted dead-letters list</code> shows them.
          </li>
        )}
        <li className="dim">
          {reconciliation
            ? `Stream and table were last held against each other ${whenOf(reconciliation)}.`
            : "Unknown: stream and table were not held against each other yet, or no ingest actor answers."}{" "}
          <code>enchanted reconcile</code> does it now.
        </li>
      </ul>
    </>
  );
}

function Figure({ name, children }: { name: string; children: ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

type Report = NonNullable<Pipeline["reconciliation"]>;

const soundness = (report: Report) => (report.sound === true ? "sound" : "not sound");

const whenOf = ({ at }: Report) =>
  typeof at === "string" && !Number.isNaN(Date.parse(at)) ? `on ${moment(at)}` : "at an unknown time";
