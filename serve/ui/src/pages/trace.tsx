/** One OpenTelemetry trace: its spans as a tree and a waterfall, with the events that were published in each. */

import { useQuery } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useMemo, useRef, useState } from "react";
import { Link } from "wouter";
import type { SwarmEvent } from "../api/event";
import { type Span, type Trace, traceQuery } from "../api/queries";
import { linkTo } from "../cursor/address";
import { AgentName } from "../parts/badges";
import { Empty, Failure, Loading } from "../parts/notes";
import { Panel } from "../parts/panel";
import { Shell } from "../parts/shell";
import { rowOfEvent } from "../run/row";
import { KIND_NAMES, sentenceOf } from "../run/sentence";
import { type SpanRow, spanRows } from "../run/spans";
import { count, milliseconds } from "../run/words";
import "./trace.css";

const GROWING_REFRESH = 5_000;
/** Agents that think for longer between two spans are rare, and one can load the page anew. */
const RESTS_AFTER = 120_000;

/** A trace that is not there is one that nobody has written yet. */
const isGrowing = (trace: Trace | undefined) =>
  !trace || Date.now() - Date.parse(trace.spans.reduce(lastOf, "")) < RESTS_AFTER;

const lastOf = (last: string, { end_time, ended_at }: Span) =>
  [last, end_time ?? "", ended_at].reduce((a, b) => (a > b ? a : b));

export function TracePage({ trace }: { trace: string }) {
  const { data, error, isPending, refetch } = useQuery({
    ...traceQuery(trace),
    refetchInterval: ({ state }) => (isGrowing(state.data) ? GROWING_REFRESH : false),
  });
  useEffect(() => {
    document.title = `Trace ${trace.slice(0, 8)} · Enchanted`;
  }, [trace]);
  return (
    <Shell crumbs={[{ text: "Runs", to: "/" }, { text: `trace ${trace}` }]}>
      <main className="mission">
        <h1 className="unseen">Trace {trace}</h1>
        {error && <Failure error={error} retry={refetch} />}
        {isPending && <Loading what="the trace" />}
        {data && <Spans trace={data} />}
      </main>
    </Shell>
  );
}

function Spans({ trace }: { trace: Trace }) {
  const rows = useMemo(() => spanRows(trace), [trace]);
  const [selected, setSelected] = useState(() => new URLSearchParams(location.search).get("span") ?? "");
  const open = rows.find((row) => row.span.span_id === selected) ?? rows[0];
  const select = (spanId: string) => {
    setSelected(spanId);
    history.replaceState(history.state, "", `${location.pathname}?span=${encodeURIComponent(spanId)}`);
  };
  const { events, stored_spans, truncated, spans_truncated } = trace.meta;
  const tools = (
    <span className="dim">
      {count(stored_spans)} spans · {count(events)} events{truncated || spans_truncated ? ", there are more" : ""}
    </span>
  );
  return (
    <div className="trace-columns">
      <Panel name="spans" title="Spans" tools={tools}>
        {stored_spans === 0 && (
          <p className="note">
            No span was exported yet; this is what the events tell. Spans come a few seconds after their end.
          </p>
        )}
        <Waterfall rows={rows} selected={open?.span.span_id ?? ""} onSelect={select} />
      </Panel>
      {open && <SpanPanel row={open} />}
    </div>
  );
}

const ROW_HEIGHT = 28;

function Waterfall({
  rows,
  selected,
  onSelect,
}: {
  rows: SpanRow[];
  selected: string;
  onSelect: (spanId: string) => void;
}) {
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_HEIGHT,
    overscan: 12,
  });
  // A link into the page, from Jaeger for one, may name a span far down.
  const place = rows.findIndex((row) => row.span.span_id === selected);
  const room = virtual.scrollRect?.height ?? 0;
  useEffect(() => {
    if (place >= 0 && room > 0) virtual.scrollToIndex(place, { align: "auto" });
  }, [place, room, virtual]);
  return (
    <div ref={scroller} className="waterfall">
      <ul style={{ height: virtual.getTotalSize() }}>
        {virtual.getVirtualItems().map((item) => {
          const row = rows[item.index] as SpanRow;
          const { span_id: id, status } = row.span;
          return (
            <li key={id || "no span"} style={{ transform: `translateY(${item.start}px)` }}>
              <button
                type="button"
                aria-pressed={id === selected}
                onClick={() => onSelect(id)}
                className={status === "Error" ? "span-failed" : ""}
              >
                <span className="span-name" style={{ paddingLeft: `${Math.min(row.depth, 12) * 14}px` }}>
                  {row.name}
                </span>
                <span className="span-bar-room" aria-hidden="true">
                  <i
                    className={`span-bar role-${row.role || "none"}`}
                    style={{ left: `${row.left * 100}%`, width: `${row.width * 100}%` }}
                  />
                </span>
                <span className="number">{milliseconds(row.milliseconds)}</span>
                <span className="number dim">{row.span.events.length || ""}</span>
              </button>
            </li>
          );
        })}
      </ul>
    </div>
  );
}

function SpanPanel({ row }: { row: SpanRow }) {
  const { span } = row;
  const facts = Object.entries(span.attributes ?? {});
  return (
    <Panel name="span" title={row.name} tools={<AgentName name={span.agent_name} role={row.role} />}>
      <div className="span-detail">
        {span.status_message && <p role="alert">{span.status_message}</p>}
        <h3>Events</h3>
        {!span.events.length && <Empty title="No event was published in this span" />}
        {(span.events as unknown as SwarmEvent[]).slice(0, MOST_EVENTS).map((event) => (
          <SpanEvent key={event.seq} event={event} />
        ))}
        {span.events.length > MOST_EVENTS && <p className="dim">and {count(span.events.length - MOST_EVENTS)} more</p>}
        {facts.length > 0 && <h3>Attributes</h3>}
        <dl className="facts-list">
          {facts.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{String(value).slice(0, ATTRIBUTE_CHARACTERS)}</dd>
            </div>
          ))}
        </dl>
      </div>
    </Panel>
  );
}

/** Written out once it is looked at: two hundred of them may have megabytes. */
function SpanEvent({ event }: { event: SwarmEvent }) {
  const [open, setOpen] = useState(false);
  // The table names a run that its producer did not by the trace.
  const run = event.run_id || event.trace_id;
  return (
    <div className="span-event">
      <details onToggle={(toggled) => setOpen(toggled.currentTarget.open)}>
        <summary>
          <i className={`mark kind-${event.kind}`} aria-hidden="true" />
          <span className="log-kind">{KIND_NAMES[event.kind]}</span>
          <bdi>{sentenceOf(rowOfEvent(event), event.decision)}</bdi>
        </summary>
        {open && <pre>{JSON.stringify(event, null, 1).slice(0, RAW_CHARACTERS)}</pre>}
      </details>
      {run && <Link to={linkTo(run, event.seq)}>seq {event.seq}</Link>}
    </div>
  );
}

const MOST_EVENTS = 200;
const RAW_CHARACTERS = 50_000;
const ATTRIBUTE_CHARACTERS = 4_000;
