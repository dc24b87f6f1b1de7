"""One run as one HTML file, part by part: nothing in it runs or asks anybody, and text of agents is text. Pure."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from importlib import resources
from typing import Any

from enchanted.schemas.chain import Verdict
from enchanted.schemas.events import StoredEvent, kind_of, role_of
from enchanted.schemas.fold import FileState
from enchanted.schemas.foreign import foreign_json
from enchanted.schemas.gen import events_pb2 as pb

TEXT = 20_000
"""Characters of one text that are shown."""
PATCH = 200_000
"""Characters of one patch."""
KINDS = {
    "decision": "decisions", "state_change": "changes", "tool_call": "tools", "model_call": "models",
    "run_transition": "steps", "system_signal": "signals", "unknown": "unreadable",
}  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LINES = {"+": "ins", "-": "del", "@": "b"}
_VOID = frozenset({"input", "meta"})


class Html(str):
    """Markup; any other text is escaped where it is put into some."""

    __slots__ = ()


def tag(name: str, /, *inside: str, **attributes: str) -> Html:
    """An element; names of attributes may end in ``_``, and empty ones are left out."""
    given = "".join(f' {key.rstrip("_")}="{_text(value)}"' for key, value in attributes.items() if value)
    return Html(f"<{name}{given}>{''.join(map(_text, inside))}" + ("" if name in _VOID else f"</{name}>"))


def _text(text: str) -> str:
    return text if isinstance(text, Html) else escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def joined(parts: Iterable[str]) -> Html:
    """Parts one after the other."""
    return Html("".join(map(_text, parts)))


def head(run: Mapping[str, Any]) -> str:
    """The begin of the file: what the run was about, and where it stands."""
    style = resources.files("enchanted.serve.export").joinpath("page.css").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
    task = run["request"].get("task") if isinstance(run["request"], dict) else None
    title = task if isinstance(task, str) and task else run["run_id"]
    facts = {
        "run": run["run_id"],
        "trace": run["trace_id"],
        "began": run["started_at"],
        "last event": run["updated_at"],
        **{name: f"{run[name]:,}" for name in ("events", "agents", "decisions", "changes")},
        "tokens in": f"{run['input_tokens']:,}",
        "tokens out": f"{run['output_tokens']:,}",
    }
    parts = [
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width"),
        tag("title", f"{title[:200]} · Enchanted"),
        Html(f"<style>{style}</style>"),
    ]
    state = tag("b", run["state"] or "external", class_="state")
    shown = [
        tag("h1", tag("bdi", title[:TEXT])),
        tag("p", state, " " if run["closed"] else " (not closed) ", tag("bdi", run["reason"][:TEXT])),
        _facts(facts),
        tag("nav", tag("a", "Log", href="#log"), tag("a", "Files at the end", href="#files"),
            tag("a", "Proof", href="#proof")),
    ]  # fmt: skip
    filters = [_filter(kind, name) for kind, name in KINDS.items() if kind != "unknown"]
    return (
        f'<!doctype html>\n<html lang="en"><head>{joined(parts)}</head>\n<body><header>{joined(shown)}</header>\n'
        f'<main><section id="log"><h2>Log</h2><p>{tag("span", *filters, class_="filter")}</p>\n'
    )


def _filter(kind: str, name: str) -> Html:
    box = Html(f'<input type="checkbox" id="show-{kind}"{"" if kind == "system_signal" else " checked"}>')
    return tag("label", box, " ", name)


def time_of(stored: StoredEvent) -> float:
    """Seconds since 1970 by the agent's own clock; the stream's where the event names no time."""
    return stored.event.timestamp.seconds + stored.event.timestamp.nanos / 1e9 or stored.time.timestamp()


def event(stored: StoredEvent, began: float, sound: bool) -> Html:
    """One event of the log, in a run that ``began`` at a time of `time_of`; its cause is a link."""
    said, kind, agent = stored.event, kind_of(stored.event), stored.event.agent_name or stored.event.agent_id
    line = [
        tag("a", str(stored.seq), href=f"#e-{said.event_id}"),
        tag("time", f"+{time_of(stored) - began:.1f} s", datetime=stored.time.isoformat()),
        tag("bdi", agent or "unnamed", class_=role_of(said)),
        tag("span", KINDS[kind].removesuffix("s")),
    ]
    if said.task_id:
        line.append(tag("bdi", said.task_id))
    if said.parent_event_id:
        line.append(tag("a", "cause", href=f"#e-{said.parent_event_id}"))
    parts = [tag("p", *line, class_="line"), *_SHOWN[kind](said)]
    if not sound:
        parts.append(tag("p", "The stored bytes are not the published ones: what is shown may be wrong.", class_="bad"))
    parts += [tag("p", f"{blob.field}: {blob.size:,} bytes are stored apart.", class_="dim") for blob in said.blobs]
    return Html(tag("article", *parts, id=f"e-{said.event_id}", class_=kind) + "\n")


def unreadable(seq: int, event_id: str) -> Html:
    """An event whose bytes are no event any more."""
    line = tag("p", str(seq), " ", tag("bdi", event_id), class_="line")
    return Html(tag("article", line, tag("p", "Its bytes cannot be read.", class_="bad"), class_="unknown") + "\n")


def _decision(event: pb.SwarmEvent) -> Iterable[Html]:
    said = event.decision
    choice = _choice(said.action)
    words = ["Given ", tag("q", said.input_trigger[:TEXT]), ", it "] if said.input_trigger else ["It "]
    words += ["chose ", tag("b", tag("bdi", choice[:TEXT]))] if choice else ["decided"]
    if said.rationale:
        words += [" because ", tag("bdi", said.rationale[:TEXT])]
    if said.confidence_score > 0:
        words += [f", with a confidence of {said.confidence_score:.0%}"]
    yield tag("p", *words, ".", class_="sentence")
    if said.rejected_alternatives:
        turned_down = [tag("li", tag("bdi", one[:TEXT])) for one in said.rejected_alternatives[:100]]
        yield tag("div", tag("p", "Turned down"), tag("ul", *turned_down), class_="rejected")


def _choice(action: str) -> str:
    try:
        found = foreign_json(action) if action else ""
    except ValueError:
        return action
    if isinstance(found, dict):
        found = next((found[name] for name in ("choice", "verdict", "action") if name in found), "")
    return found if isinstance(found, str) else str(found)[:TEXT]


def _change(event: pb.SwarmEvent) -> Iterable[Html]:
    change = event.state_change
    yield tag("p", f"{change.reason or 'changed'} ", tag("bdi", change.target_resource[:TEXT]), class_="sentence")
    if change.diff_patch:
        name = f"patch of {len(change.files)} {'file' if len(change.files) == 1 else 'files'}"
        yield tag(
            "details", tag("summary", name), _patch(change.diff_patch), open="open" if len(change.files) < 4 else ""
        )


def _patch(text: str) -> Html:
    lines = [
        tag(_LINES[line[0]], line) if line[:1] in _LINES and not line.startswith(("+++", "---")) else line
        for line in text[:PATCH].split("\n")
    ]
    return tag("pre", Html("\n"), Html("\n".join(map(_text, lines))), _cut(text, PATCH))


def _model(event: pb.SwarmEvent) -> Iterable[Html]:
    call = event.model_call
    tokens = f" answered: {call.input_tokens:,} tokens in, {call.output_tokens:,} out, {call.duration_ms:,.0f} ms"
    yield tag("p", tag("bdi", call.model), tokens, class_="sentence")
    if call.error:
        yield tag("p", tag("bdi", call.error[:TEXT]), class_="bad")
    yield from _long("answer", call.completion)


def _tool(event: pb.SwarmEvent) -> Iterable[Html]:
    call = event.tool_call
    outcome = f" {call.outcome.lower()}, exit status {call.exit_code}, {call.duration_ms:,.0f} ms"
    yield tag("p", tag("bdi", call.tool), tag("span", outcome, class_="" if call.outcome == "OK" else "bad"),
              " ", tag("bdi", call.reason[:TEXT]), class_="sentence")  # fmt: skip
    yield from _long("arguments", call.arguments)
    yield from _long("output", call.output)


def _step(event: pb.SwarmEvent) -> Iterable[Html]:
    step = event.run_transition
    what = f"The {step.subject or 'run'} went from {step.from_state or 'nothing'} to "
    yield tag("p", what, tag("b", step.to_state), ": ", tag("bdi", step.reason[:TEXT]), class_="sentence")


def _signal(event: pb.SwarmEvent) -> Iterable[Html]:
    signal = event.system_signal
    load = f" with {signal.memory_usage_mb} MB, {signal.cpu_load_percent} % of the processor "
    yield tag("p", f"{signal.status.lower()}", load, tag("bdi", signal.detail[:TEXT]), class_="sentence")


def _unknown(event: pb.SwarmEvent) -> Iterable[Html]:
    yield tag("p", "A kind of event that this version does not know.", class_="sentence")


_SHOWN = {
    "decision": _decision, "state_change": _change, "model_call": _model, "tool_call": _tool,
    "run_transition": _step, "system_signal": _signal, "unknown": _unknown,
}  # fmt: skip


def _long(name: str, text: str) -> Iterable[Html]:
    if text and text != "{}":
        shown = tag("pre", Html("\n"), text[:TEXT], _cut(text, TEXT), dir="auto")
        yield tag("details", tag("summary", f"{name}, {len(text):,} characters"), shown)


def _cut(text: str, most: int) -> Html:
    rest = len(text) - most
    return Html("") if rest <= 0 else tag("i", f"\n… and {rest:,} more characters, which `enchanted export` has")


def files_begin(count: int, why: str) -> str:
    """After the log: the files of the main workspace; ``why`` their contents are not there, if so."""
    note = tag("p", why, class_="bad") if why else ""
    return f'</section>\n<section id="files"><h2>Files at the end</h2>{tag("p", f"{count:,} files")}{note}\n'


def file(state: FileState, content: str | None) -> Html:
    """One file, with its content where it is text and not too long."""
    facts = tag("span", f" {state.mode} · {state.size:,} bytes · {state.blob[:12]} · changed at {state.seq}")
    name = tag("bdi", state.path)
    if content is None:
        return Html(tag("p", name, facts, class_="file") + "\n")
    shown = tag("pre", Html("\n"), content, dir="auto")
    return Html(tag("details", tag("summary", name, facts), shown, class_="file") + "\n")


def tail(verdict: Verdict, heads: Mapping[str, tuple[str, int, str]], damaged: bool) -> str:
    """The end of the file: what the chains say, and where each ended (agent id -> name, count, SHA-256).

    ``damaged``: bytes of an event are not those that were ingested.
    """
    intact = verdict.intact and not damaged
    good = intact and verdict.complete
    words = f"{verdict.checked:,} events were checked while this was written: "
    words += "no event is altered, inserted or moved" if intact else "an event is altered, inserted or moved"
    words += "; none is missing." if verdict.complete else "; the end is not vouched for, or events are missing."
    faults = [fault for fault in (verdict.first_bad, *verdict.missing[:20]) if fault]
    rows = [
        tag("tr", tag("td", tag("bdi", name)), tag("td", tag("bdi", agent)), tag("td", f"{count:,}"), tag("td", digest))
        for agent, (name, count, digest) in heads.items()
    ]
    columns = tag(
        "tr", *(tag("th", name, scope="col") for name in ("agent", "id", "events", "SHA-256 of the last one"))
    )
    parts = [
        tag("h2", "Proof"),
        tag("p", words, class_="good" if good else "bad"),
        *(tag("p", f"at {fault.seq or 'no sequence'}: ", tag("bdi", fault.why), class_="bad") for fault in faults),
        tag("table", tag("thead", columns), tag("tbody", *rows)),
        tag("p", "`enchanted verify RUN` holds the same chains against the stream; who changes this file changes its "
                 "claims too.", class_="dim"),
    ]  # fmt: skip
    return f"</section>\n{tag('section', *parts, id='proof')}\n</main></body></html>\n"


def _facts(facts: Mapping[str, str]) -> Html:
    return tag(
        "dl", *(tag("div", tag("dt", name), tag("dd", tag("bdi", value))) for name, value in facts.items() if value)
    )
