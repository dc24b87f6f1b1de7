/** From a fork to it and its parent, side by side. */

import { Link } from "wouter";
import type { Run } from "../../api/queries";
import { linkToCompare } from "../../cursor/address";

export function ParentLink({ run }: { run: Run }) {
  const parent = (run.request as { forked_from?: unknown } | null | undefined)?.forked_from;
  // Anybody may have written it.
  if (typeof parent !== "string" || !parent) return null;
  return (
    <Link className="pill" to={linkToCompare(parent, run.run_id)}>
      Compare with its parent
    </Link>
  );
}
