/** One file's content at the cursor. */

import { useQuery } from "@tanstack/react-query";
import { contentQuery } from "../../api/queries";
import { Failure, Loading } from "../../parts/notes";
import { LongText } from "../event/text";
import type { File } from "./list";

interface Props {
  run: string;
  at: number;
  workspace: string;
  file: File;
  onClose: () => void;
}

export function FileContent({ run, at, workspace, file, onClose }: Props) {
  const asked = { run, at, workspace, path: file.path, pathHex: file.path_hex };
  const { data, error, refetch } = useQuery(contentQuery(asked));
  return (
    <section className="file-content" aria-label={`Content of ${file.path}`}>
      <header>
        <bdi>{file.path}</bdi>
        <span className="dim">
          {file.mode} · {file.blob.slice(0, 12)}
        </span>
        <button type="button" className="quiet" onClick={onClose}>
          Close
        </button>
      </header>
      {error && <Failure error={error} retry={refetch} />}
      {!data && !error && <Loading what="the file" />}
      {data?.encoding === "base64" && <p className="dim">It is not text; `enchanted state --path` writes it.</p>}
      {data?.encoding === "utf-8" &&
        (data.content ? <LongText title="" text={data.content} /> : <p className="dim">It is empty.</p>)}
    </section>
  );
}
