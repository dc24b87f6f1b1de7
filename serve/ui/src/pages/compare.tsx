/** Two runs side by side: what they cost, where they first say something else, which files differ at their ends. */

import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useEffect } from "react";
import { Link } from "wouter";
import type { SwarmEvent } from "../api/event";
import { type Compared, compareQuery, type Run } from "../api/queries";
import type { components } from "../api/schema";
import { linkTo } from "../cursor/address";
import { Payload } from "../panels/event/payload";
import { RunState } from "../parts/badges";
import { Empty, Failure, Loading } from "../parts/notes";
import { Panel } from "../parts/panel";
import { Shell } from "../parts/shell";
import { KIND_NAMES } from "../run/sentence";
import { count, seconds } from "../run/words";
import { taskOf } from "./runs";
import "./compare.css";

type Parting = components["schemas"]["PartingDocument"];
type SideEvent = components["schemas"]["SideDocument"];

export function ComparePage({ a, b }: { a: string; b: string }) {
  const { data, error, isPending, isFetching, refetch } = useQuery(compareQuery(a, b));
  useEffect(() => {
    document.title = "Compare · Enchanted";
  }, []);
  const open = data && !(data.a.closed && data.b.closed);
  return (
    <Shell crumbs={[{ text: "Runs", to: "/" }, { text: "compare" }]}>
      <main className="compare">
        <div className="compare-head">
          <h1>Two runs, side by side</h1>
          {open && <span className="dim">Not both are over: this is how far they are.</span>}
          {open && (
            <button type="button" onClick={() => refetch()} disabled={isFetching}>
              Compare again
            </button>
          )}
        </div>
        {error && <Failure error={error} retry={refetch} />}
        {isPending && <Loading what="both runs" />}
        {data && (
          <>
            <Costs compared={data} />
            <WhereTheyPart compared={data} />
            <Files compared={data} />
          </>
        )}
      </main>
    </Shell>
  );
}

const FIGURES: { name: string; of: (run: Run) => number; in: (value: number) => string }[] = [
  { name: "Took", of: (run) => run.seconds, in: seconds },
  { name: "Events", of: (run) => run.events, in: count },
  { name: "Decisions", of: (run) => run.decisions, in: count },
  { name: "Changes", of: (run) => run.changes, in: count },
  { name: "Model calls", of: (run) => run.model_calls, in: count },
  { name: "Tool calls", of: (run) => run.tool_calls, in: count },
  { name: "Tokens in", of: (run) => run.input_tokens, in: count },
  { name: "Tokens out", of: (run) => run.output_tokens, in: count },
];

function Costs({ compared: { a, b } }: { compared: Compared }) {
  return (
    <Panel name="costs" title="Verdict and cost">
      <div className="sheet-room">
        <table className="sheet">
          <thead>
            <tr>
              <td />
              <RunHead letter="A" run={a} />
              <RunHead letter="B" run={b} />
              <th scope="col" className="number">
                B against A
              </th>
            </tr>
          </thead>
          <tbody>
            <tr>
              <th scope="row">Verdict</th>
              {[a, b].map((run, side) => (
                <td key={side === 0 ? "a" : "b"}>
                  <RunState state={run.state} closed={run.closed} /> <span className="dim">{run.reason}</span>
                </td>
              ))}
              <td className="number dim">{a.state === b.state ? "the same" : "another"}</td>
            </tr>
            {FIGURES.map((figure) => (
              <tr key={figure.name}>
                <th scope="row">{figure.name}</th>
                <td>{figure.in(figure.of(a))}</td>
                <td>{figure.in(figure.of(b))}</td>
                <td className="number dim">{against(figure.of(b) - figure.of(a), figure.in)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}

function RunHead({ letter, run }: { letter: string; run: Run }) {
  return (
    <th scope="col" className="compare-run">
      <b className="letter">{letter}</b> <Link to={`/runs/${encodeURIComponent(run.run_id)}`}>{taskOf(run)}</Link>
      <code>{run.run_id}</code>
    </th>
  );
}

const against = (difference: number, shown: (value: number) => string): string =>
  difference === 0 ? "the same" : `${difference < 0 ? "−" : "+"}${shown(Math.abs(difference))}`;

function WhereTheyPart({ compared }: { compared: Compared }) {
  const { divergence: parting, equal_events: equal, forked_at } = compared;
  const since = forked_at > 0 && (
    <>
      {" "}
      since B was forked from A at <Link to={linkTo(compared.a.run_id, forked_at)}>seq {forked_at}</Link>
    </>
  );
  return (
    <Panel name="parting" title="Where they part">
      {parting ? (
        <div className="parting">
          <p className="parting-lead">
            <b>{parting.agent || "Somebody without a name"}</b> is the first to differ; {count(equal)} events say the
            same{since}.
          </p>
          <div className="sides">
            <Side letter="A" run={compared.a} side={parting.a} />
            <Side letter="B" run={compared.b} side={parting.b} />
          </div>
          {parting.differences.length > 0 && <Fields parting={parting} />}
        </div>
      ) : (
        <Empty title="They say the same">
          {count(equal)} events{since} differ in nothing but ids, times and durations.
        </Empty>
      )}
    </Panel>
  );
}

function Side({ letter, run, side }: { letter: string; run: Run; side: SideEvent | null }) {
  return (
    <article className="side" aria-label={`In ${letter}`}>
      <header>
        <b className="letter">{letter}</b>
        {side && <Link to={linkTo(run.run_id, side.seq)}>seq {side.seq}</Link>}
        {side && <span className="dim">{KIND_NAMES[side.kind as SwarmEvent["kind"]]}</span>}
      </header>
      {side ? (
        <Payload event={{ ...side.event, seq: side.seq, kind: side.kind, event_id: side.event_id } as SwarmEvent} />
      ) : (
        <p className="dim">
          It says nothing more here; <Link to={linkTo(run.run_id, run.last_seq)}>its last event</Link> is {run.last_seq}
          .
        </p>
      )}
    </article>
  );
}

function Fields({ parting }: { parting: Parting }) {
  return (
    <div className="sheet-room">
      <table className="sheet fields">
        <thead>
          <tr>
            <th scope="col">Field</th>
            <th scope="col">In A</th>
            <th scope="col">In B</th>
          </tr>
        </thead>
        <tbody>
          {parting.differences.map(({ field, a, b }) => (
            <tr key={field}>
              <th scope="row">{field || "its bytes"}</th>
              <Said>{a}</Said>
              <Said>{b}</Said>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const Said = ({ children }: { children: ReactNode }) => (
  <td>
    <pre dir="auto">{children}</pre>
  </td>
);

function Files({ compared: { a, b, files, files_differing: all } }: { compared: Compared }) {
  const tools = <span className="dim">{count(all)} differ at the ends of the runs</span>;
  return (
    <Panel name="differing" title="Files" tools={tools}>
      {!files.length && <Empty title="Both end with the same files" />}
      {files.length > 0 && (
        <div className="sheet-room">
          <table className="sheet">
            <thead>
              <tr>
                <th scope="col">File</th>
                <th scope="col">In A</th>
                <th scope="col">In B</th>
              </tr>
            </thead>
            <tbody>
              {files.map(({ path, path_hex, a_blob, b_blob }, row) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: names that are not UTF-8 may read the same
                <tr key={row}>
                  <td>
                    <bdi>{path}</bdi>
                  </td>
                  <FileLink run={a} path={path} file={path_hex || path} blob={a_blob} letter="A" />
                  <FileLink run={b} path={path} file={path_hex || path} blob={b_blob} letter="B" />
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {all > files.length && <p className="note">and {count(all - files.length)} more</p>}
    </Panel>
  );
}

const BLOB_CHARACTERS = 12;

interface FileLinkProps {
  run: Run;
  path: string;
  /** What the files panel knows it by. */
  file: string;
  blob: string;
  letter: string;
}

function FileLink({ run, path, file, blob, letter }: FileLinkProps) {
  const shown = blob.slice(0, BLOB_CHARACTERS);
  return (
    <td>
      {blob ? (
        <Link to={linkTo(run.run_id, run.last_seq, file)} aria-label={`${shown}: ${path} in ${letter}`}>
          <code>{shown}</code>
        </Link>
      ) : (
        <span className="dim">not there</span>
      )}
    </td>
  );
}
