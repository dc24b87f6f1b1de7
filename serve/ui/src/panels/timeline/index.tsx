/** The agents' lanes over the whole run, how dense it was, and the slider that moves the cursor. */

import { lazy, type PointerEvent, Suspense, useDeferredValue, useMemo, useRef, useState } from "react";
import { isOpenInAddress, keepOpenInAddress } from "../../cursor/address";
import { moveTo } from "../../cursor/moves";
import { AgentName } from "../../parts/badges";
import { Guard } from "../../parts/guard";
import { Loading } from "../../parts/notes";
import { Panel } from "../../parts/panel";
import type { RunLog } from "../../run/log";
import { type Scale, type ScaleMode, scaleOf } from "../../run/scale";
import { sentenceOf } from "../../run/sentence";
import { count, offset } from "../../run/words";
import { Drawing } from "./drawing";
import { Legend } from "./legend";
import { Transport } from "./transport";
import "@xyflow/react/dist/base.css";
import "./graph.css";
import "./timeline.css";

interface Props {
  log: RunLog;
  version: number;
  index: number;
}

const GRAPH = "graph";

export function TimelinePanel({ log, version, index }: Props) {
  const [mode, setMode] = useState<ScaleMode>("event");
  const [graph, setGraph] = useState(() => isOpenInAddress(GRAPH));
  // The slider keeps up with the hand; the graph follows when there is time.
  const behind = useDeferredValue(index);
  // Unfolding asks for the chunk anew: React keeps the failure of one that did not come.
  // biome-ignore lint/correctness/useExhaustiveDependencies: see above
  const Graph = useMemo(() => lazy(() => import("./graph")), [graph]);
  const toggle = () => {
    setGraph(!graph);
    keepOpenInAddress(GRAPH, !graph);
  };
  // biome-ignore lint/correctness/useExhaustiveDependencies: the log is the same object while it grows
  const scale = useMemo(() => scaleOf(log.rows, mode), [log, version, mode]);
  const own = log.ownLanes;
  const tools = (
    <>
      <Legend />
      <fieldset className="choice">
        <legend className="unseen">Horizontal axis</legend>
        {(["event", "time"] as const).map((one) => (
          <label key={one}>
            <input type="radio" name="scale" checked={mode === one} onChange={() => setMode(one)} />
            {one === "event" ? "by event" : "by time"}
          </label>
        ))}
      </fieldset>
      <button type="button" className="quiet" aria-expanded={graph} onClick={toggle}>
        {graph ? "Fold the graph" : `Graph of ${count(log.handoffs.length)} hand-offs`}
      </button>
    </>
  );
  return (
    <Panel name="timeline" title="Timeline" tools={tools}>
      <div className="timeline">
        <ul className="lane-names" aria-label="Agents">
          {own.map(({ name, role }) => (
            <li key={name}>
              <AgentName name={name} role={role} />
            </li>
          ))}
          {log.agents.length > own.length && (
            <li className="dim" title="They share this lane; the log can be filtered by each">
              {count(log.agents.length - own.length)} more agents
            </li>
          )}
        </ul>
        <Slider log={log} version={version} index={index} scale={scale} />
      </div>
      <Transport log={log} index={index} />
      {graph && (
        <Guard of="graph">
          <Suspense fallback={<Loading what="the graph" />}>
            <Graph log={log} index={behind} />
          </Suspense>
        </Guard>
      )}
    </Panel>
  );
}

function Slider({ log, version, index, scale }: Props & { scale: Scale }) {
  const area = useRef<HTMLDivElement>(null);
  const scrub = (event: PointerEvent) => {
    const box = area.current?.getBoundingClientRect();
    if (box && event.buttons & 1) moveTo(log, scale.indexAt((event.clientX - box.left) / box.width));
  };
  const row = log.rows[index];
  return (
    <div
      ref={area}
      className="lanes"
      role="slider"
      tabIndex={0}
      aria-label="Cursor"
      aria-valuemin={log.rows[0]?.seq ?? 0}
      aria-valuemax={log.rows[log.last]?.seq ?? 0}
      aria-valuenow={row?.seq ?? 0}
      aria-valuetext={
        row ? `event ${index + 1} of ${log.rows.length}: ${row.agent} ${sentenceOf(row)}` : "before the first event"
      }
      onPointerDown={(event) => {
        event.currentTarget.setPointerCapture(event.pointerId);
        scrub(event);
      }}
      onPointerMove={scrub}
    >
      <Drawing log={log} version={version} scale={scale} />
      <div className="lanes-future" style={{ transform: `scaleX(${1 - scale.at(index)})` }} />
      <div className="lanes-cursor" style={{ transform: `translateX(${scale.at(index) * 100}%)` }}>
        <span style={{ transform: `translateX(${scale.at(index) * -100}%)` }}>
          {offset(log.totalsAt(index).seconds)}
        </span>
      </div>
    </div>
  );
}
