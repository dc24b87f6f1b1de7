/** The hand-offs up to the cursor as a graph: agents on both sides, tasks between them. It is a chunk of its own. */

import {
  Background,
  Controls,
  type Edge,
  Handle,
  MarkerType,
  type Node,
  type NodeProps,
  Position,
  ReactFlow,
  useReactFlow,
} from "@xyflow/react";
import { memo, useEffect, useMemo } from "react";
import { moveTo } from "../../cursor/moves";
import { AgentName } from "../../parts/badges";
import { Empty } from "../../parts/notes";
import { type Flow, type FlowNode, flowAt } from "../../run/flow";
import type { RunLog } from "../../run/log";
import { useSettled } from "../../run/settled";
import { count } from "../../run/words";

interface Props {
  log: RunLog;
  index: number;
}

type Shown = Node<{ node: FlowNode; log: RunLog }, "shown">;

const SETTLE_MILLISECONDS = 100;
const WIDTH = 216;
const HEIGHT = 42;
const COLUMN = 346;
const ROW = 54;
const FIT = { maxZoom: 1, padding: 0.06 };
const NODE_TYPES = { shown: memo(ShownNode) };

export default function Graph({ log, index }: Props) {
  const place = useSettled(index, SETTLE_MILLISECONDS);
  const flow = useMemo(() => flowAt(log, place), [log, place]);
  const { nodes, edges } = useMemo(() => drawn(flow, log), [flow, log]);
  if (!flow.nodes.length) {
    return (
      <Empty title="No hand-off yet">
        An arrow begins where one agent's event leads to another agent's: a plan to its tasks, a task to its coder.
      </Empty>
    );
  }
  return (
    <section className="graph" aria-label="Hand-offs up to the cursor" data-place={place}>
      <ReactFlow
        nodes={nodes}
        edges={edges}
        nodeTypes={NODE_TYPES}
        fitView
        fitViewOptions={FIT}
        minZoom={0.1}
        nodesDraggable={false}
        nodesConnectable={false}
        nodesFocusable={false}
        edgesFocusable={false}
        elementsSelectable={false}
        zoomOnScroll={false}
        preventScrolling={false}
        disableKeyboardA11y
        // The keys belong to the cursor.
        deleteKeyCode={null}
        selectionKeyCode={null}
        multiSelectionKeyCode={null}
        panActivationKeyCode={null}
        zoomActivationKeyCode={null}
      >
        <Background />
        <Controls showInteractive={false} />
        <Fit count={nodes.length} />
      </ReactFlow>
      {flow.left > 0 && <p className="dim graph-left">{count(flow.left)} that were busy earlier are left out</p>}
    </section>
  );
}

/** Keeps everything in sight when something joins; a view that somebody moved stays until then. */
function Fit({ count: nodes }: { count: number }) {
  const { fitView } = useReactFlow();
  useEffect(() => {
    if (nodes) void fitView(FIT);
  }, [nodes, fitView]);
  return null;
}

function ShownNode({ data: { node, log } }: NodeProps<Shown>) {
  const { kind, name, role, state, given, taken, last } = node;
  return (
    <>
      {(["left", "right"] as const).flatMap((side) =>
        (["source", "target"] as const).map((type) => (
          <Handle key={side + type} id={side} type={type} position={SIDES[side]} isConnectable={false} />
        )),
      )}
      <button
        type="button"
        className={`graph-node graph-${kind} nopan`}
        title={`taken ${taken}, given ${given}; goes to the latest`}
        onClick={() => moveTo(log, last)}
      >
        {kind === "agent" ? <AgentName name={name} role={role} /> : <bdi>{name}</bdi>}
        <span className="dim">{kind === "task" ? state : `${count(taken)} in · ${count(given)} out`}</span>
      </button>
    </>
  );
}

const SIDES = { left: Position.Left, right: Position.Right };

function columnOf({ kind, role }: FlowNode): number {
  if (kind === "task") return 1;
  return role === "coder" || role === "reviewer" ? 2 : 0;
}

function drawn({ nodes, edges }: Flow, log: RunLog): { nodes: Shown[]; edges: Edge[] } {
  const columns = [0, 1, 2].map((column) => nodes.filter((node) => columnOf(node) === column));
  const longest = Math.max(...columns.map((column) => column.length));
  const byId = new Map(nodes.map((node) => [node.id, columnOf(node)]));
  return {
    nodes: columns.flatMap((column, at) =>
      column.map((node, row) => ({
        id: node.id,
        type: "shown" as const,
        position: { x: at * COLUMN, y: (row + (longest - column.length) / 2) * ROW },
        width: WIDTH,
        height: HEIGHT,
        data: { node, log },
      })),
    ),
    edges: edges.map(({ from, to, count: passed }) => {
      const forth = (byId.get(from) ?? 0) <= (byId.get(to) ?? 0);
      const same = byId.get(from) === byId.get(to);
      return {
        id: `${from} ${to}`,
        source: from,
        target: to,
        sourceHandle: forth ? "right" : "left",
        targetHandle: forth && !same ? "left" : "right",
        label: passed > 1 ? count(passed) : "",
        className: forth ? "graph-forth" : "graph-back",
        markerEnd: { type: MarkerType.ArrowClosed, color: "currentColor" },
      };
    }),
  };
}
