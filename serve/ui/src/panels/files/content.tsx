/** One file's content at the cursor. */

import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { contentQuery } from "../../api/queries";
import { isOpenInAddress, keepOpenInAddress } from "../../cursor/address";
import { Failure, Loading } from "../../parts/notes";
import type { RunLog } from "../../run/log";
import { LongText } from "../event/text";
import { BlamedText } from "./blame";
import type { File } from "./list";

interface Props {
  run: string;
  log: RunLog;
  at: number;
  workspace: string;
  file: File;
  onClose: () => void;
}

const BLAME = "blame";

export function FileContent({ run, log, at, workspace, file, onClose }: Props) {
  const asked = { run, at, workspace, path: file.path, pathHex: file.path_hex };
  const { data, error, refetch, isPlaceholderData } = useQuery({
    ...contentQuery(asked),
    // Most changes are of other files.
    placeholderData: keepPreviousData,
  });
  const [blamed, setBlamed] = useState(() => isOpenInAddress(BLAME));
  const toggle = () => {
    setBlamed(!blamed);
    keepOpenInAddress(BLAME, !blamed);
  };
  const text = data?.encoding === "utf-8" ? data.content : "";
  return (
    <section className="file-content" aria-label={`Content of ${file.path}`} aria-busy={isPlaceholderData}>
      <header>
        <bdi>{file.path}</bdi>
        <span className="dim">
          {file.mode} · {file.blob.slice(0, 12)}
        </span>
        {text && (
          <button type="button" className="quiet" aria-pressed={blamed} onClick={toggle}>
            Blame
          </button>
        )}
        <button type="button" className="quiet" onClick={onClose}>
          Close
        </button>
      </header>
      {error && <Failure error={error} retry={refetch} />}
      {!data && !error && <Loading what="the file" />}
      {data?.encoding === "base64" && <p className="dim">It is not text; `enchanted state --path` writes it.</p>}
      {data?.encoding === "utf-8" && !text && <p className="dim">It is empty.</p>}
      {text && (blamed ? <BlamedText asked={asked} log={log} /> : <LongText title="" text={text} />)}
    </section>
  );
}
