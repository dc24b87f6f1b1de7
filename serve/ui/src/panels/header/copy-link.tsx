/** Copies the address of the cursor's moment. */

import { useEffect, useState } from "react";
import { linkTo } from "../../cursor/address";

const SAID_MILLISECONDS = 1_500;

export function CopyLink({ run, seq }: { run: string; seq: number | undefined }) {
  const [said, setSaid] = useState("");
  useEffect(() => {
    if (!said) return;
    const timer = setTimeout(() => setSaid(""), SAID_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [said]);
  const copy = async () => {
    const link = location.origin + linkTo(run, seq ?? 0);
    // Only pages of this machine or over TLS may write to the clipboard.
    await navigator.clipboard?.writeText(link).then(
      () => setSaid("Copied"),
      () => setSaid("Not allowed here"),
    );
  };
  return (
    <button type="button" className="quiet" onClick={copy} disabled={seq === undefined}>
      <span aria-live="polite">{said || "Copy link"}</span>
    </button>
  );
}
