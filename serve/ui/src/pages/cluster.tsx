/** What runs where: machines and engines as Ray knows them, actors as they said last, models by what they were asked. */

import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useEffect } from "react";
import { Link } from "wouter";
import { type Cluster, clusterQuery } from "../api/queries";
import { AgentName } from "../parts/badges";
import { Empty, Failure, Loading } from "../parts/notes";
import { Panel } from "../parts/panel";
import { Shell } from "../parts/shell";
import type { Role } from "../run/row";
import { bytes, count, percent, seconds } from "../run/words";
import { PipelinePanel } from "./pipeline";
import "./cluster.css";

export function ClusterPage() {
  const { data, error, isPending, refetch } = useQuery(clusterQuery);
  useEffect(() => {
    document.title = "Cluster · Enchanted";
  }, []);
  return (
    <Shell crumbs={[{ text: "cluster" }]}>
      <main className="cluster">
        <div className="cluster-head">
          <h1>Cluster</h1>
          {data && <Dashboard url={data.dashboard_url} />}
        </div>
        <PipelinePanel />
        {error && <Failure error={error} retry={refetch} />}
        {isPending && <Loading what="the cluster" />}
        {data && <Parts cluster={data} />}
      </main>
    </Shell>
  );
}

function Dashboard({ url }: { url: string }) {
  if (!/^https?:\/\//.test(url)) return <span className="dim">Ray has no dashboard here.</span>;
  return (
    <a href={url} target="_blank" rel="noopener noreferrer">
      Ray's dashboard
    </a>
  );
}

function Parts({ cluster: { time, nodes, engines, models, actors } }: { cluster: Cluster }) {
  const of = (list: unknown[] | null) => <span className="dim">{list ? count(list.length) : "unknown"}</span>;
  return (
    <>
      <Panel name="nodes" title="Nodes" tools={of(nodes)}>
        {!nodes && <Unknown what="The machines" />}
        {nodes && !nodes.length && <Empty title="Ray knows no machine" />}
        {nodes && nodes.length > 0 && <Nodes nodes={nodes} />}
      </Panel>
      <Panel name="engines" title="Engines, since each started" tools={of(engines)}>
        {!engines && <Unknown what="The engines" />}
        {engines && !engines.length && (
          <Empty title="No engine runs">
            One starts with the first run that asks a model of this cluster, and serves the runs after it too.
          </Empty>
        )}
        {engines && engines.length > 0 && <Engines engines={engines} />}
      </Panel>
      <Panel name="models" title="Models, in the last minute" tools={of(models)}>
        {models.length ? (
          <Models models={models} />
        ) : (
          <Empty title="No model was asked in the last minute">Whoever asks one appears here within seconds.</Empty>
        )}
      </Panel>
      <Panel name="actors" title="Actors, as they said last" tools={of(actors)}>
        {actors.length ? (
          <Actors actors={actors} now={Date.parse(time)} />
        ) : (
          <Empty title="Nobody said within a minute how it is">
            Actors signal every few seconds while they live: <code>enchanted status</code> says whether any should.
          </Empty>
        )}
      </Panel>
    </>
  );
}

const Unknown = ({ what }: { what: string }) => (
  <Empty title={`${what} are unknown`}>
    Ray was not asked or did not answer in time. <code>enchanted status</code> says whether it runs.
  </Empty>
);

function Sheet({ heads, numbers, children }: { heads: string[]; numbers: number; children: ReactNode }) {
  return (
    <div className="sheet-room">
      <table className="sheet">
        <thead>
          <tr>
            {heads.map((head, at) => (
              <th key={head} scope="col" className={at < heads.length - numbers ? "" : "number"}>
                {head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

const Amount = ({ children }: { children: ReactNode }) => <td className="number">{children}</td>;

const Ready = ({ good, children }: { good: boolean; children: ReactNode }) => (
  <span className={`badge badge-${good ? "good" : "bad"}`}>
    <span aria-hidden="true">{good ? "✓" : "!"}</span> {children}
  </span>
);

function Nodes({ nodes }: { nodes: NonNullable<Cluster["nodes"]> }) {
  return (
    <Sheet heads={["Host", "Address", "State", "CPUs", "GPUs", "Memory"]} numbers={3}>
      {nodes.map(({ node_id, host, address, alive, resources }) => (
        <tr key={node_id}>
          <td>{host}</td>
          <td>
            <code>{address}</code>
          </td>
          <td>
            <Ready good={alive}>{alive ? "alive" : "dead"}</Ready>
          </td>
          <Amount>{count(resources.CPU ?? 0)}</Amount>
          <Amount>{count(resources.GPU ?? 0)}</Amount>
          <Amount>{resources.memory === undefined ? "–" : bytes(resources.memory)}</Amount>
        </tr>
      ))}
    </Sheet>
  );
}

function Engines({ engines }: { engines: NonNullable<Cluster["engines"]> }) {
  const heads = ["Model", "State", "Up", "Running", "Completed", "Failed", "Tokens in", "From the cache", "Tokens out"];
  return (
    <Sheet heads={heads} numbers={7}>
      {engines.map((engine) => (
        <tr key={`${engine.key} ${engine.pid}`}>
          <td>
            {engine.model} {engine.dedicated_to && <span className="tag">for {engine.dedicated_to}</span>}
          </td>
          <td>
            <Ready good={engine.ready}>{engine.ready ? "ready" : "not ready"}</Ready>
          </td>
          <Amount>{seconds(engine.uptime_s)}</Amount>
          <Amount>{count(engine.running)}</Amount>
          <Amount>{count(engine.completed)}</Amount>
          <Amount>{count(engine.failed)}</Amount>
          <Amount>{count(engine.input_tokens)}</Amount>
          <Amount>{percent(engine.input_tokens ? engine.cached_tokens / engine.input_tokens : undefined)}</Amount>
          <Amount>{count(engine.output_tokens)}</Amount>
        </tr>
      ))}
    </Sheet>
  );
}

function Models({ models }: { models: Cluster["models"] }) {
  return (
    <Sheet heads={["Model", "Tokens/s out", "Calls", "Failed", "Tokens in", "Tokens out"]} numbers={5}>
      {models.map((one) => (
        <tr key={one.model}>
          <td>{one.model || "unnamed"}</td>
          <Amount>{one.output_tokens_per_s.toFixed(1)}</Amount>
          <Amount>{count(one.calls)}</Amount>
          <Amount>{count(one.failed)}</Amount>
          <Amount>{count(one.input_tokens)}</Amount>
          <Amount>{count(one.output_tokens)}</Amount>
        </tr>
      ))}
    </Sheet>
  );
}

function Actors({ actors, now }: { actors: Cluster["actors"]; now: number }) {
  return (
    <Sheet heads={["Name", "Role", "Run", "Status", "Where", "CPU", "Memory", "Seen"]} numbers={3}>
      {actors.map((actor) => (
        <tr key={actor.agent_id}>
          <td>
            <AgentName name={actor.name} role={(actor.role === "unspecified" ? "" : actor.role) as Role} />
          </td>
          <td>{actor.role === "unspecified" ? "–" : actor.role}</td>
          <td>
            {actor.run_id ? (
              <Link to={`/runs/${encodeURIComponent(actor.run_id)}`}>{actor.run_id}</Link>
            ) : (
              <span className="dim">of no run</span>
            )}
          </td>
          <td>
            {actor.status.toLowerCase() || "unknown"} {actor.detail && <span className="dim">{actor.detail}</span>}
          </td>
          <td>{actor.node ? `${actor.node} · ${actor.pid}` : <span className="dim">unknown</span>}</td>
          <Amount>{actor.cpu_load_percent === null ? "unknown" : `${actor.cpu_load_percent} %`}</Amount>
          <Amount>{actor.memory_usage_mb === null ? "unknown" : `${count(actor.memory_usage_mb)} MB`}</Amount>
          <Amount>{seconds(Math.max(0, now - Date.parse(actor.seen_at)) / 1_000)} ago</Amount>
        </tr>
      ))}
    </Sheet>
  );
}
