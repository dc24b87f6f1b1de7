/** A unified diff, file by file. */

import { useMemo, useState } from "react";
import { Diff, type FileData, Hunk, parseDiff } from "react-diff-view";
import "react-diff-view/style/index.css";
import { bytes } from "../../run/words";
import { LongText } from "./text";
import "./patch.css";

/** Beyond these a diff is shown as text, or behind a click, so that it cannot freeze the page. */
const MOST_CHARACTERS = 400_000;
const MOST_FILES = 20;
const MOST_LINES = 2_000;

export function Patch({ text, reason }: { text: string; reason: string }) {
  const files = useMemo(() => parsedFiles(text), [text]);
  const [all, setAll] = useState(false);
  const [view, setView] = useState<"unified" | "split">("unified");
  if (!text)
    return <p className="dim">{reason === "base" ? "What the run started from; it has no patch." : "No patch."}</p>;
  if (!files) return <LongText title={`patch of ${bytes(text.length)}`} text={text} />;
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
      {files.slice(0, all ? files.length : MOST_FILES).map((file) => (
        <PatchedFile key={`${file.oldPath} ${file.newPath}`} file={file} view={view} />
      ))}
      {files.length > MOST_FILES && !all && (
        <button type="button" onClick={() => setAll(true)}>
          Show {files.length - MOST_FILES} more files
        </button>
      )}
    </div>
  );
}

function PatchedFile({ file, view }: { file: FileData; view: "unified" | "split" }) {
  const lines = file.hunks.reduce((sum, hunk) => sum + hunk.changes.length, 0);
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
