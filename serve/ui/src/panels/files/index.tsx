/** The files as they were at the cursor. */

import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { memo, useState } from "react";
import { type State, stateQuery } from "../../api/queries";
import { fileInAddress, keepFileInAddress, keepWorkspaceInAddress, workspaceInAddress } from "../../cursor/address";
import { Empty, Failure, Loading } from "../../parts/notes";
import { Panel } from "../../parts/panel";
import type { RunLog } from "../../run/log";
import { useSettled } from "../../run/settled";
import { count, short } from "../../run/words";
import { FileContent } from "./content";
import { FileList, keyOf } from "./list";
import "./files.css";

interface Props {
  run: string;
  log: RunLog;
  index: number;
}

const SETTLE_MILLISECONDS = 120;
/** Characters of a name that may be anything: it comes from the address. */
const LONGEST_NAME = 200;

export const FilesPanel = memo(function FilesPanel({ run, log, index }: Props) {
  // Files move with state changes alone, so all events up to the next one have the same answer.
  const changed = log.rows[log.changeAt(index)]?.seq ?? 0;
  const at = useSettled(changed, SETTLE_MILLISECONDS);
  const [workspace, setWorkspace] = useState(workspaceInAddress);
  const choose = (name: string) => {
    setWorkspace(name);
    keepWorkspaceInAddress(name);
  };
  const [opened, setOpened] = useState(fileInAddress);
  const show = (key: string | null) => {
    setOpened(key);
    keepFileInAddress(key);
  };
  const { data, error, refetch } = useQuery({
    ...stateQuery(run, at, log.indexAt(at) + 1),
    enabled: at > 0,
    placeholderData: keepPreviousData,
  });
  const state = at > 0 ? data : undefined;
  const files = state?.workspaces[workspace]?.files ?? [];
  const open = files.find((file) => keyOf(file) === opened);
  const tools = state && <Workspaces state={state} workspace={workspace} onChange={choose} files={files.length} />;
  return (
    <Panel name="files" title="Files at the cursor" tools={tools}>
      {/* data-seq tells which moment is meant, and "busy" that its files are still on their way. */}
      <div className="files" data-seq={log.rows[index]?.seq} aria-busy={state ? state.at !== changed : changed > 0}>
        {error && <Failure error={error} retry={refetch} />}
        {index < 0 && <Loading what="the run" />}
        {!at && index >= 0 && (
          <Empty title="No files yet">
            {log.changes.length
              ? "They begin with the run's base, a few events further on."
              : "This run has changed none so far."}
          </Empty>
        )}
        {at > 0 && !data && !error && <Loading what="the files" />}
        {state && !files.length && <Empty title={`${short(workspace, LONGEST_NAME)} is empty here`} />}
        {files.length > 0 && <FileList files={files} changedAt={state?.at ?? 0} open={opened} onOpen={show} />}
        {opened && !open && state?.at === changed && (
          <p className="file-missing" role="status">
            <bdi>{short(opened, LONGEST_NAME)}</bdi> is not in {short(workspace, LONGEST_NAME)} at the cursor.
            <button type="button" className="quiet" onClick={() => show(null)}>
              Close
            </button>
          </p>
        )}
        {open && state && (
          <FileContent
            key={JSON.stringify([workspace, keyOf(open)])}
            run={run}
            log={log}
            at={state.at}
            workspace={workspace}
            file={open}
            onClose={() => show(null)}
          />
        )}
      </div>
    </Panel>
  );
});

interface WorkspacesProps {
  state: State;
  workspace: string;
  files: number;
  onChange: (workspace: string) => void;
}

function Workspaces({ state, workspace, files, onChange }: WorkspacesProps) {
  const names = Object.keys(state.workspaces);
  return (
    <>
      <span className="dim">{count(files)}</span>
      <select aria-label="Workspace" value={workspace} onChange={(event) => onChange(event.target.value)}>
        {(names.includes(workspace) ? names : [workspace, ...names]).map((name) => (
          <option key={name} value={name}>
            {short(name, LONGEST_NAME)}
          </option>
        ))}
      </select>
    </>
  );
}
