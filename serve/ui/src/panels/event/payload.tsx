/** What each kind of event says. */

import type { ReactNode } from "react";
import {
  choiceOf,
  type Decision,
  type ModelCall,
  parsed,
  type RunTransition,
  type SwarmEvent,
  type SystemSignal,
  type ToolCall,
} from "../../api/event";
import { count, milliseconds, percent, short } from "../../run/words";
import { Patch } from "./patch";
import { LongText } from "./text";

export function Payload({ event }: { event: SwarmEvent }) {
  const { decision, state_change, model_call, tool_call, run_transition, system_signal } = event;
  if (decision) return <DecisionSaid decision={decision} />;
  if (state_change)
    return <Patch key={event.event_id} text={state_change.diff_patch ?? ""} reason={state_change.reason ?? ""} />;
  if (model_call) return <ModelSaid call={model_call} />;
  if (tool_call) return <ToolSaid call={tool_call} />;
  if (run_transition) return <StepSaid step={run_transition} />;
  if (system_signal) return <SignalSaid signal={system_signal} />;
  return <p className="event-sentence">The event has no payload that this page knows.</p>;
}

/** Characters of a sentence; what is longer follows as a text of its own. */
const SENTENCE = 4_000;
/** Characters of what was turned down, and how many of them. */
const REJECTED = 1_000;
const MOST_REJECTED = 100;
/** Of a prompt: thousands take a browser a minute. */
const MOST_MESSAGES = 100;

function Rest({ of: text = "" }: { of: string | undefined }) {
  return text.length > SENTENCE && <LongText title="all of it" text={text} />;
}

function StepSaid({ step: { from_state, to_state, reason = "", subject } }: { step: RunTransition }) {
  return (
    <>
      <p className="event-sentence">
        The {subject === "task" ? "task" : "run"} went {from_state ? `from ${from_state} ` : ""}to <b>{to_state}</b>
        {reason && <>: {short(reason, SENTENCE)}</>}
      </p>
      <Rest of={reason} />
    </>
  );
}

function SignalSaid({ signal }: { signal: SystemSignal }) {
  const { status = "unknown", memory_usage_mb = 0, cpu_load_percent = 0, detail = "" } = signal;
  return (
    <>
      <p className="event-sentence">
        The process is <b>{status.toLowerCase()}</b> with {memory_usage_mb} MB and {cpu_load_percent} % of the
        processor. {short(detail, SENTENCE)}
      </p>
      <Rest of={detail} />
    </>
  );
}

function DecisionSaid({ decision }: { decision: Decision }) {
  const choice = short(choiceOf(decision), SENTENCE);
  const { confidence_score, rejected_alternatives: rejected = [], input_trigger = "" } = decision;
  const confidence = Number.isFinite(confidence_score) ? Number(confidence_score) : 0;
  return (
    <>
      <p className="event-sentence">
        {input_trigger ? <span className="dim">Given “{short(input_trigger, SENTENCE)}”, it </span> : "It "}
        chose <b>{choice || "what follows"}</b>
        {decision.rationale && <> because {short(decision.rationale, SENTENCE)}</>}
        {confidence > 0 && (
          <>
            , <span className="dim">with a confidence of</span> {percent(confidence)}
          </>
        )}
        .
      </p>
      <Rest of={decision.rationale} />
      {confidence > 0 && <meter min={0} max={1} value={confidence} aria-label="Confidence" />}
      <h3>Turned down</h3>
      {rejected.length ? (
        <ul className="event-rejected">
          {rejected.slice(0, MOST_REJECTED).map((one, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: the same may be turned down twice
            <li key={at}>{short(one, REJECTED)}</li>
          ))}
          {rejected.length > MOST_REJECTED && <li>and {count(rejected.length - MOST_REJECTED)} more</li>}
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
        messages.slice(0, MOST_MESSAGES).map((message: { role?: string; content?: unknown }, at) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a prompt's messages have no other name and never move
          <LongText key={at} title={String(message?.role ?? "message")} text={textOf(message?.content ?? message)} />
        ))}
      {Array.isArray(messages) && messages.length > MOST_MESSAGES && (
        <p className="dim">
          and {count(messages.length - MOST_MESSAGES)} more messages, which “Everything it holds” has
        </p>
      )}
      {call.messages && !Array.isArray(messages) && <LongText title="prompt" text={textOf(messages)} />}
      <LongText title="answer" text={call.completion ?? ""} />
    </>
  );
}

/** A message may be in parts, or be none at all. */
const textOf = (said: unknown): string => (typeof said === "string" ? said : JSON.stringify(said, null, 1));

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
