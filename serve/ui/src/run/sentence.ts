/** What an event says, as a sentence a person reads. */

import { choiceOf, type Decision, type Kind } from "../api/event";
import type { Row } from "./row";
import { short } from "./words";

export const KIND_NAMES: Record<Kind, string> = {
  decision: "decision",
  state_change: "change",
  tool_call: "tool",
  model_call: "model",
  run_transition: "step",
  system_signal: "signal",
  unknown: "unreadable",
};

export const KINDS = Object.keys(KIND_NAMES) as Kind[];

export function sentenceOf(row: Row, decision?: Decision): string {
  switch (row.kind) {
    case "decision":
      return decided(row, decision);
    case "state_change":
      return `${row.result || "changed"} ${row.name}`;
    case "tool_call":
      return `${row.name} ${outcomeOf(row.result)}${row.text ? `: ${row.text}` : ""}`;
    case "model_call":
      return `${row.name} answered ${row.text}`;
    case "run_transition":
      return `${row.taskId || "the run"} is ${row.result}${row.text ? `: ${row.text}` : ""}`;
    case "system_signal":
      return `${row.result.toLowerCase().replaceAll("_", " ")}${row.text ? `: ${row.text}` : ""}`;
    default:
      return "an event that cannot be read";
  }
}

/** Characters of a choice in one line. */
const LONGEST_CHOICE = 300;

function decided(row: Row, decision?: Decision): string {
  const choice = decision ? short(choiceOf(decision), LONGEST_CHOICE) : "";
  if (!choice || choice === row.text) return row.text || "decided";
  return row.text ? `chose “${choice}” because ${row.text}` : `chose “${choice}”`;
}

function outcomeOf(result: string): string {
  return result === "OK" ? "succeeded" : result.toLowerCase().replaceAll("_", " ");
}
