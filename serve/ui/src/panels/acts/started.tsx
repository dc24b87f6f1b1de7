/** Leads to a run that was begun just now. */

import { Link } from "wouter";
import type { Started } from "../../api/acts";

export function StartedLink({ started }: { started: Started }) {
  return (
    <p role="status" className="act-done">
      The swarm has taken it: <Link to={`/runs/${encodeURIComponent(started.run_id)}`}>watch {started.run_id}</Link>
    </p>
  );
}
