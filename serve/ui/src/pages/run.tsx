/** The mission view: every panel of one run, on one cursor. */

import { useQuery } from "@tanstack/react-query";
import { useDeferredValue, useEffect, useState } from "react";
import { runQuery } from "../api/queries";
import { useCursorInAddress } from "../cursor/address";
import { useClock } from "../cursor/clock";
import { useShortcuts } from "../cursor/keys";
import { useCursor, useCursorIndex } from "../cursor/store";
import { RunActs } from "../panels/acts";
import { EventPanel } from "../panels/event";
import { FilesPanel } from "../panels/files";
import { RunHeader } from "../panels/header";
import { LogPanel } from "../panels/log";
import { TimelinePanel } from "../panels/timeline";
import { Guard } from "../parts/guard";
import { Empty, Failure, Loading } from "../parts/notes";
import { Shell } from "../parts/shell";
import { useRunLog } from "../run/follow";
import { usePaced } from "../run/paced";
import { isVerdict } from "../run/row";
import { taskOf } from "./runs";
import "./run.css";

const FOLLOW_MILLISECONDS = 100;
/** After its verdict a run's agents only say that they stop. */
const LAST_WORDS = 50;

export function RunPage({ run }: { run: string }) {
  const [ending, setEnding] = useState(false);
  const [newest, setNewest] = useState(0);
  const { data, error, refetch } = useQuery(runQuery(run, newest, ending));
  // A link may name a moment beyond the end of a run to which nothing comes any more.
  const end = data?.closed ? data.last_seq : Number.POSITIVE_INFINITY;
  const wanted = useCursor((cursor) => Math.max(Math.min(cursor.seq ?? 0, end), cursor.expected));
  const followed = useRunLog(run, data, wanted);
  const { log, version, loaded } = followed;
  const told = log.rows.slice(-LAST_WORDS).some(isVerdict);
  useEffect(() => setEnding(told), [told]);
  // Of an open run the page asks again anyway.
  const grown = data?.closed ? log.lastSeq : 0;
  useEffect(() => setNewest(grown), [grown]);
  const index = useCursorIndex(log);
  // The slider keeps up with the hand; the panels that cost more follow when there is time, as often as is read.
  const behind = useDeferredValue(usePaced(index, FOLLOW_MILLISECONDS));
  // The end moves while rows come in: what costs the API most is asked for where it comes to rest.
  const resting = useCursor((cursor) => loaded || cursor.seq !== null) ? behind : -1;
  useCursorInAddress(run);
  useShortcuts(log);
  useClock(log);
  useEffect(() => {
    document.title = `${data ? taskOf(data) : run} · Enchanted`;
  }, [data, run]);
  const failure = error ?? followed.error;
  const known = data && (loaded || log.last >= 0);
  return (
    <Shell crumbs={[{ text: "Runs", to: "/" }, { text: run }]}>
      <main className="mission">
        {failure && <Failure error={failure} retry={refetch} />}
        {!failure && !known && <Loading what="the run" />}
        {known && <RunHeader run={data} log={log} index={index} loaded={loaded} connection={followed.connection} />}
        {known && log.last < 0 && (
          <Empty title="No event yet">The first one appears here by itself, within a second of its being stored.</Empty>
        )}
        {/* Head and panels come together, so that nothing moves under the hand. */}
        {known && log.last >= 0 && (
          <>
            <RunActs run={data} log={log} index={behind} />
            <Guard of={`timeline ${index}`}>
              <TimelinePanel log={log} version={version} index={index} />
            </Guard>
            <div className="mission-columns">
              <Guard of={`log ${behind}`}>
                <LogPanel run={run} log={log} version={version} index={behind} />
              </Guard>
              <div className="mission-side">
                <Guard of={`event ${resting}`}>
                  <EventPanel run={run} log={log} index={resting} />
                </Guard>
                <Guard of={`files ${resting}`}>
                  <FilesPanel run={run} log={log} index={resting} />
                </Guard>
              </div>
            </div>
          </>
        )}
      </main>
    </Shell>
  );
}
