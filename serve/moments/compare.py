"""Two runs side by side: where they first say something else, what they cost, how their files differ."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from enchanted.actors.rerun.compare import Difference, differences
from enchanted.schemas.events import StoredEvent, SwarmEvent, event_to_dict, kind_of
from enchanted.schemas.fold import MAIN_WORKSPACE, RunState, WorkspaceState, fold, path_key
from enchanted.serve.documents.answer import JsonResponse, described
from enchanted.serve.documents.runs import RunDocument
from enchanted.serve.errors import ContentDelayed, ContentUnavailable
from enchanted.serve.moments.contents import Contents
from enchanted.serve.moments.file_diffs import FileDiff, Note, Side, file_diffs
from enchanted.serve.moments.seek import events_between
from enchanted.serve.queries.runs import find_run
from enchanted.serve.sources.dependencies import Deps
from enchanted.serve.sources.parameters import MAX_SEQ, RunId

router = APIRouter(prefix="/api/v1", tags=["history"])

UNCOMPARED = (
    "run_id", "parent_event_id", "workspace_id", "model_call.duration_ms",
    "model_call.time_to_first_token_ms", "tool_call.duration_ms",
)  # fmt: skip
"""What no two runs share, beside what no two performances do."""
MOST_FILES = 200


class SideDocument(BaseModel):
    """An event of one of the two."""

    seq: int
    event_id: str
    kind: str
    event: dict[str, Any]


class FieldDocument(BaseModel):
    """One field that is not the same."""

    field: str
    a: str
    b: str


class PartingDocument(BaseModel):
    """The first place where the runs part."""

    agent: str
    a: SideDocument | None
    """Null where this run says nothing more."""
    b: SideDocument | None
    differences: list[FieldDocument]


class ChangedFileDocument(BaseModel):
    """A file that is not the same at the end of both; an empty blob where it is not there."""

    path: str
    path_hex: str
    """Hex of its name where that is not UTF-8; `path` is then a readable form."""
    a_blob: str
    b_blob: str
    diff: str
    """Unified diff from ``a`` to ``b``, cut after 32 KiB; empty where none was asked for."""
    diff_note: Note
    """Why ``diff`` is not all there is: binary, cut, too large (1 MiB), left out (256 KiB of diffs), unavailable."""


class CompareDocument(BaseModel):
    """Two runs side by side."""

    a: RunDocument
    b: RunDocument
    forked_at: int
    """The sequence of ``a`` at which ``b`` was forked; 0 where it was not."""
    a_forked_at: int
    """The sequence of ``b`` at which ``a`` was forked; 0 where it was not."""
    equal_events: int
    """Events that say the same, agent by agent, up to where each parts; after the fork, if one is one."""
    divergence: PartingDocument | None
    files: list[ChangedFileDocument]
    files_differing: int
    """All of them; ``files`` has the first two hundred."""
    diffs_unavailable: str
    """Why no file has a diff, though they were asked for; empty where that is not so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parting:
    """Where one agent's events part."""

    agent: str
    a: StoredEvent | None
    b: StoredEvent | None
    differences: tuple[Difference, ...] = ()

    @property
    def place(self) -> tuple[int, int]:
        """Orders partings: by the first run, then by the second."""
        return (self.a.seq if self.a else MAX_SEQ, self.b.seq if self.b else MAX_SEQ)


@router.get("/runs/{run}/compare/{other}", response_model=None, responses=described(CompareDocument))
async def compare_runs(run: RunId, other: RunId, request: Request, deps: Deps, diffs: bool = False) -> JsonResponse:
    """Two runs; where one is a fork of the other, from the fork on.

    With ``diffs`` what the differing files say otherwise, for which both runs' files may have to be rebuilt.
    """
    found = await asyncio.gather(find_run(deps, run), find_run(deps, other))
    logs = [await events_between(deps, name, 0, MAX_SEQ) for name in (run, other)]
    states = await asyncio.to_thread(lambda: [fold(log) for log in logs])
    document = await asyncio.to_thread(compared, found, logs, states)
    if diffs and document["files"]:
        sides = [
            Side(run=name, events=log, tree=_main(state).tree)
            for name, log, state in zip((run, other), logs, states, strict=True)
        ]
        document |= await _with_diffs(request.app.state.contents, sides, document["files"])
    return JsonResponse(document)


async def _with_diffs(contents: Contents, sides: Sequence[Side], files: Sequence[dict[str, str]]) -> dict[str, Any]:
    """The members of the document that have the files' diffs; a run's files may be past rebuilding."""
    try:
        found = await file_diffs(contents, sides[0], sides[1], [_name(file) for file in files])
        why = ""
    except (ContentUnavailable, ContentDelayed) as error:
        found, why = {}, str(error)
    # What the events tell of a file need not be so in their trees.
    missing = FileDiff(note="unavailable")
    shown = [(file, found.get(_name(file), missing)) for file in files]
    return {
        "files": [file | {"diff": diff.text, "diff_note": diff.note} for file, diff in shown],
        "diffs_unavailable": why,
    }


def _name(file: Mapping[str, str]) -> bytes:
    return path_key(file["path"], file["path_hex"]).encode("utf-8", "surrogateescape")


def compared(
    found: Sequence[Mapping[str, Any]], logs: Sequence[Sequence[StoredEvent]], states: Sequence[RunState]
) -> dict[str, Any]:
    """The document of two runs, without diffs; ``states`` are those at the logs' ends."""
    a, b = found
    forked_at, a_forked_at = _forked_at(a, b), _forked_at(b, a)
    starts = forked_at or _opening(logs[0], a_forked_at), a_forked_at or _opening(logs[1], forked_at)
    equal, parting = first_parting(*map(_from, logs, starts))
    files = list(_files(*map(_main, states)))
    return {
        "a": a,
        "b": b,
        "forked_at": forked_at,
        "a_forked_at": a_forked_at,
        "equal_events": equal,
        "divergence": None if parting is None else _parting_document(parting),
        "files": files[:MOST_FILES],
        "files_differing": len(files),
        "diffs_unavailable": "",
    }


def first_parting(a: Sequence[StoredEvent], b: Sequence[StoredEvent]) -> tuple[int, Parting | None]:
    """How many events are the same, agent by agent, and where the first agent parts."""
    left, right = _by_agent(a), _by_agent(b)
    equal, partings = 0, list[Parting]()
    for agent in dict.fromkeys([*left, *right]):
        same, parting = _part(agent, left.get(agent, []), right.get(agent, []))
        equal += same
        if parting is not None:
            partings.append(parting)
    return equal, min(partings, key=lambda one: one.place, default=None)


def _part(agent: str, a: Sequence[StoredEvent], b: Sequence[StoredEvent]) -> tuple[int, Parting | None]:
    for number in range(max(len(a), len(b))):
        mine = a[number] if number < len(a) else None
        theirs = b[number] if number < len(b) else None
        if mine is None or theirs is None:
            return number, Parting(agent=agent, a=mine, b=theirs)
        if found := differences(_stripped(mine.event), _stripped(theirs.event)):
            return number, Parting(agent=agent, a=mine, b=theirs, differences=found)
    return len(a), None


def _by_agent(events: Sequence[StoredEvent]) -> dict[str, list[StoredEvent]]:
    agents: dict[str, list[StoredEvent]] = {}
    for stored in events:
        # Signals are measurements of processes.
        if kind_of(stored.event) != "system_signal":
            agents.setdefault(stored.event.agent_name or stored.event.agent_id, []).append(stored)
    return agents


def _stripped(event: SwarmEvent) -> SwarmEvent:
    copy = SwarmEvent()
    copy.CopyFrom(event)
    for name in UNCOMPARED:
        holder, _, field = name.rpartition(".")
        if not holder:
            copy.ClearField(field)
        elif copy.HasField(holder):
            getattr(copy, holder).ClearField(field)
    return copy


def _forked_at(parent: Mapping[str, Any], child: Mapping[str, Any]) -> int:
    request = child["request"]
    if not isinstance(request, dict) or request.get("forked_from") != parent["run_id"]:
        return 0
    # Anybody may have written it.
    at = request.get("forked_at")
    return at if type(at) is int and 0 <= at <= MAX_SEQ else 0


def _opening(log: Sequence[StoredEvent], forked_at: int) -> int:
    """The sequence of a fork's step out of ``created``; 0 for what is no fork."""
    if not forked_at:
        return 0
    return next((one.seq for one in log if one.event.run_transition.from_state == "created"), 0)


def _from(log: Sequence[StoredEvent], after: int) -> list[StoredEvent]:
    return [stored for stored in log if stored.seq > after]


def _main(state: RunState) -> WorkspaceState:
    return state.workspaces.get(MAIN_WORKSPACE) or WorkspaceState()


def _files(a: WorkspaceState, b: WorkspaceState) -> Iterator[dict[str, str]]:
    for key in sorted(a.files.keys() | b.files.keys()):
        mine, theirs = a.files.get(key), b.files.get(key)
        one = mine or theirs
        if one and (mine and (mine.mode, mine.blob)) != (theirs and (theirs.mode, theirs.blob)):
            yield {
                "path": one.path,
                "path_hex": one.path_hex,
                "a_blob": mine.blob if mine else "",
                "b_blob": theirs.blob if theirs else "",
                "diff": "",
                "diff_note": "",
            }


def _parting_document(parting: Parting) -> dict[str, Any]:
    fields = [{"field": one.field, "a": one.recorded, "b": one.new} for one in parting.differences]
    return {"agent": parting.agent, "a": _side(parting.a), "b": _side(parting.b), "differences": fields}


def _side(stored: StoredEvent | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    event = event_to_dict(stored.event)
    return {"seq": stored.seq, "event_id": stored.event.event_id, "kind": kind_of(stored.event), "event": event}
