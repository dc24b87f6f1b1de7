/** Which page an address shows. */

import { useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useEffect } from "react";
import { Link, Route, Switch, useLocation } from "wouter";
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
  const [path] = useLocation();
  useEffect(() => {
    if (!token) queries.clear();
  }, [token, queries]);
  if (!token) return <SignInPage />;
  return (
    <Guard of={path} frame={framed}>
      <Switch>
        <Route path="/">
          <RunsPage />
        </Route>
        <Route path="/runs/:run">{() => <RunPage key={path} run={named(2)} />}</Route>
        <Route path="/traces/:trace">{() => <TracePage key={path} trace={named(2)} />}</Route>
        <Route path="/compare/:a/:b">{() => <ComparePage key={path} a={named(2)} b={named(3)} />}</Route>
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

const framed = (failure: ReactNode) => (
  <Shell crumbs={[]}>
    <main className="narrow">{failure}</main>
  </Shell>
);

/** A name in the address as `encodeURIComponent` took it: wouter reads it as a whole, and leaves `%3A` as it is. */
function named(part: number): string {
  const text = location.pathname.split("/")[part] ?? "";
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
