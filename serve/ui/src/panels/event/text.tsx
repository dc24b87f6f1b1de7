/** A text of any length, as text; a long one is cut until more is asked for. */

import { useState } from "react";
import { save } from "../../parts/save";
import { bytesOf } from "../../run/words";

const CHARACTERS = 8_000;
/** A browser takes a second for a line of a million. */
const MOST_CHARACTERS = 100_000;

export function LongText({ title, text }: { title: string; text: string }) {
  // More is asked for of this text, not of the next one in its place.
  const [extended, setExtended] = useState("");
  const most = extended === text ? MOST_CHARACTERS : CHARACTERS;
  if (!text) return null;
  return (
    <figure className="long-text">
      <figcaption>{title}</figcaption>
      <pre dir="auto">{text.slice(0, most)}</pre>
      {text.length > most && (
        <p>
          {most < MOST_CHARACTERS && (
            <button type="button" className="quiet" onClick={() => setExtended(text)}>
              Show more of {bytesOf(text)}
            </button>
          )}
          <button type="button" className="quiet" onClick={() => save(`${title || "text"}.txt`, text)}>
            Save all {bytesOf(text)}
          </button>
        </p>
      )}
    </figure>
  );
}
