/** A text of any length, as text; a long one is cut until more is asked for. */

import { useState } from "react";
import { bytes } from "../../run/words";

const CHARACTERS = 8_000;
const MOST_CHARACTERS = 500_000;

export function LongText({ title, text }: { title: string; text: string }) {
  const [most, setMost] = useState(CHARACTERS);
  if (!text) return null;
  return (
    <figure className="long-text">
      <figcaption>{title}</figcaption>
      <pre dir="auto">{text.slice(0, most)}</pre>
      {text.length > most && (
        <button
          type="button"
          className="quiet"
          onClick={() => setMost(MOST_CHARACTERS)}
          disabled={most === MOST_CHARACTERS}
        >
          {most === MOST_CHARACTERS ? "The rest is in “everything it holds”" : `Show more of ${bytes(text.length)}`}
        </button>
      )}
    </figure>
  );
}
