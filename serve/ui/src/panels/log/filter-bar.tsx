/** Kinds, agent and text to show. */

import type { Kind } from "../../api/event";
import type { RunLog } from "../../run/log";
import { KIND_NAMES, KINDS } from "../../run/sentence";
import { short } from "../../run/words";
import type { Filter } from "./filter";

/** A list as wide as its widest choice would push everything else away. */
const LONGEST_CHOICE = 40;

interface Props {
  log: RunLog;
  filter: Filter;
  onChange: (filter: Filter) => void;
}

export function FilterBar({ log, filter, onChange }: Props) {
  const toggle = (kind: Kind) => {
    const hidden = new Set(filter.hidden);
    if (!hidden.delete(kind)) hidden.add(kind);
    onChange({ ...filter, hidden });
  };
  return (
    <search className="filter">
      <input
        type="search"
        placeholder="Search the log"
        aria-label="Search the log"
        value={filter.text}
        onChange={(event) => onChange({ ...filter, text: event.target.value })}
      />
      <select
        aria-label="Agent"
        value={filter.agent}
        onChange={(event) => onChange({ ...filter, agent: event.target.value })}
      >
        <option value="">all agents</option>
        {log.agents.map(({ name }) => (
          <option key={name} value={name}>
            {short(name, LONGEST_CHOICE)}
          </option>
        ))}
      </select>
      <div className="kinds">
        {KINDS.filter((kind) => kind !== "unknown").map((kind) => (
          <button
            key={kind}
            type="button"
            className="kind-toggle"
            aria-pressed={!filter.hidden.has(kind)}
            onClick={() => toggle(kind)}
          >
            <i className={`mark kind-${kind}`} aria-hidden="true" />
            {KIND_NAMES[kind]}
          </button>
        ))}
      </div>
    </search>
  );
}
