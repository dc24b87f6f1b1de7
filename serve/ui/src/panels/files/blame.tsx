/** Who wrote each line, and on which decision: lines of one change stand under it. A megabyte of them is a few dozen rows. */

import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useMemo, useRef } from "react";
import { Link } from "wouter";
import { type Blame, blameQuery, type FileAt } from "../../api/queries";
import { linkTo } from "../../cursor/address";
import { useCursor } from "../../cursor/store";
import { AgentName } from "../../parts/badges";
import { Failure, Loading } from "../../parts/notes";
import { type Decided, useDecisions } from "../../run/decisions";
import type { RunLog } from "../../run/log";
import { sentenceOf } from "../../run/sentence";

type Line = Blame["lines"][number];
/** A line of the file, or what the lines after it come from. */
type Entry = { line: Line; heads: boolean };

const HEAD_HEIGHT = 28;
const LINE_HEIGHT = 20;
/** Of one line; a page of them stays quick whatever a file holds. */
const CHARACTERS = 2_000;

export function BlamedText({ asked, log }: { asked: FileAt; log: RunLog }) {
  const { data, error, refetch } = useQuery({ ...blameQuery(asked), placeholderData: keepPreviousData });
  if (error) return <Failure error={error} retry={refetch} />;
  if (!data) return <Loading what="who wrote the lines" />;
  return <BlamedLines asked={asked} log={log} lines={data.lines} />;
}

function BlamedLines({ asked, log, lines }: { asked: FileAt; log: RunLog; lines: readonly Line[] }) {
  const scroller = useRef<HTMLDivElement>(null);
  const entries = useMemo(() => entriesOf(lines), [lines]);
  const virtual = useVirtualizer({
    count: entries.length,
    getScrollElement: () => scroller.current,
    estimateSize: (at) => (entries[at]?.heads ? HEAD_HEIGHT : LINE_HEIGHT),
    overscan: 12,
  });
  const items = virtual.getVirtualItems();
  const places = items.flatMap(({ index }) => {
    const entry = entries[index];
    const decided = entry?.heads && log.rowOf(entry.line.decision_id);
    return decided ? [log.placeOf(decided.seq, decided.eventId)] : [];
  });
  const decided = useDecisions(asked.run, log, places);
  return (
    <div ref={scroller} className="blame">
      <ol style={{ height: virtual.getTotalSize() }}>
        {items.map((item) => {
          const entry = entries[item.index] as Entry;
          const { line, text } = entry.line;
          return (
            <li key={item.key} style={{ transform: `translateY(${item.start}px)`, height: item.size }}>
              {entry.heads ? (
                <Origin asked={asked} log={log} line={entry.line} decided={decided} />
              ) : (
                <>
                  <span className="blame-number">{line}</span>
                  <pre dir="auto">{text.slice(0, CHARACTERS)}</pre>
                </>
              )}
            </li>
          );
        })}
      </ol>
    </div>
  );
}

interface OriginProps {
  asked: FileAt;
  log: RunLog;
  line: Line;
  decided: Decided;
}

/** Leads to the decision, and to the change that carried it out. */
function Origin({ asked, log, line, decided }: OriginProps) {
  const goTo = useCursor((cursor) => cursor.goTo);
  const change = log.rowOf(line.event_id);
  const decision = log.rowOf(line.decision_id);
  const said = decision ?? change;
  return (
    <p className="blame-origin">
      <AgentName name={line.agent_name || line.agent_id} role={change?.role ?? ""} />
      {said && (
        <button type="button" className="quiet" title={said.text} onClick={() => goTo(said.seq, said.eventId)}>
          <bdi>{sentenceOf(said, decided(said))}</bdi> <span className="dim">seq {said.seq}</span>
        </button>
      )}
      {decision && (
        <button type="button" className="quiet blame-change" onClick={() => goTo(line.seq, line.event_id)}>
          change {line.seq}
        </button>
      )}
      {/* A fork has lines of its parent, whose events are not among its own. */}
      {line.run_id !== asked.run && (
        <Link to={linkTo(line.run_id, line.seq, asked.pathHex || asked.path)}>
          change {line.seq} of <bdi>{line.run_id}</bdi>
        </Link>
      )}
    </p>
  );
}

function entriesOf(lines: readonly Line[]): Entry[] {
  return lines.flatMap((line, at) => {
    const shown = { line, heads: false };
    return lines[at - 1]?.event_id === line.event_id ? [shown] : [{ line, heads: true }, shown];
  });
}
