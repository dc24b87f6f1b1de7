/** What the page holds of a run: its rows in stream order, and sums up to each of them. */

import type { SwarmEvent } from "../api/event";
import { isFailure, type Role, type Row, rowOfEvent } from "./row";

export interface Agent {
  name: string;
  role: Role;
}

export interface Totals {
  events: number;
  decisions: number;
  changes: number;
  inputTokens: number;
  outputTokens: number;
  /** Mean over the decisions that named one; undefined where none did. */
  confidence: number | undefined;
  /** Since the run's first event. */
  seconds: number;
}

/** Work that went from one agent to another: the places of the event that caused it, and of the first one it led to. */
export interface Handoff {
  from: number;
  to: number;
}

interface Sums {
  decisions: number;
  confident: number;
  confidence: number;
  changes: number;
  inputTokens: number;
  outputTokens: number;
}

/** More than come in until the table has them, and few enough to be held whole. */
const RECENT = 2_000;

/** Lanes that a person can look over; who spoke first later than their agents shares one more. */
const MOST_LANES = 60;

const NOTHING: Sums = { decisions: 0, confident: 0, confidence: 0, changes: 0, inputTokens: 0, outputTokens: 0 };

export class RunLog {
  readonly rows: Row[] = [];
  /** In the order they first spoke. */
  readonly agents: Agent[] = [];
  /** Places of the state changes among the rows. */
  readonly changes: number[] = [];
  /** Places of what went wrong. */
  readonly failures: number[] = [];
  /** In the order in which they were taken up. */
  readonly handoffs: Handoff[] = [];
  /** Grows with every change. */
  version = 0;

  /** The newest events of the live stream, whole: the table may not have them yet. */
  private readonly recent = new Map<string, SwarmEvent>();
  private readonly sums: Sums[] = [];
  private readonly order = new Map<string, number>();
  private readonly places = new Map<string, number>();
  /** Who took up what: an agent that acts ten times on one event was handed it once, but for each task of a plan. */
  private readonly taken = new Set<string>();
  private readonly listeners = new Set<() => void>();

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly getVersion = (): number => this.version;

  get last(): number {
    return this.rows.length - 1;
  }

  /** Sequence of the last row; 0 before the first. */
  get lastSeq(): number {
    return this.rows.at(-1)?.seq ?? 0;
  }

  /** Whose lanes the timeline has; more agents share one below. */
  get ownLanes(): readonly Agent[] {
    return this.agents.slice(0, MOST_LANES);
  }

  get lanes(): number {
    return Math.min(this.agents.length, MOST_LANES + 1);
  }

  laneOf(row: Row): number {
    return Math.min(this.order.get(row.agent) ?? 0, MOST_LANES);
  }

  /** The row of an event, if the page has it. */
  rowOf(eventId: string | undefined): Row | undefined {
    return this.rows[this.places.get(eventId ?? "") ?? -1];
  }

  /** The event of a row, whole, if the live stream brought it lately. */
  streamed(row: Row | undefined): SwarmEvent | undefined {
    return row && this.recent.get(nameOf(row.eventId, row.seq));
  }

  /** Take in rows; those that are here already are passed over, and so are later copies of them. */
  append(rows: readonly Row[]): void {
    const fresh = this.fresh(rows);
    const [first] = fresh;
    if (!first) return;
    // Several workers fill the table: a row may come behind later ones.
    const kept = this.indexAt(first.seq) + 1;
    const tail = this.rows.splice(kept);
    const merged = tail.length ? [...tail, ...fresh].sort(bySeq) : fresh;
    this.sums.length = kept;
    for (const places of [this.changes, this.failures]) while ((places.at(-1) ?? -1) >= kept) places.pop();
    this.forgetHandoffs(kept, tail);
    for (const row of merged) this.push(row);
    this.version += 1;
    for (const listener of this.listeners) listener();
  }

  appendEvents(events: readonly SwarmEvent[]): void {
    for (const event of events) this.keep(event);
    for (const name of this.recent.keys()) {
      if (this.recent.size <= RECENT) break;
      this.recent.delete(name);
    }
    this.append(events.map(rowOfEvent));
  }

  /** Place of the last row up to a sequence; -1 before the first. */
  indexAt(seq: number): number {
    return lastUpTo(this.rows.length, (place) => (this.rows[place] as Row).seq <= seq);
  }

  /** Place of an event that has a sequence, or of the last row up to that: two streams may have used it. */
  placeOf(seq: number, eventId: string): number {
    const place = this.places.get(eventId) ?? -1;
    return this.rows[place]?.seq === seq ? place : this.indexAt(seq);
  }

  /** Place of the last state change up to a row; -1 before the first. */
  changeAt(index: number): number {
    return this.changes[upTo(this.changes, index)] ?? -1;
  }

  /** Place of the first state change after a row; -1 behind the last. */
  changeAfter(index: number): number {
    return this.changes[upTo(this.changes, index) + 1] ?? -1;
  }

  /** Place of the failure so many after a row, before it where negative; around the ends, and -1 where there is none. */
  failureFrom(index: number, steps: 1 | -1): number {
    const before = upTo(this.failures, steps > 0 ? index : index - 1);
    return this.failures.at((before + (steps > 0 ? 1 : 0)) % Math.max(1, this.failures.length)) ?? -1;
  }

  /** How many hand-offs come up to a row. */
  handoffsAt(index: number): number {
    return lastUpTo(this.handoffs.length, (at) => (this.handoffs[at] as Handoff).to <= index) + 1;
  }

  totalsAt(index: number): Totals {
    const { confidence, confident, ...rest } = this.sums[index] ?? NOTHING;
    const seconds = ((this.rows[index]?.time ?? 0) - (this.rows[0]?.time ?? 0)) / 1_000;
    return {
      ...rest,
      events: index + 1,
      confidence: confident ? confidence / confident : undefined,
      seconds: Math.max(0, index < 0 ? 0 : seconds),
    };
  }

  /** How many decisions come up to a row, itself included. */
  decisionsAt(index: number): number {
    return this.sums[index]?.decisions ?? 0;
  }

  private keep(event: SwarmEvent): void {
    const name = nameOf(event.event_id, event.seq);
    const known = this.recent.get(name);
    // The row is the first one's, and a later copy has another sequence.
    if (!known || event.seq === known.seq) this.recent.set(name, event);
  }

  private fresh(rows: readonly Row[]): Row[] {
    const told = new Set<string>();
    const isNew = (row: Row) => {
      const name = nameOf(row.eventId, row.seq);
      const isKnown = told.has(name) || this.has(row);
      told.add(name);
      return !isKnown;
    };
    // A stream that was made again begins with small sequences.
    return rows.filter(isNew).sort(bySeq);
  }

  /** A sequence names no event: a stream that was made again counts from one. */
  private has({ eventId, seq }: Row): boolean {
    return eventId ? this.places.has(eventId) : this.rows[this.indexAt(seq)]?.seq === seq;
  }

  private push(row: Row): void {
    const before = this.sums.at(-1) ?? NOTHING;
    const decision = row.kind === "decision" ? 1 : 0;
    const confident = decision && row.confidence > 0 ? 1 : 0;
    this.sums.push({
      decisions: before.decisions + decision,
      confident: before.confident + confident,
      confidence: before.confidence + (confident ? row.confidence : 0),
      changes: before.changes + (row.kind === "state_change" ? 1 : 0),
      inputTokens: before.inputTokens + row.inputTokens,
      outputTokens: before.outputTokens + row.outputTokens,
    });
    if (row.kind === "state_change") this.changes.push(this.rows.length);
    if (isFailure(row)) this.failures.push(this.rows.length);
    if (!this.order.has(row.agent)) {
      this.order.set(row.agent, this.agents.length);
      this.agents.push({ name: row.agent, role: row.role });
    }
    this.takeUp(row);
    this.rows.push(row);
    if (row.eventId) this.places.set(row.eventId, this.rows.length - 1);
  }

  private takeUp(row: Row): void {
    const from = this.places.get(row.parent);
    // A cause comes before what it leads to, whatever an event says of itself.
    if (from === undefined || from >= this.rows.length || this.rows[from]?.agent === row.agent) return;
    if (this.taken.has(takenBy(row))) return;
    this.taken.add(takenBy(row));
    this.handoffs.push({ from, to: this.rows.length });
  }

  /** Rows from a place on are taken in anew. */
  private forgetHandoffs(kept: number, tail: readonly Row[]): void {
    while ((this.handoffs.at(-1)?.to ?? -1) >= kept) {
      const { to } = this.handoffs.pop() as Handoff;
      this.taken.delete(takenBy(tail[to - kept] as Row));
    }
  }
}

const bySeq = (a: Row, b: Row) => a.seq - b.seq;

/** A foreign producer may give its events no id. */
export const nameOf = (eventId: string, seq: number): string => eventId || `seq ${seq}`;

const takenBy = (row: Row) => `${row.parent} ${row.agent} ${row.taskId}`;

/** Which of ascending places is the last up to one; -1 for none. */
const upTo = (places: readonly number[], place: number): number =>
  lastUpTo(places.length, (at) => (places[at] ?? 0) <= place);

/** The last of `count` places that holds, where all that hold come first; -1 for none. */
function lastUpTo(count: number, holds: (place: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
