/** Takes one change back and keeps what came later. */

import { useQuery } from "@tanstack/react-query";
import { Link } from "wouter";
import { type Undone, undo } from "../../api/acts";
import { linkTo } from "../../cursor/address";
import { useCursor } from "../../cursor/store";
import { Loading } from "../../parts/notes";
import { Patch } from "../event/patch";
import type { DialogProps, Moment } from "./act";
import { ActDialog, closeAround, counted, Footer, Paths, Refusal } from "./dialog";
import { useAct } from "./use-act";

export function UndoDialog({ about: { run, seq, eventId }, onClose }: DialogProps<Moment>) {
  const preview = useQuery({
    queryKey: ["undo", run.run_id, eventId],
    queryFn: () => undo(run.run_id, eventId, true),
    // Later work may stand against it by now.
    gcTime: 0,
  });
  const expect = useCursor((cursor) => cursor.expect);
  const { ask, done, error, busy } = useAct(async (id: string) => {
    const undone = await undo(run.run_id, id, false);
    expect(undone.seq);
    return undone;
  });
  const shown = preview.data;
  const does = shown && `Undo change ${seq}: ${deed(shown)} of ${shown.workspace}`;
  return (
    <ActDialog title={`Undo change ${seq}`} busy={busy} onClose={onClose}>
      {!done && (
        <div className="act-preview">
          {preview.isPending && <Loading what="what would change" />}
          <Refusal error={preview.error} retry={preview.refetch} />
          {shown && (
            <>
              <p>
                The newest {shown.variable ? "variables" : "files"} of <b>{shown.workspace}</b> without this change;
                what came later stays. It becomes a change of its own, which can be undone again.
              </p>
              {shown.variable ? (
                <p>
                  <code>{shown.variable.name}</code>: {held(shown.variable.was_set, shown.variable.before)} →{" "}
                  {held(shown.variable.is_set, shown.variable.after)}
                </p>
              ) : (
                <>
                  <Paths title="would change" paths={shown.files} open />
                  <Patch text={shown.patch} reason="undo" />
                </>
              )}
            </>
          )}
        </div>
      )}
      {done && <UndoDone run={run.run_id} done={done} />}
      <Refusal error={error} />
      <Footer does={done ? undefined : does} busy={busy} onAct={() => ask(eventId)} />
    </ActDialog>
  );
}

function deed({ variable, files }: Undone): string {
  if (!variable) return `write ${counted(files.length, "file")}`;
  return variable.is_set ? `set ${variable.name} back` : `unset ${variable.name}`;
}

function held(isSet: boolean, value: unknown): string {
  return isSet ? JSON.stringify(value) : "not set";
}

function UndoDone({ run, done }: { run: string; done: Undone }) {
  const goTo = useCursor((cursor) => cursor.goTo);
  return (
    <div role="status" className="act-done">
      <p>
        The change is undone, as{" "}
        <Link
          to={linkTo(run, done.seq)}
          onClick={(event) => {
            // The address keeps what is open in the page.
            event.preventDefault();
            goTo(done.seq);
            closeAround(event);
          }}
        >
          change {done.seq}
        </Link>
        .{done.branch && ` ${done.branch}.`}
      </p>
      {!done.variable && <Paths title="changed" paths={done.files} />}
    </div>
  );
}
