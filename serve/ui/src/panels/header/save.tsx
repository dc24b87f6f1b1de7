/** Saves the run as one HTML file that needs nothing else. A plain link could not carry the token. */

import { useMutation } from "@tanstack/react-query";
import { readHtml } from "../../api/queries";

const SAID = { idle: "Save as HTML", pending: "Writing …", error: "Not saved: try again", success: "Save as HTML" };

export function SaveAsHtml({ run }: { run: string }) {
  const { mutate, status, error } = useMutation({
    mutationFn: async () => offer(await readHtml(run), `${run}.html`),
  });
  return (
    <button
      type="button"
      className="quiet"
      onClick={() => mutate()}
      disabled={status === "pending"}
      title={error?.message}
    >
      <span aria-live="polite">{SAID[status]}</span>
    </button>
  );
}

function offer(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  // The browser has taken it over once the click is done with.
  setTimeout(() => URL.revokeObjectURL(link.href), RELEASE_MILLISECONDS);
}

const RELEASE_MILLISECONDS = 10_000;
