/** The event at the cursor, whole. */

import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { memo, useState } from "react";
import { Link } from "wouter";
import { type SwarmEvent, timeOf } from "../../api/event";
import { isUnknownEvent } from "../../api/problem";
import { eventQuery, MOST_LOOKS } from "../../api/queries";
import { useCursor } from "../../cursor/store";
import { AgentName } from "../../parts/badges";
import { Failure, Loading } from "../../parts/notes";
import { Panel } from "../../parts/panel";
import { nameOf, type RunLog } from "../../run/log";
import { type Row, roleOf } from "../../run/row";
import { KIND_NAMES } from "../../run/sentence";
import { useSettled } from "../../run/settled";
import { moment } from "../../run/words";
import { Payload } from "./payload";
import { LongText } from "./text";
import "./event.css";

interface Props {
  run: string;
  log: RunLog;
  index: number;
}

const SETTLE_MILLISECONDS = 120;

export const EventPanel = memo(function EventPanel({ run, log, index }: Props) {
  const row = log.rows[index];
  const settled = useSettled(row, SETTLE_MILLISECONDS);
  // What was too large for an event is put back by the API alone.
  const streamed = log.streamed(row);
  const whole = streamed?.blobs ? undefined : streamed;
  const asked = useQuery({
    ...eventQuery(run, settled?.eventId ?? "", settled?.seq ?? 0),
    enabled: settled !== undefined && settled === row && !whole,
    placeholderData: keepPreviousData,
  });
  const data = whole ?? asked.data;
  const early = streamed && isUnknownEvent(asked.error) && asked.errorUpdateCount < MOST_LOOKS;
  const error = whole || early ? null : asked.error;
  const tools = data && <span className="dim">{KIND_NAMES[data.kind]}</span>;
  return (
    <Panel name="event" title="At the cursor" tools={tools}>
      <div className="event" data-seq={row?.seq} aria-busy={!isOf(data, row)}>
        {error && <Failure error={error} retry={asked.refetch} />}
        {!data && !error && <Loading what="the event" />}
        {data && row && (
          <>
            <p className="event-head">
              <AgentName name={data.agent_name ?? ""} role={roleOf(data.agent_role)} />
              <time dateTime={timeOf(data)}>{moment(timeOf(data))}</time>
              {data.task_id && <span className="tag">{data.task_id}</span>}
            </p>
            {data.corrupted && (
              <p role="alert">The stored bytes are not the published ones: what is shown may be wrong.</p>
            )}
            <Payload event={data} />
            <Links event={data} log={log} />
          </>
        )}
      </div>
    </Panel>
  );
});

const isOf = (event: SwarmEvent | undefined, row: Row | undefined): boolean =>
  event !== undefined && row !== undefined && nameOf(event.event_id, event.seq) === nameOf(row.eventId, row.seq);

function Links({ event, log }: { event: SwarmEvent; log: RunLog }) {
  const goTo = useCursor((cursor) => cursor.goTo);
  const cause = log.rowOf(event.parent_event_id);
  return (
    <footer className="event-links">
      {cause && (
        <button type="button" className="quiet" onClick={() => goTo(cause.seq, cause.eventId)}>
          Its cause
        </button>
      )}
      {event.trace_id && <Link to={linkToSpan(event)}>Its span</Link>}
      <Everything event={event} />
    </footer>
  );
}

/** A foreign producer's ids may be any text. */
const linkToSpan = ({ trace_id = "", span_id = "" }: SwarmEvent) =>
  `/traces/${encodeURIComponent(trace_id)}?span=${encodeURIComponent(span_id)}`;

/** Written out once it is looked at: an event may have megabytes. */
function Everything({ event }: { event: SwarmEvent }) {
  const [open, setOpen] = useState(false);
  return (
    <details onToggle={(toggled) => setOpen(toggled.currentTarget.open)}>
      <summary>Everything it holds</summary>
      {open && <LongText title="" text={JSON.stringify(event, null, 1)} />}
    </details>
  );
}
