/** A trace's spans in the order of its tree, with where each lies in time. */

import { type Kind, type SwarmEvent, timeOf } from "../api/event";
import type { Span, Trace } from "../api/queries";
import { type Role, roleOf } from "./row";
import { KIND_NAMES } from "./sentence";

export interface SpanRow {
  span: Span;
  name: string;
  role: Role;
  depth: number;
  /** Of the trace's time, 0 to 1. */
  left: number;
  width: number;
  milliseconds: number;
}

export function spanRows(trace: Trace): SpanRow[] {
  const spans = new Map(trace.spans.map((span) => [span.span_id, span]));
  const times = trace.spans.map(timesOf);
  const begin = times.reduce((least, [start]) => Math.min(least, start), Number.POSITIVE_INFINITY);
  const whole = Math.max(1, times.reduce((most, [, end]) => Math.max(most, end), 0) - begin);
  const rows: SpanRow[] = [];
  // By hand, since a trace may be deeper than a browser's call stack.
  const waiting = trace.roots.map((id) => ({ id, depth: 0 })).reverse();
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const span = spans.get(next.id);
    if (!span) continue;
    rows.push(rowOf(span, next.depth, begin, whole));
    const depth = next.depth + 1;
    waiting.push(...span.children.map((id) => ({ id, depth })).reverse());
  }
  return rows;
}

function rowOf(span: Span, depth: number, begin: number, whole: number): SpanRow {
  const [start, end] = timesOf(span);
  return {
    span,
    depth,
    name: nameOf(span),
    role: roleOf(span.role),
    left: (start - begin) / whole,
    width: Math.max(0.002, (end - start) / whole),
    milliseconds: span.duration_ns ? span.duration_ns / 1e6 : end - start,
  };
}

function nameOf(span: Span): string {
  if (span.name) return span.name;
  if (!span.span_id) return "events outside any span";
  const kinds = new Set(span.events.map((event) => KIND_NAMES[event.kind as Kind] ?? event.kind));
  return `${span.agent_name || "unnamed"}: ${[...kinds].slice(0, 3).join(", ")}`;
}

/** Begin and end, milliseconds since 1970: the exporter's word, else what the events in it say. */
function timesOf(span: Span): [number, number] {
  if (span.stored) return [Date.parse(span.start_time), Date.parse(span.end_time || span.start_time)];
  const times = (span.events as unknown as SwarmEvent[]).map((event) => Date.parse(timeOf(event)));
  return [times.reduce((a, b) => Math.min(a, b), times[0] ?? 0), times.reduce((a, b) => Math.max(a, b), times[0] ?? 0)];
}
