/** Who handed work to whom up to a moment: agents and tasks, and what went between them. */

import type { RunLog } from "./log";
import type { Role } from "./row";

export interface FlowNode {
  id: string;
  kind: "agent" | "task";
  name: string;
  role: Role;
  /** A task's state at the moment. */
  state: string;
  given: number;
  taken: number;
  /** Place of its latest hand-off. */
  last: number;
}

export interface FlowEdge {
  from: string;
  to: string;
  count: number;
  last: number;
}

export interface Flow {
  nodes: FlowNode[];
  edges: FlowEdge[];
  /** Agents and tasks that took part, and are not among the nodes. */
  left: number;
}

/** Of each kind; a person reads no larger picture. The newest are kept. */
const MOST = 40;

export function flowAt(log: RunLog, index: number): Flow {
  const nodes = new Map<string, FlowNode>();
  const edges = new Map<string, FlowEdge>();
  const pass = (from: FlowNode, to: FlowNode, place: number) => {
    from.given += 1;
    to.taken += 1;
    from.last = to.last = place;
    const key = `${from.id} ${to.id}`;
    const edge = edges.get(key) ?? { from: from.id, to: to.id, count: 0, last: place };
    edges.set(key, { ...edge, count: edge.count + 1, last: place });
  };
  for (const { from, to } of log.handoffs.slice(0, log.handoffsAt(index))) {
    const [giver, taker] = [agentNode(log, nodes, from), agentNode(log, nodes, to)];
    const taskId = log.rows[to]?.taskId || log.rows[from]?.taskId;
    if (!taskId) {
      pass(giver, taker, to);
      continue;
    }
    const task = nodeOf(nodes, "task", taskId, "");
    pass(giver, task, to);
    pass(task, taker, to);
  }
  tellStates(log, index, nodes);
  return newest([...nodes.values()], [...edges.values()]);
}

function agentNode(log: RunLog, nodes: Map<string, FlowNode>, place: number): FlowNode {
  const row = log.rows[place];
  return nodeOf(nodes, "agent", row?.agent ?? "", row?.role ?? "");
}

function nodeOf(nodes: Map<string, FlowNode>, kind: FlowNode["kind"], name: string, role: Role): FlowNode {
  const id = `${kind} ${name}`;
  const node = nodes.get(id) ?? { id, kind, name, role, state: "", given: 0, taken: 0, last: 0 };
  nodes.set(id, node);
  return node;
}

function tellStates(log: RunLog, index: number, nodes: Map<string, FlowNode>): void {
  for (let place = 0; place <= index; place += 1) {
    const row = log.rows[place];
    if (row?.kind !== "run_transition" || !row.taskId) continue;
    const task = nodes.get(`task ${row.taskId}`);
    if (task) task.state = row.result;
  }
}

function newest(nodes: FlowNode[], edges: FlowEdge[]): Flow {
  const kept = (["agent", "task"] as const).flatMap((kind) => {
    const all = nodes.filter((node) => node.kind === kind);
    const least = all.map((node) => node.last).sort((a, b) => b - a)[MOST - 1] ?? 0;
    return all.filter((node) => node.last >= least).slice(0, MOST);
  });
  const ids = new Set(kept.map((node) => node.id));
  return {
    nodes: kept,
    edges: edges.filter((edge) => ids.has(edge.from) && ids.has(edge.to)),
    left: nodes.length - kept.length,
  };
}
