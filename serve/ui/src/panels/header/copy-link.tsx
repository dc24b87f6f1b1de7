/** Copies the address of the cursor's moment, and of what is open there. */

import { useEffect, useState } from "react";
import { linkToHere } from "../../cursor/address";

const SAID_MILLISECONDS = 1_500;

export function CopyLink({ seq }: { seq: number | undefined }) {
  const [copied, setCopied] = useState(false);
  const [shown, setShown] = useState("");
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), SAID_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = () => {
    const link = linkToHere(seq ?? 0);
    // Only pages of this machine or over TLS have a clipboard; elsewhere the person copies it.
    if (!navigator.clipboard) return setShown(link);
    navigator.clipboard.writeText(link).then(
      () => setCopied(true),
      () => setShown(link),
    );
  };
  if (shown) return <input ref={select} readOnly aria-label="Link to copy" value={shown} onBlur={() => setShown("")} />;
  return (
    <button type="button" className="quiet" onClick={copy} disabled={seq === undefined}>
      <span aria-live="polite">{copied ? "Copied" : "Copy link"}</span>
    </button>
  );
}

function select(field: HTMLInputElement | null): void {
  field?.focus();
  field?.select();
}
