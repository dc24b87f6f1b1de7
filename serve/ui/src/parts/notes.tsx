/** What is shown where there is nothing to show: each says what to do about it. */

import type { ReactNode } from "react";
import { ApiProblem } from "../api/problem";

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="note">
      <p className="note-title">{title}</p>
      {children && <div className="note-text">{children}</div>}
    </div>
  );
}

export function Failure({ error, retry }: { error: Error; retry?: () => void }) {
  return (
    <div className="note note-failure" role="alert">
      <p className="note-title">{error instanceof ApiProblem ? error.title : "The page failed"}</p>
      <div className="note-text">{error.message}</div>
      {retry && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Loading({ what }: { what: string }) {
  return (
    <p className="note note-loading" role="status">
      Reading {what} …
    </p>
  );
}
