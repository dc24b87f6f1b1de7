/** Begins a new run with the state of a moment. */

import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { type ForkAsked, fork } from "../../api/acts";
import { stateQuery } from "../../api/queries";
import { Loading } from "../../parts/notes";
import type { DialogProps, Moment } from "./act";
import { ActDialog, counted, Field, Footer, Refusal } from "./dialog";
import { StartedLink } from "./started";
import { useAct, useKey } from "./use-act";

interface Request {
  task?: string;
  coders?: number;
  models?: Record<string, string>;
}

export function ForkDialog({ about: { run, seq }, onClose }: DialogProps<Moment>) {
  const parent = (run.request ?? {}) as Request;
  const keyOf = useKey();
  const { ask, done, error, busy } = useAct((asked: ForkAsked) => fork(run.run_id, asked, keyOf(asked)));
  const [task, setTask] = useState(String(parent.task ?? ""));
  const another = task.trim() !== "" && task.trim() !== parent.task;
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const text = (name: string) => String(form.get(name) ?? "").trim();
    const asked: ForkAsked = { at: seq };
    // What is not named is as in the parent.
    if (another) asked.task = task;
    if (text("model")) asked.model = text("model");
    if (text("coders")) asked.coders = Number(text("coders"));
    ask(asked);
  };
  return (
    <ActDialog title={`Fork ${run.run_id} from sequence ${seq}`} busy={busy} onClose={onClose}>
      {done ? (
        <>
          <StartedLink started={done} />
          <Footer />
        </>
      ) : (
        <form className="act-form" onSubmit={submit}>
          <BeginsWith run={run.run_id} seq={seq} anew={another} />
          <Field label="Task">
            <textarea name="task" rows={3} value={task} onChange={(event) => setTask(event.target.value)} dir="auto" />
          </Field>
          <div className="act-columns">
            <Field label="Model of every role" help="vllm:…, openai:URL#MODEL, bundled or minimal">
              <input name="model" placeholder="as in this run" autoComplete="off" spellCheck={false} />
            </Field>
            <Field label="Coders">
              <input name="coders" type="number" min={1} max={64} placeholder={String(parent.coders ?? "as here")} />
            </Field>
          </div>
          <Refusal error={error} />
          <Footer does={`Start a new run from sequence ${seq}`} busy={busy} />
        </form>
      )}
    </ActDialog>
  );
}

/** The API has no dry run of a fork: what it begins with is the state of the moment. */
function BeginsWith({ run, seq, anew }: { run: string; seq: number; anew: boolean }) {
  const { data, error, refetch } = useQuery(stateQuery(run, seq));
  if (error) return <Refusal error={error} retry={refetch} />;
  if (!data) return <Loading what="what it would begin with" />;
  const files = data.workspaces.main?.files.length ?? 0;
  return (
    <p className="act-preview">
      A run of its own, with {counted(files, "file")} and{" "}
      {anew ? "a plan made anew" : `${counted(data.tasks.length, "task")} as they stood here`}. This run stays as it is.
    </p>
  );
}
