/** Begins a run. */

import { type FormEvent, useState } from "react";
import { type StartAsked, start } from "../../api/acts";
import type { DialogProps } from "./act";
import { ActDialog, counted, Field, Footer, Refusal } from "./dialog";
import { StartedLink } from "./started";
import { useAct, useKey } from "./use-act";

export function StartDialog({ onClose }: DialogProps<null>) {
  const keyOf = useKey();
  const { ask, done, error, busy } = useAct((asked: StartAsked) => start(asked, keyOf(asked)));
  const [task, setTask] = useState("");
  const [repo, setRepo] = useState("");
  const [checks, setChecks] = useState("");
  const [model, setModel] = useState("");
  const commands = checks.split("\n").filter((line) => line.trim());
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const asked: StartAsked = { task, repo: repo.trim(), checks: commands };
    ask(model.trim() ? { ...asked, model: model.trim() } : asked);
  };
  return (
    <ActDialog title="Start a run" busy={busy} onClose={onClose}>
      {done ? (
        <>
          <StartedLink started={done} />
          <Footer />
        </>
      ) : (
        <form className="act-form" onSubmit={submit}>
          <Field label="Task">
            <textarea rows={3} required value={task} onChange={(event) => setTask(event.target.value)} dir="auto" />
          </Field>
          <Field label="Repository on the server" help="The absolute path of a git repository.">
            <input
              required
              value={repo}
              onChange={(event) => setRepo(event.target.value)}
              placeholder="/home/you/project"
              autoComplete="off"
              spellCheck={false}
            />
          </Field>
          <Field label="Checks" help="One command a line; each must exit 0 before anything is merged.">
            <textarea rows={2} value={checks} onChange={(event) => setChecks(event.target.value)} spellCheck={false} />
          </Field>
          <Field label="Model of every role" help="vllm:…, openai:URL#MODEL, bundled or minimal">
            <input
              value={model}
              onChange={(event) => setModel(event.target.value)}
              placeholder="as in the settings"
              autoComplete="off"
              spellCheck={false}
            />
          </Field>
          <p className="act-preview">
            Agents work on a copy of the repository's last commit and {counted(commands.length, "check")} decide. What
            passes comes back as a branch of its own; the branch you are on stays as it is.
          </p>
          <Refusal error={error} />
          <Footer does={`Start a run on ${repo.trim() || "the repository"}`} busy={busy} />
        </form>
      )}
    </ActDialog>
  );
}
