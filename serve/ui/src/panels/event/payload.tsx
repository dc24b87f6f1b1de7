/** What each kind of event says. */

import type { ReactNode } from "react";
import { choiceOf, type Decision, type ModelCall, parsed, type SwarmEvent, type ToolCall } from "../../api/event";
import { count, milliseconds, percent } from "../../run/words";
import { Patch } from "./patch";
import { LongText } from "./text";

export function Payload({ event }: { event: SwarmEvent }) {
  const { decision, state_change, model_call, tool_call, run_transition, system_signal } = event;
  if (decision) return <DecisionSaid decision={decision} />;
  if (state_change)
    return <Patch key={event.event_id} text={state_change.diff_patch ?? ""} reason={state_change.reason ?? ""} />;
  if (model_call) return <ModelSaid call={model_call} />;
  if (tool_call) return <ToolSaid call={tool_call} />;
  if (run_transition) {
    const { from_state, to_state, reason, subject } = run_transition;
    return (
      <p className="event-sentence">
        The {subject === "task" ? "task" : "run"} went {from_state ? `from ${from_state} ` : ""}to <b>{to_state}</b>
        {reason && <>: {reason}</>}
      </p>
    );
  }
  return (
    <p className="event-sentence">
      The process is <b>{system_signal?.status?.toLowerCase() ?? "unknown"}</b> with{" "}
      {system_signal?.memory_usage_mb ?? 0} MB and {system_signal?.cpu_load_percent ?? 0} % of the processor.{" "}
      {system_signal?.detail}
    </p>
  );
}

function DecisionSaid({ decision }: { decision: Decision }) {
  const choice = choiceOf(decision);
  const confidence = decision.confidence_score ?? 0;
  return (
    <>
      <p className="event-sentence">
        {decision.input_trigger ? <span className="dim">Given “{decision.input_trigger}”, it </span> : "It "}
        chose <b>{choice || "what follows"}</b>
        {decision.rationale && <> because {decision.rationale}</>}
        {confidence > 0 && (
          <>
            , <span className="dim">with a confidence of</span> {percent(confidence)}
          </>
        )}
        .
      </p>
      {confidence > 0 && <meter min={0} max={1} value={confidence} aria-label="Confidence" />}
      <h3>Turned down</h3>
      {decision.rejected_alternatives?.length ? (
        <ul className="event-rejected">
          {decision.rejected_alternatives.map((one) => (
            <li key={one}>{one}</li>
          ))}
        </ul>
      ) : (
        <p className="dim">There was no alternative.</p>
      )}
    </>
  );
}

function ModelSaid({ call }: { call: ModelCall }) {
  const messages = parsed(call.messages);
  return (
    <>
      <Facts>
        {call.model}
        {`${count(call.input_tokens ?? 0)} tokens in`}
        {`${count(call.output_tokens ?? 0)} out`}
        {milliseconds(call.duration_ms ?? 0)}
        {call.finish_reason}
      </Facts>
      {call.error && <p role="alert">{call.error}</p>}
      {Array.isArray(messages) &&
        messages.map((message: { role?: string; content?: unknown }, at) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a prompt's messages have no other name and never move
          <LongText key={at} title={String(message?.role ?? "message")} text={String(message?.content ?? "")} />
        ))}
      <LongText title="answer" text={call.completion ?? ""} />
    </>
  );
}

function ToolSaid({ call }: { call: ToolCall }) {
  return (
    <>
      <Facts>
        {call.tool}
        {call.outcome?.toLowerCase()}
        {call.exit_code ? `exit status ${call.exit_code}` : ""}
        {milliseconds(call.duration_ms ?? 0)}
        {call.sandboxed ? "" : "not sandboxed"}
        {call.reason}
      </Facts>
      {call.arguments && call.arguments !== "{}" && <LongText title="arguments" text={call.arguments} />}
      <LongText title="output" text={call.output ?? ""} />
    </>
  );
}

function Facts({ children }: { children: ReactNode[] }) {
  return (
    <p className="facts">
      {children.filter(Boolean).map((one, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: a fixed list
        <span key={at} className="tag">
          {one}
        </span>
      ))}
    </p>
  );
}
