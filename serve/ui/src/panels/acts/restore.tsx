/** Puts the files of a moment into a folder or onto a branch. */

import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type RestoreAsked, type Restored, restore } from "../../api/acts";
import { stateQuery } from "../../api/queries";
import { Loading } from "../../parts/notes";
import type { DialogProps, Moment } from "./act";
import { ActDialog, counted, Field, Footer, Paths, Refusal } from "./dialog";
import { useAct } from "./use-act";

/** A place that was looked at, and which look it was: what lies there may be moved between two. */
interface Look {
  asked: RestoreAsked;
  number: number;
}

export function RestoreDialog({ about: { run, seq, changedAt }, onClose }: DialogProps<Moment>) {
  const [look, setLook] = useState<Look | null>(null);
  const [force, setForce] = useState(false);
  const preview = useQuery({
    queryKey: ["restore", run.run_id, look],
    queryFn: () => restore(run.run_id, { ...(look as Look).asked, dry_run: true }),
    enabled: look !== null,
    gcTime: 0,
  });
  const { ask, done, error, busy } = useAct((asked: RestoreAsked) => restore(run.run_id, asked));
  const lookAt = (asked: RestoreAsked | null) => {
    setForce(false);
    setLook((last) => asked && { asked, number: (last?.number ?? 0) + 1 });
  };
  const shown = look ? preview.data : undefined;
  const free = shown && !shown.blocked?.length && (force || !shown.dirty?.length);
  return (
    <ActDialog title={`Restore the files of sequence ${seq}`} busy={busy} onClose={onClose}>
      {done ? (
        <RestoreDone done={done} />
      ) : (
        <>
          <Place run={run.run_id} seq={seq} changedAt={changedAt} busy={busy} onLook={lookAt} />
          {preview.isFetching && <Loading what="what it would do" />}
          {look && <Refusal error={preview.error} />}
          {shown && <RestorePreview shown={shown} force={force} onForce={setForce} />}
        </>
      )}
      <Refusal error={error} />
      <Footer
        does={free && !done ? doing(shown) : undefined}
        busy={busy}
        onAct={() => look && ask({ ...look.asked, force })}
      />
    </ActDialog>
  );
}

function doing({ branch, repo, into, write, delete: gone = [] }: Restored): string {
  if (branch) return `Make branch ${branch} in ${repo}`;
  return `Write ${counted(write.length, "file")} and delete ${gone.length} in ${into}`;
}

interface PlaceProps {
  run: string;
  seq: number;
  changedAt: number;
  busy: boolean;
  /** null: what was shown does not hold any more. */
  onLook: (asked: RestoreAsked | null) => void;
}

function Place({ run, seq, changedAt, busy, onLook }: PlaceProps) {
  const { data } = useQuery(stateQuery(run, changedAt));
  const [kind, setKind] = useState<"folder" | "branch">("folder");
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const text = (name: string) => String(form.get(name) ?? "").trim();
    const place =
      kind === "folder" ? { into: text("into") } : { branch: text("branch"), repo: text("repo") || undefined };
    onLook({ at: seq, workspace: text("workspace"), ...place } as RestoreAsked);
  };
  return (
    <form className="act-form" onSubmit={submit} onChange={() => onLook(null)} inert={busy}>
      <fieldset className="choice">
        <legend className="unseen">Where to</legend>
        {(["folder", "branch"] as const).map((one) => (
          <label key={one}>
            <input type="radio" name="kind" checked={kind === one} onChange={() => setKind(one)} />
            {one === "folder" ? "into a folder" : "onto a branch"}
          </label>
        ))}
      </fieldset>
      {kind === "folder" && (
        <Field label="Folder on the server" help="An absolute path; the folder is made where it is missing.">
          <input name="into" required placeholder="/home/you/restored" autoComplete="off" spellCheck={false} />
        </Field>
      )}
      {kind === "branch" && (
        <>
          <Field label="New branch" help="One commit on top of the one the run began with.">
            <input name="branch" required autoComplete="off" spellCheck={false} />
          </Field>
          <Field label="Repository on the server" help="An absolute path; left empty, the run's own.">
            <input name="repo" autoComplete="off" spellCheck={false} />
          </Field>
        </>
      )}
      <Field label="Workspace">
        <select name="workspace">
          {Object.keys(data?.workspaces ?? { main: null }).map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      </Field>
      <button type="submit">Show what it would do</button>
    </form>
  );
}

interface PreviewProps {
  shown: Restored;
  force: boolean;
  onForce: (force: boolean) => void;
}

function RestorePreview({ shown, force, onForce }: PreviewProps) {
  const { branch, write, delete: gone = [], keep = [], kept = 0, same = 0, dirty = [], blocked = [] } = shown;
  return (
    <section className="act-preview" aria-label="What it would do">
      <Paths title={branch ? "differ from where the run began" : "to write"} paths={write} open />
      {!branch && (
        <>
          <Paths title="to delete" paths={gone} open />
          <Paths title="others to keep" paths={keep} total={kept} />
          <p className="dim">{same} are there already as they should be.</p>
        </>
      )}
      {shown.unfinished && (
        <p role="alert">A restore was cut off in this folder ({shown.unfinished}); it would be finished first.</p>
      )}
      {blocked.length > 0 && (
        <div role="alert">
          <Paths title="in the way; move them by hand, then look again" paths={blocked} open />
        </div>
      )}
      {dirty.length > 0 && (
        <>
          <Paths title="only this folder has as they are" paths={dirty} open />
          <label className="act-check">
            <input type="checkbox" checked={force} onChange={(event) => onForce(event.target.checked)} />
            Overwrite them; a snapshot keeps them as they are now
          </label>
        </>
      )}
    </section>
  );
}

function RestoreDone({ done }: { done: Restored }) {
  if (done.branch) {
    return (
      <p role="status" className="act-done">
        Branch <b>{done.branch}</b> of <code>{done.repo}</code> is at <code>{done.commit?.slice(0, 12)}</code>;{" "}
        <code>git switch {done.branch}</code> goes to it.
      </p>
    );
  }
  return (
    <div role="status" className="act-done">
      <p>
        <code>{done.into}</code> holds the files of sequence {done.at}.
      </p>
      <Paths title="written" paths={done.write} />
      <Paths title="deleted" paths={done.delete ?? []} />
      {done.snapshot && (
        <p>
          What was replaced is in <code>{done.snapshot}</code>.
        </p>
      )}
    </div>
  );
}
