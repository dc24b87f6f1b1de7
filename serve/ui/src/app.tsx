/** Which page an address shows. */

import { useQueryClient } from "@tanstack/react-query";
import { useEffect } from "react";
import { Link, Route, Switch } from "wouter";
import { useToken } from "./api/token";
import { ClusterPage } from "./pages/cluster";
import { ComparePage } from "./pages/compare";
import { RunPage } from "./pages/run";
import { RunsPage } from "./pages/runs";
import { SignInPage } from "./pages/sign-in";
import { TracePage } from "./pages/trace";
import { Guard } from "./parts/guard";
import { Empty } from "./parts/notes";
import { Shell } from "./parts/shell";

export function App() {
  const token = useToken((store) => store.token);
  const queries = useQueryClient();
  useEffect(() => {
    if (!token) queries.clear();
  }, [token, queries]);
  if (!token) return <SignInPage />;
  return (
    <Guard of={location.pathname}>
      <Switch>
        <Route path="/">
          <RunsPage />
        </Route>
        <Route path="/runs/:run">{({ run }) => <RunPage key={run} run={run} />}</Route>
        <Route path="/traces/:trace">{({ trace }) => <TracePage key={trace} trace={trace} />}</Route>
        <Route path="/compare/:a/:b">{({ a, b }) => <ComparePage key={`${a}/${b}`} a={a} b={b} />}</Route>
        <Route path="/cluster">
          <ClusterPage />
        </Route>
        <Route>
          <Shell crumbs={[{ text: "not here" }]}>
            <main className="narrow">
              <Empty title="There is no such page">
                <Link to="/">The list of runs</Link> leads to every run.
              </Empty>
            </main>
          </Shell>
        </Route>
      </Switch>
    </Guard>
  );
}
