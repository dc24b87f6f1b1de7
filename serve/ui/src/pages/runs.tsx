/** Every run, the newest first. */

import { useInfiniteQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import { Link, useSearch } from "wouter";
import { type ListedRun, type Run, runsQuery } from "../api/queries";
import { ListActs } from "../panels/acts";
import { RunState } from "../parts/badges";
import { Empty, Failure, Loading } from "../parts/notes";
import { Shell } from "../parts/shell";
import { useSettled } from "../run/settled";
import { count, moment, seconds, short } from "../run/words";
import { type Choice, ChoiceBox, CompareButton, useChoice } from "./choice";
import { Sparkline } from "./sparkline";
import "./runs.css";

const SETTLE_MILLISECONDS = 250;

export function RunsPage() {
  // It is decoded already: what is typed as %41 would become an A.
  useSearch();
  const told = new URLSearchParams(location.search).get("q") ?? "";
  const [search, setSearch] = useState(told);
  // A link to this page, as the name in the bar is one, changes nothing but the address.
  useEffect(() => setSearch(told), [told]);
  // The API searches all runs, also those that are not loaded.
  const asked = useSettled(search.trim(), SETTLE_MILLISECONDS);
  const { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage, isPlaceholderData } =
    useInfiniteQuery(runsQuery(asked));
  useEffect(() => {
    document.title = "Runs · Enchanted";
    history.replaceState(history.state, "", search ? `/?q=${encodeURIComponent(search)}` : "/");
  }, [search]);
  const choice = useChoice();
  const runs = useMemo(() => data?.pages.flatMap((page) => page.data) ?? [], [data]);
  return (
    <Shell crumbs={[]}>
      <main className="runs">
        <div className="runs-head">
          <h1>Runs</h1>
          <ListActs />
          <input
            type="search"
            placeholder="Search task, id, verdict, reason"
            maxLength={256}
            aria-label="Search runs"
            value={search}
            onChange={(event) => setSearch(event.target.value)}
          />
          <p className="dim" role="status">
            {data &&
              !isPlaceholderData &&
              `${count(runs.length)} ${runs.length === 1 ? "run" : "runs"}${hasNextPage ? ", and older ones" : ""}`}
          </p>
          {(runs.length > 1 || choice.runs.length > 0) && <CompareButton choice={choice} />}
        </div>
        {error && <Failure error={error} retry={refetch} />}
        {isPending && <Loading what="runs" />}
        {data && !isPlaceholderData && !runs.length && (asked ? <NothingFound search={asked} /> : <NoRun />)}
        {runs.length > 0 && (
          <div className="sheet-room">
            <RunTable runs={runs} choice={choice} />
          </div>
        )}
        {hasNextPage && (
          <button type="button" onClick={() => fetchNextPage()} disabled={isFetchingNextPage}>
            Load older runs
          </button>
        )}
      </main>
    </Shell>
  );
}

const NoRun = () => (
  <Empty title="No run yet">
    <code>enchanted demo</code> makes one on a small repository with the bundled model;{" "}
    <code>enchanted run TASK --repo PATH</code> makes one on yours. It appears here by itself.
  </Empty>
);

const NothingFound = ({ search }: { search: string }) => (
  <Empty title={`No run matches “${search}”`}>
    Every word must be in a run's id, task, repository, verdict or reasons. <code>enchanted events -q TEXT</code>{" "}
    searches what agents thought and did.
  </Empty>
);

function RunTable({ runs, choice }: { runs: ListedRun[]; choice: Choice }) {
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
          <th scope="col">Activity</th>
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
            <td>
              <Sparkline counts={run.activity} />
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
