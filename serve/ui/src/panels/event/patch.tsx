/** A unified diff, file by file. */

import { useMemo, useState } from "react";
import { Diff, type FileData, Hunk, parseDiff } from "react-diff-view";
import "react-diff-view/style/index.css";
import { bytesOf } from "../../run/words";
import { LongText } from "./text";
import "./patch.css";

/** Beyond these a diff is shown as text, or behind clicks, so that it cannot freeze the page. */
const MOST_CHARACTERS = 400_000;
const MOST_FILES = 20;
const MOST_LINES = 2_000;

export function Patch({ text, reason }: { text: string; reason: string }) {
  const files = useMemo(() => parsedFiles(text), [text]);
  const [parts, setParts] = useState(1);
  const [view, setView] = useState<"unified" | "split">("unified");
  if (!text)
    return <p className="dim">{reason === "base" ? "What the run started from; it has no patch." : "No patch."}</p>;
  if (!files) return <LongText title={`patch of ${bytesOf(text)}`} text={text} />;
  const shown = Math.min(parts * MOST_FILES, upToLines(files, parts * MOST_LINES));
  return (
    <div className="patch">
      <p className="patch-head">
        <span className="dim">
          {files.length} {files.length === 1 ? "file" : "files"}
        </span>
        <button type="button" className="quiet" onClick={() => setView(view === "split" ? "unified" : "split")}>
          {view === "split" ? "One column" : "Side by side"}
        </button>
      </p>
      {files.slice(0, shown).map((file) => (
        <PatchedFile key={`${file.oldPath} ${file.newPath}`} file={file} view={view} />
      ))}
      {files.length > shown && (
        <button type="button" onClick={() => setParts(parts + 1)}>
          Show more of {files.length - shown} other files
        </button>
      )}
    </div>
  );
}

function PatchedFile({ file, view }: { file: FileData; view: "unified" | "split" }) {
  const lines = linesOf(file);
  return (
    <figure className="patched-file">
      <figcaption>
        <bdi>{nameOf(file)}</bdi> <span className="dim">{file.isBinary ? "binary" : file.type}</span>
      </figcaption>
      {lines > MOST_LINES ? (
        <p className="dim">{lines} changed lines are too many to draw; `enchanted diff` prints them.</p>
      ) : (
        <Diff viewType={view} diffType={file.type} hunks={file.hunks}>
          {(hunks) => hunks.map((hunk) => <Hunk key={hunk.content} hunk={hunk} />)}
        </Diff>
      )}
    </figure>
  );
}

const linesOf = (file: FileData): number => file.hunks.reduce((sum, hunk) => sum + hunk.changes.length, 0);

/** How many files have so many lines together; at least one. What is too long to be drawn costs nothing. */
function upToLines(files: readonly FileData[], most: number): number {
  let lines = 0;
  const over = files.findIndex((file) => {
    lines += linesOf(file) > MOST_LINES ? 0 : linesOf(file);
    return lines > most;
  });
  return over < 0 ? files.length : Math.max(1, over);
}

function nameOf(file: FileData): string {
  if (file.type === "delete") return file.oldPath;
  return file.oldPath !== file.newPath && file.type !== "add" ? `${file.oldPath} → ${file.newPath}` : file.newPath;
}

function parsedFiles(text: string): FileData[] | null {
  if (text.length > MOST_CHARACTERS) return null;
  try {
    const files = parseDiff(text);
    return files.length ? files : null;
  } catch {
    return null;
  }
}
