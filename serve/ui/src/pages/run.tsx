/** The mission view: every panel of one run, on one cursor. */

import { useQuery } from "@tanstack/react-query";
import { useDeferredValue, useEffect } from "react";
import { runQuery } from "../api/queries";
import { useCursorInAddress } from "../cursor/address";
import { useClock } from "../cursor/clock";
import { useShortcuts } from "../cursor/keys";
import { useCursorIndex } from "../cursor/store";
import { RunActs } from "../panels/acts";
import { EventPanel } from "../panels/event";
import { FilesPanel } from "../panels/files";
import { RunHeader } from "../panels/header";
import { LogPanel } from "../panels/log";
import { TimelinePanel } from "../panels/timeline";
import { Empty, Failure, Loading } from "../parts/notes";
import { Shell } from "../parts/shell";
import { useRunLog } from "../run/follow";
import { taskOf } from "./runs";
import "./run.css";

export function RunPage({ run }: { run: string }) {
  const followed = useRunLog(run);
  const { log, version, loaded } = followed;
  const { data, error, refetch } = useQuery(runQuery(run, log.rows[log.last]?.seq ?? 0));
  const index = useCursorIndex(log);
  // The slider keeps up with the hand; the panels that cost more follow when there is time.
  const behind = useDeferredValue(index);
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
        {known && <RunHeader run={data} log={log} index={index} connection={followed.connection} />}
        {known && log.last < 0 && (
          <Empty title="No event yet">The first one appears here by itself, within a second of its being stored.</Empty>
        )}
        {/* Head and panels come together, so that nothing moves under the hand. */}
        {known && log.last >= 0 && (
          <>
            <RunActs run={data} log={log} index={behind} />
            <TimelinePanel log={log} version={version} index={index} />
            <div className="mission-columns">
              <LogPanel run={run} log={log} version={version} index={behind} />
              <div className="mission-side">
                <EventPanel run={run} log={log} index={behind} />
                <FilesPanel run={run} log={log} index={behind} />
              </div>
            </div>
          </>
        )}
      </main>
    </Shell>
  );
}
