/** Files of a workspace; ten thousand of them are a few dozen rows of the document. */

import { useVirtualizer } from "@tanstack/react-virtual";
import { useRef } from "react";
import type { components } from "../../api/schema";
import { bytes } from "../../run/words";

export type File = components["schemas"]["FileDocument"];

/** A name that is not UTF-8 is known by its bytes: what is shown of it may be that of another file too. */
export const keyOf = (file: File): string => file.path_hex || file.path;

interface Props {
  files: File[];
  /** Sequence of the change at the cursor: what it touched is marked. */
  changedAt: number;
  /** Key of the file whose content is shown. */
  open: string | null;
  onOpen: (key: string) => void;
}

const ROW_HEIGHT = 28;

export function FileList({ files, changedAt, open, onOpen }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({
    count: files.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_HEIGHT,
    overscan: 10,
  });
  return (
    <div ref={scroller} className="file-list">
      <ul style={{ height: virtual.getTotalSize() }}>
        {virtual.getVirtualItems().map((item) => {
          const file = files[item.index];
          return (
            file && (
              <li key={keyOf(file)} style={{ transform: `translateY(${item.start}px)` }}>
                <button
                  type="button"
                  aria-expanded={open === keyOf(file)}
                  className={file.seq === changedAt ? "file file-changed" : "file"}
                  data-blob={file.blob}
                  onClick={() => onOpen(keyOf(file))}
                >
                  <bdi className="file-path">{file.path}</bdi>
                  {file.seq === changedAt && <span className="file-mark">changed last</span>}
                  <span className="dim">{bytes(file.size)}</span>
                </button>
              </li>
            )
          );
        })}
      </ul>
    </div>
  );
}
