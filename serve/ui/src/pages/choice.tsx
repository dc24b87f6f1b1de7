/** Two runs of the list, chosen to be laid side by side. */

import { useState } from "react";
import { useLocation } from "wouter";
import type { Run } from "../api/queries";
import { linkToCompare } from "../cursor/address";

export interface Choice {
  runs: Run[];
  toggle: (run: Run) => void;
}

export function useChoice(): Choice {
  const [runs, setRuns] = useState<Run[]>([]);
  const toggle = (run: Run) =>
    setRuns((before) => {
      const others = before.filter((one) => one.run_id !== run.run_id);
      return others.length < before.length ? others : [...others, run];
    });
  return { runs, toggle };
}

export function ChoiceBox({ run, choice }: { run: Run; choice: Choice }) {
  const chosen = choice.runs.some((one) => one.run_id === run.run_id);
  return (
    <input
      type="checkbox"
      aria-label={`Choose ${run.run_id} to compare`}
      checked={chosen}
      disabled={!chosen && choice.runs.length > 1}
      onChange={() => choice.toggle(run)}
    />
  );
}

export function CompareButton({ choice }: { choice: Choice }) {
  const [, navigate] = useLocation();
  // The older first: a fork is compared with its parent from the fork on, and never the other way round.
  const [a, b] = choice.runs.toSorted((one, other) => one.first_seq - other.first_seq);
  return (
    <button
      type="button"
      disabled={!b}
      title={b ? "Side by side" : "Choose two runs of the list first"}
      onClick={() => a && b && navigate(linkToCompare(a.run_id, b.run_id))}
    >
      Compare
    </button>
  );
}
