/** What an act is: a word, when it is possible, and the dialog that shows what it would do before it does it. */

import type { ComponentType } from "react";
import type { Kind, StateChange } from "../../api/event";
import type { Run } from "../../api/queries";

export interface Act<About> {
  name: string;
  /** Why it cannot be done now; empty when it can. */
  hindrance: (about: About) => string;
  Dialog: ComponentType<DialogProps<About>>;
}

export interface DialogProps<About> {
  /** As it was when the dialog was opened: a cursor that plays on changes nothing in it. */
  about: About;
  onClose: () => void;
}

/** The moment at the cursor. */
export interface Moment {
  run: Run;
  seq: number;
  eventId: string;
  kind: Kind;
  /** What the event changed; undefined while it is on its way, and for other kinds. */
  change: StateChange | undefined;
  /** Sequence of the last change up to here; 0 where there was none. */
  changedAt: number;
}
