/** Asks a run to end. */

import { useQuery } from "@tanstack/react-query";
import { cancel } from "../../api/acts";
import { stateQuery } from "../../api/queries";
import { useCursor } from "../../cursor/store";
import type { DialogProps, Moment } from "./act";
import { ActDialog, closeAround, counted, Footer, Refusal } from "./dialog";
import { useAct } from "./use-act";

const AT_WORK = new Set(["pending", "coding", "reviewing"]);

export function CancelDialog({ about: { run }, onClose }: DialogProps<Moment>) {
  const { ask, done, error, busy } = useAct((id: string) => cancel(id));
  const { data } = useQuery(stateQuery(run.run_id, run.last_seq));
  const follow = useCursor((cursor) => cursor.follow);
  const atWork = data?.tasks.filter((task) => AT_WORK.has(task.state)).length ?? 0;
  return (
    <ActDialog title={`Cancel ${run.run_id}`} busy={busy} onClose={onClose}>
      {done ? (
        <p role="status" className="act-done">
          The swarm was asked to end {done.run_id}; its last step comes into the log.{" "}
          <button
            type="button"
            onClick={(event) => {
              follow();
              closeAround(event);
            }}
          >
            Go to the end
          </button>
        </p>
      ) : (
        <div className="act-preview">
          <p>
            The run is <b>{data?.state || run.state}</b>
            {data && ` with ${counted(atWork, "task")} at work`}. It ends as <b>cancelled</b>: its agents stop, nothing
            is merged, and its log and files stay as they are. This cannot be taken back; a fork can go on from any
            moment of it.
          </p>
        </div>
      )}
      <Refusal error={error} />
      <Footer does={done ? undefined : `Cancel ${run.run_id}`} busy={busy} onAct={() => ask(run.run_id)} />
    </ActDialog>
  );
}
