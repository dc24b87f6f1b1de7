/** The parts every act's dialog is made of. */

import { type ReactNode, type SyntheticEvent, useEffect, useId, useRef } from "react";
import { ApiProblem } from "../../api/problem";
import { Failure } from "../../parts/notes";

interface Props {
  title: string;
  /** The act is on its way: its outcome must not be missed. */
  busy: boolean;
  onClose: () => void;
  children: ReactNode;
}

/** Keeps the focus in it and gives it back where it came from; Escape closes it. */
export function ActDialog({ title, busy, onClose, children }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    if (!dialog.current?.open) dialog.current?.showModal();
  }, []);
  return (
    <dialog
      ref={dialog}
      className="act-dialog"
      aria-labelledby={id}
      onClose={onClose}
      onCancel={(event) => busy && event.preventDefault()}
      // A browser lets a page refuse one Escape, and closes the dialog at the next.
      onKeyDown={(event) => busy && event.key === "Escape" && event.preventDefault()}
    >
      <header className="act-head">
        <span className="act-word">Act</span>
        <h2 id={id}>{title}</h2>
      </header>
      {children}
    </dialog>
  );
}

/** Closes the dialog an element is in, which gives the focus back. */
export const closeAround = (event: SyntheticEvent) => event.currentTarget.closest("dialog")?.close();

interface FooterProps {
  /** What the button does, exactly; there is none where there is nothing to do. */
  does?: string | undefined;
  busy?: boolean;
  /** Without it the button sends the form around it. */
  onAct?: () => void;
}

export function Footer({ does, busy = false, onAct }: FooterProps) {
  return (
    <footer className="act-foot">
      <span role="status" className="dim">
        {busy && "The API is at it …"}
      </span>
      <button type="button" onClick={closeAround} disabled={busy}>
        Close
      </button>
      {does && (
        <button type={onAct ? "button" : "submit"} className="act-button" onClick={onAct} aria-disabled={busy}>
          {does}
        </button>
      )}
    </footer>
  );
}

/** Why the API did not do it, and what to do about it, in its own words. */
export function Refusal({ error, retry }: { error: Error | null; retry?: () => void }) {
  if (!error) return null;
  const conflicts = error instanceof ApiProblem ? error.conflicts : [];
  return (
    <>
      <Failure error={error} {...(retry && { retry })} />
      {conflicts.length > 0 && <Paths title="in conflict" paths={conflicts} open />}
    </>
  );
}

const MOST_PATHS = 500;

/** How many files, and which. */
export function Paths({
  title,
  paths,
  total = paths.length,
  open = false,
}: {
  title: string;
  paths: readonly string[];
  total?: number;
  open?: boolean;
}) {
  if (!total) return <p className="act-paths dim">0 {title}</p>;
  return (
    <details className="act-paths" open={open}>
      <summary>
        <b>{total}</b> {title}
      </summary>
      <ul>
        {paths.slice(0, MOST_PATHS).map((path) => (
          <li key={path}>
            <bdi>{path}</bdi>
          </li>
        ))}
        {total > Math.min(paths.length, MOST_PATHS) && (
          <li className="dim">and {total - Math.min(paths.length, MOST_PATHS)} more</li>
        )}
      </ul>
    </details>
  );
}

export function Field({ label, help, children }: { label: string; help?: string; children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noLabelWithoutControl: the control is among the children
    <label className="act-field">
      <span>{label}</span>
      {children}
      {help && <small className="dim">{help}</small>}
    </label>
  );
}

export const counted = (count: number, one: string) => `${count} ${one}${count === 1 ? "" : "s"}`;
