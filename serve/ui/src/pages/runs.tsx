/** Every run, the newest first. */

import { useInfiniteQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import { Link } from "wouter";
import { type Run, runsQuery } from "../api/queries";
import { ListActs } from "../panels/acts";
import { RunState } from "../parts/badges";
import { Empty, Failure, Loading } from "../parts/notes";
import { Shell } from "../parts/shell";
import { count, moment, seconds, short } from "../run/words";
import { type Choice, ChoiceBox, CompareButton, useChoice } from "./choice";
import "./runs.css";

export function RunsPage() {
  const { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage } =
    useInfiniteQuery(runsQuery);
  const [search, setSearch] = useState(() => new URLSearchParams(location.search).get("q") ?? "");
  useEffect(() => {
    document.title = "Runs · Enchanted";
    history.replaceState(history.state, "", search ? `/?q=${encodeURIComponent(search)}` : "/");
  }, [search]);
  const choice = useChoice();
  const runs = useMemo(() => data?.pages.flatMap((page) => page.data) ?? [], [data]);
  const found = useMemo(() => runs.filter((run) => matches(run, search)), [runs, search]);
  return (
    <Shell crumbs={[]}>
      <main className="runs">
        <div className="runs-head">
          <h1>Runs</h1>
          <ListActs />
          <input
            type="search"
            placeholder="Search task, id, verdict, reason"
            aria-label="Search runs"
            value={search}
            onChange={(event) => setSearch(event.target.value)}
          />
          <p className="dim" role="status">
            {data && `${count(found.length)} of ${count(runs.length)}${hasNextPage ? " loaded" : ""}`}
          </p>
          {runs.length > 1 && <CompareButton choice={choice} />}
        </div>
        {error && <Failure error={error} retry={refetch} />}
        {isPending && <Loading what="runs" />}
        {data && !runs.length && (
          <Empty title="No run yet">
            <code>enchanted demo</code> makes one on a small repository with the bundled model;{" "}
            <code>enchanted run TASK --repo PATH</code> makes one on yours. It appears here by itself.
          </Empty>
        )}
        {runs.length > 0 && !found.length && (
          <Empty title={`No run matches “${search}”`}>
            {hasNextPage
              ? "Older runs are not loaded yet: load more below."
              : "Search looks at task, id, verdict and reason."}
          </Empty>
        )}
        {found.length > 0 && <RunTable runs={found} choice={choice} />}
        {hasNextPage && (
          <button type="button" onClick={() => fetchNextPage()} disabled={isFetchingNextPage}>
            Load older runs
          </button>
        )}
      </main>
    </Shell>
  );
}

function RunTable({ runs, choice }: { runs: Run[]; choice: Choice }) {
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">
            <span className="unseen">Compare</span>
          </th>
          <th scope="col">Verdict</th>
          <th scope="col">Task</th>
          <th scope="col">Started</th>
          <th scope="col" className="number">
            Took
          </th>
          <th scope="col" className="number">
            Agents
          </th>
          <th scope="col" className="number">
            Decisions
          </th>
          <th scope="col" className="number">
            Changes
          </th>
          <th scope="col" className="number">
            Tokens
          </th>
          <th scope="col" className="number">
            Events
          </th>
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => (
          <tr key={run.run_id}>
            <td>
              <ChoiceBox run={run} choice={choice} />
            </td>
            <td>
              <RunState state={run.state} closed={run.closed} />
            </td>
            <td className="runs-task">
              <Link to={`/runs/${encodeURIComponent(run.run_id)}`}>{taskOf(run)}</Link>
              <span className="dim">
                <code>{run.run_id}</code> {short(run.reason, LONGEST_REASON)}
              </span>
            </td>
            <td>
              <time dateTime={run.started_at}>{moment(run.started_at)}</time>
            </td>
            <td className="number">{seconds(run.seconds)}</td>
            <td className="number">{count(run.agents)}</td>
            <td className="number">{count(run.decisions)}</td>
            <td className="number">{count(run.changes)}</td>
            <td className="number">{count(run.input_tokens + run.output_tokens)}</td>
            <td className="number">{count(run.events)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Characters in one line. */
export const LONGEST_REASON = 300;

/** Characters that are shown of it. */
const LONGEST_TASK = 1_000;

export function taskOf(run: Run): string {
  const task = (run.request as { task?: unknown } | null | undefined)?.task;
  return typeof task === "string" && task ? short(task, LONGEST_TASK) : run.run_id;
}

function matches(run: Run, search: string): boolean {
  const text = `${taskOf(run)} ${run.run_id} ${run.trace_id} ${run.state} ${run.reason}`.toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}
