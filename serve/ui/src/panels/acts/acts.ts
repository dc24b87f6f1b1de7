/**
 * What a person can do to a run, in the order of the bar. To approve, to pause or to message an agent is one more entry:
 * a name, when it is possible, and a dialog made of the parts in `dialog.tsx`.
 */

import type { Act, Moment } from "./act";
import { CancelDialog } from "./cancel";
import { ForkDialog } from "./fork";
import { RestoreDialog } from "./restore";
import { StartDialog } from "./start";
import { UndoDialog } from "./undo";

export const MOMENT_ACTS: Act<Moment>[] = [
  { name: "Fork from here", hindrance: withoutFiles, Dialog: ForkDialog },
  { name: "Restore these files", hindrance: withoutFiles, Dialog: RestoreDialog },
  { name: "Undo this change", hindrance: notUndoable, Dialog: UndoDialog },
  { name: "Cancel the run", hindrance: notOpen, Dialog: CancelDialog },
];

/** What needs no run to begin with. */
export const LIST_ACTS: Act<null>[] = [{ name: "Start a run", hindrance: () => "", Dialog: StartDialog }];

const UNDOABLE = ["FILE_SYSTEM", "ENV_VAR"];

function withoutFiles({ changedAt }: Moment): string {
  return changedAt ? "" : "No files were stored up to here; they begin a few events further on.";
}

function notUndoable({ run, kind, change }: Moment): string {
  if (kind !== "state_change") return "The event at the cursor changed nothing; the key ] goes to the next change.";
  if (!change) return "The change is still being read.";
  if (!UNDOABLE.includes(change.target_type ?? "")) return "Only changes of files and of variables can be undone.";
  if (!change.is_reversible || change.content_sha256)
    return "This change says that it cannot be reversed; fork or restore a moment before it.";
  if (run.state && !run.closed) return "The run is still at work; wait for its verdict, or cancel it.";
  return "";
}

function notOpen({ run }: Moment): string {
  if (run.closed) return "The run has ended.";
  return run.state ? "" : "The swarm does not drive this run.";
}
