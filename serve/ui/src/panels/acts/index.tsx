/** The bar of acts: what changes something, apart from what only shows. */

import { useQuery } from "@tanstack/react-query";
import { memo, useState } from "react";
import { eventQuery, type Run } from "../../api/queries";
import { Guard } from "../../parts/guard";
import type { RunLog } from "../../run/log";
import { useSettled } from "../../run/settled";
import type { Act, Moment } from "./act";
import { LIST_ACTS, MOMENT_ACTS } from "./acts";
import "./acts.css";

interface Props {
  run: Run;
  log: RunLog;
  index: number;
}

const SETTLE_MILLISECONDS = 120;

/** On the moment at the cursor. */
export const RunActs = memo(function RunActs({ run, log, index }: Props) {
  const row = log.rows[index];
  const changeId = row?.kind === "state_change" ? row.eventId : "";
  const settled = useSettled(changeId, SETTLE_MILLISECONDS);
  const streamed = log.streamed(row);
  const enabled = changeId !== "" && settled === changeId && !streamed;
  const { data } = useQuery({ ...eventQuery(run.run_id, changeId, row?.seq ?? 0), enabled });
  if (!row) return null;
  const moment: Moment = {
    run,
    seq: row.seq,
    eventId: row.eventId,
    kind: row.kind,
    change: (streamed ?? data)?.state_change,
    changedAt: log.rows[log.changeAt(index)]?.seq ?? 0,
  };
  return <ActBar acts={MOMENT_ACTS} about={moment} />;
});

export const ListActs = () => <ActBar acts={LIST_ACTS} about={null} />;

function ActBar<About>({ acts, about }: { acts: Act<About>[]; about: About }) {
  const [told, setTold] = useState("");
  const [opened, setOpened] = useState<{ act: Act<About>; about: About } | null>(null);
  return (
    <section className="acts" aria-label="Act">
      <span className="act-word" aria-hidden="true">
        Act
      </span>
      {acts.map((act) => {
        const hindrance = act.hindrance(about);
        return (
          <button
            key={act.name}
            type="button"
            className="act-open"
            // It stays in the order of the keyboard, and pressed it tells why it is of no use now.
            aria-disabled={hindrance !== ""}
            title={hindrance || undefined}
            onClick={() => {
              setTold(act.name);
              if (!hindrance) setOpened({ act, about });
            }}
          >
            {act.name} …
          </button>
        );
      })}
      <span role="status" className="dim">
        {acts.find((act) => act.name === told)?.hindrance(about)}
      </span>
      {opened && (
        <Guard of={opened.act.name}>
          <opened.act.Dialog about={opened.about} onClose={() => setOpened(null)} />
        </Guard>
      )}
    </section>
  );
}
