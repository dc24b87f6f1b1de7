/** Play, step and speed; the same as the keys. */

import { memo, useRef } from "react";
import { SHORTCUTS } from "../../cursor/keys";
import { moveBy, toFailure, togglePlaying, toNextChange, toPreviousChange } from "../../cursor/moves";
import { SPEEDS, useCursor } from "../../cursor/store";
import { LettersSwitch } from "../../parts/letters";
import type { RunLog } from "../../run/log";
import { count } from "../../run/words";

export function Transport({ log, index }: { log: RunLog; index: number }) {
  const { playing, speed, setSpeed } = useCursor();
  const row = log.rows[index];
  return (
    <div className="transport" role="toolbar" aria-label="Replay">
      <button type="button" onClick={() => toPreviousChange(log)} title="Previous change of files (key: [)">
        <Icon path="M5 4v12M17 4l-9 6 9 6z" /> <span>Change</span>
      </button>
      <button type="button" onClick={() => moveBy(log, -1)} aria-label="One event back" title="One event back (key: ←)">
        <Icon path="M13 4l-7 6 7 6z" />
      </button>
      <button
        type="button"
        className="primary"
        onClick={() => togglePlaying(log)}
        aria-pressed={playing}
        title="Key: space"
      >
        <Icon path={playing ? "M6 4h3v12H6zM12 4h3v12h-3z" : "M6 3.5l11 6.5-11 6.5z"} />{" "}
        <span>{playing ? "Pause" : "Play"}</span>
      </button>
      <button type="button" onClick={() => moveBy(log, 1)} aria-label="One event on" title="One event on (key: →)">
        <Icon path="M7 4l7 6-7 6z" />
      </button>
      <button type="button" onClick={() => toNextChange(log)} title="Next change of files (key: ])">
        <span>Change</span> <Icon path="M15 4v12M3 4l9 6-9 6z" />
      </button>
      <Failures log={log} />
      <label className="speed">
        <span className="unseen">Speed</span>
        <select value={speed} onChange={(event) => setSpeed(Number(event.target.value))}>
          {SPEEDS.map((one) => (
            <option key={one} value={one}>
              {one}×
            </option>
          ))}
        </select>
      </label>
      <output className="place" data-seq={row?.seq}>
        event <b>{count(index + 1)}</b> of {count(log.rows.length)} · seq <b>{row?.seq ?? "–"}</b>
      </output>
      <Help />
    </div>
  );
}

function Failures({ log }: { log: RunLog }) {
  const { length } = log.failures;
  if (!length) return null;
  return (
    <fieldset className="failures">
      <legend className="unseen">Failures</legend>
      <button
        type="button"
        onClick={() => toFailure(log, -1)}
        aria-label="Previous failure"
        title="Previous failure (key: Shift E)"
      >
        <Icon path="M13 4l-7 6 7 6z" />
      </button>
      <button type="button" onClick={() => toFailure(log, 1)} title="Next failure (key: E)">
        <span>
          {count(length)} {length === 1 ? "failure" : "failures"}
        </span>
        <Icon path="M7 4l7 6-7 6z" />
      </button>
    </fieldset>
  );
}

const Help = memo(function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  return (
    <>
      <button type="button" className="quiet help-button" onClick={() => dialog.current?.showModal()}>
        Keys
      </button>
      <dialog ref={dialog} aria-labelledby="keys-title">
        <h2 id="keys-title">Keys</h2>
        <dl className="keys">
          {SHORTCUTS.map(({ shown, does }) => (
            <div key={shown}>
              <dt>
                <kbd>{shown}</kbd>
              </dt>
              <dd>{does}</dd>
            </div>
          ))}
        </dl>
        <LettersSwitch />
        <button type="button" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </dialog>
    </>
  );
});

function Icon({ path }: { path: string }) {
  return (
    <svg viewBox="0 0 20 20" width="16" height="16" aria-hidden="true" className="icon">
      <path d={path} />
    </svg>
  );
}
