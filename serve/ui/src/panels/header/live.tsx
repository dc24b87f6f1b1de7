/** Whether the page follows the run; one click returns to the end. */

import type { Connection } from "../../api/stream";
import { useCursor } from "../../cursor/store";

export function LivePill({ closed, connection }: { closed: boolean; connection: Connection }) {
  const following = useCursor((cursor) => cursor.seq === null);
  const follow = useCursor((cursor) => cursor.follow);
  if (!following) {
    const away = !closed && connection === "broken" ? " (reconnecting)" : "";
    return (
      <button type="button" className="pill" onClick={follow} title="Key: L">
        {closed ? "Go to the end" : `Detached: go live${away}`}
      </button>
    );
  }
  if (closed) return <span className="pill pill-rest">At the end</span>;
  const words = { open: "Live", connecting: "Connecting", broken: "Reconnecting", refused: "Not live: reload" }[
    connection
  ];
  return (
    <span className={`pill pill-${connection}`} role="status">
      <i aria-hidden="true" /> {words}
    </span>
  );
}
