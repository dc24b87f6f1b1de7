/** The log stream: every event as a sentence, thousands of them in a few dozen rows of the document. */

import { useVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, memo, useCallback, useEffect, useMemo, useRef, useState } from "react";
import type { Kind } from "../../api/event";
import { cursorPlace, moveTo } from "../../cursor/moves";
import { Empty } from "../../parts/notes";
import { Panel } from "../../parts/panel";
import { useDecisions } from "../../run/decisions";
import { nameOf, type RunLog } from "../../run/log";
import type { Row } from "../../run/row";
import { count } from "../../run/words";
import { type Filter, NO_FILTER, placesOf, placeUpTo } from "./filter";
import { FilterBar } from "./filter-bar";
import { LogRow } from "./row";
import "./log.css";

interface Props {
  run: string;
  log: RunLog;
  version: number;
  index: number;
}

const HEIGHTS: Partial<Record<Kind, number>> = { decision: 62 };
const HEIGHT = 32;

export const LogPanel = memo(function LogPanel({ run, log, version, index }: Props) {
  const [filter, setFilter] = useState<Filter>(NO_FILTER);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the log is the same object while it grows
  const places = useMemo(() => placesOf(log, filter), [log, version, filter]);
  const shown =
    places.length === log.rows.length ? count(places.length) : `${count(places.length)} of ${count(log.rows.length)}`;
  return (
    <Panel name="log" title="Log" tools={<span className="dim">{shown}</span>}>
      <FilterBar log={log} filter={filter} onChange={setFilter} />
      {places.length ? (
        <Rows run={run} log={log} places={places} index={index} />
      ) : (
        <Empty title="No event passes the filter">
          <button type="button" onClick={() => setFilter(NO_FILTER)}>
            Show all
          </button>
        </Empty>
      )}
    </Panel>
  );
});

const keyOf = (row: Row | undefined) => row && nameOf(row.eventId, row.seq);

interface RowsProps {
  run: string;
  log: RunLog;
  places: readonly number[];
  index: number;
}

function Rows({ run, log, places, index }: RowsProps) {
  const scroller = useRef<HTMLDivElement>(null);
  const rowAt = useCallback((at: number) => log.rows[places[at] ?? 0], [log, places]);
  const virtual = useVirtualizer({
    count: places.length,
    getScrollElement: () => scroller.current,
    estimateSize: (at) => HEIGHTS[rowAt(at)?.kind ?? "unknown"] ?? HEIGHT,
    // Another function makes it measure every row anew, so it may not be another for each move of the cursor.
    getItemKey: useCallback((at: number) => keyOf(rowAt(at)) ?? at, [rowAt]),
    overscan: 8,
  });
  const current = placeUpTo(places, index);
  const room = virtual.scrollRect?.height ?? 0;
  useEffect(() => {
    if (current >= 0 && room > 0) virtual.scrollToIndex(current, { align: "auto" });
  }, [current, room, virtual]);
  const move = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    // Keys may come faster than rows are drawn.
    const place = step && places[placeUpTo(places, cursorPlace(log)) + step];
    if (place === undefined || !step) return;
    event.preventDefault();
    moveTo(log, place);
  };
  const items = virtual.getVirtualItems();
  const decided = useDecisions(
    run,
    log,
    items.map((item) => places[item.index] ?? 0),
  );
  const decisionOf = (row: Row | undefined) => row && decided(row);
  return (
    <div
      ref={scroller}
      className="log-rows"
      role="listbox"
      tabIndex={0}
      aria-label="Events; arrow up and down move the cursor"
      aria-activedescendant={current >= 0 ? `row-${log.rows[places[current] ?? 0]?.seq}` : undefined}
      onKeyDown={move}
    >
      <div className="log-whole" style={{ height: virtual.getTotalSize() }}>
        {items.map((item) => (
          <LogRow
            key={item.key}
            log={log}
            decision={decisionOf(rowAt(item.index))}
            place={places[item.index] ?? 0}
            top={item.start}
            height={item.size}
            current={item.index === current}
            future={(places[item.index] ?? 0) > index}
          />
        ))}
      </div>
    </div>
  );
}
