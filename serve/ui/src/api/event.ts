/** Events by the names of the .proto; the API's description leaves them open since it shows whatever was published. */

export type Kind =
  | "decision"
  | "state_change"
  | "system_signal"
  | "model_call"
  | "tool_call"
  | "run_transition"
  | "unknown";

export interface Decision {
  input_trigger?: string;
  rationale?: string;
  rejected_alternatives?: string[];
  confidence_score?: number;
  action?: string;
}

export interface FileChange {
  path: string;
  path_hex?: string;
  old_mode?: string;
  new_mode?: string;
  old_blob?: string;
  new_blob?: string;
}

export interface StateChange {
  target_type?: string;
  target_resource?: string;
  previous_state_hash?: string;
  new_state_hash?: string;
  diff_patch?: string;
  is_reversible?: boolean;
  /** Of the bundle that a run's base is in. */
  content_sha256?: string;
  files?: FileChange[];
  reason?: string;
}

export interface ModelCall {
  model?: string;
  messages?: string;
  completion?: string;
  finish_reason?: string;
  input_tokens?: number;
  output_tokens?: number;
  duration_ms?: number;
  error?: string;
}

export interface ToolCall {
  tool?: string;
  arguments?: string;
  outcome?: string;
  exit_code?: number;
  output?: string;
  duration_ms?: number;
  reason?: string;
  sandboxed?: boolean;
}

export interface RunTransition {
  subject?: string;
  from_state?: string;
  to_state?: string;
  reason?: string;
  details?: string;
}

export interface SystemSignal {
  status?: string;
  cpu_load_percent?: number;
  memory_usage_mb?: number;
  detail?: string;
}

export interface SwarmEvent {
  seq: number;
  stream_time: string;
  /** Outside the calendar its two numbers. */
  timestamp?: string | { seconds: string; nanos: number };
  kind: Kind;
  event_id: string;
  sha256: string;
  corrupted?: boolean;
  /** False where fields that were too large for it could not be fetched. */
  inflated?: boolean;
  trace_id?: string;
  span_id?: string;
  /** A number where the API's schema is older than its producer's. */
  agent_role?: string | number;
  agent_id?: string;
  agent_name?: string;
  agent_seq?: string;
  previous_event_hash?: string;
  parent_event_id?: string;
  run_id?: string;
  task_id?: string;
  workspace_id?: string;
  /** Fields that are in the object store. */
  blobs?: unknown[];
  decision?: Decision;
  state_change?: StateChange;
  model_call?: ModelCall;
  tool_call?: ToolCall;
  run_transition?: RunTransition;
  system_signal?: SystemSignal;
}

/** By the clock of who wrote it, or the stream's where that one shows no time of the calendar. */
export const timeOf = ({ timestamp, stream_time }: SwarmEvent): string =>
  typeof timestamp === "string" ? timestamp : stream_time;

/** Embedded JSON, or the text itself where it is none. */
export function parsed(text: string | undefined): unknown {
  if (!text) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** What a decision chose, in words. */
export function choiceOf(decision: Decision): string {
  const action = parsed(decision.action);
  if (typeof action === "string") return action;
  if (typeof action !== "object" || action === null) return "";
  const { choice, verdict, action: verb } = action as Record<string, unknown>;
  return String(choice ?? verdict ?? verb ?? "");
}
