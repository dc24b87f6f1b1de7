"""States of runs on the way, so that a seek folds a few hundred events; derived, may be deleted at any time."""

from __future__ import annotations

import hashlib
import logging
import secrets
import struct
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import orjson
from backports import zstd
from google.protobuf.message import Message

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.errors import NotAnEvent
from enchanted.schemas.events import StoredEvent, SwarmEvent, parse_event
from enchanted.schemas.fold import (
    FILE_SYSTEM,
    AgentState,
    FileState,
    MainStep,
    RunState,
    TaskState,
    ValueState,
    WorkspaceState,
)
from enchanted.serve.moments.places import Places

log = logging.getLogger(__name__)

EVERY = 125
"""Events from one checkpoint to the next."""
VERSION = "v3"
"""Of the files; a folder of another one is not looked at."""
UNNUMBERED = timedelta(hours=1)
"""Age of an event after which none before it is still on its way, where a producer does not number its events."""
REMEMBERED = 32
"""States, and stretches of events, in memory."""
_LOOKED_AT: dict[str, Collection[str]] = {
    "model_call": {"output_tokens", "context_hash"},
    "tool_call": (),
    "decision": {"rationale"},
}
"""Payload -> the fields of it that folding looks at."""
_HEAD = struct.Struct("<QqI")
"""Sequence, microseconds since 1970, bytes that follow."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_UNREADABLE = (
    *(OSError, zstd.ZstdError, NotAnEvent),
    *(ValueError, LookupError, TypeError, AttributeError, struct.error),
)
"""What reading a damaged file can end in."""

T = TypeVar("T")


class Checkpoints:
    """By run: states at some sequences, and what a fold needs of the events from each to the next."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "states" / VERSION
        self._seqs: dict[str, list[int]] = {}
        self._states: OrderedDict[tuple[str, int], RunState] = OrderedDict()
        self._events: OrderedDict[tuple[str, int], _Stretch] = OrderedDict()

    def nearest(self, run: str, at: int, places: Places | None = None) -> RunState:
        """The newest state of a run at a sequence up to ``at``; an empty one where there is none.

        ``places``: a state of more or fewer events than the run has is not used.
        """
        seqs = self.seqs(run)
        for seq in reversed(seqs[: bisect_right(seqs, at)]):
            if places is not None and not places.among(seq):
                continue
            state = self._kept(self._states, (run, seq), self._path(run, seq, "state"), _state)
            if state is None:
                seqs.remove(seq)
            elif places is None or places.fit(_events_of(state), seq):
                return state
        return RunState()

    def following(self, run: str, state: RunState, at: int, places: Places | None = None) -> list[StoredEvent] | None:
        """The events from a kept state up to ``at``, with what a fold needs of each; None if not all are kept."""
        if at == state.seq:
            return []
        seqs = self.seqs(run)
        if not seqs or seqs[-1] <= state.seq:
            return None
        found = self._kept(self._events, (run, state.seq), self._path(run, state.seq, "events"), _whole)
        # A stretch may end before the next state there is: one between was lost, or its writer was killed.
        if found is None or found.last < at:
            return None
        if places is not None and not places.fit(_events_of(state) + found.count, found.last):
            return None
        return read_slim(found.content, at)

    def add(self, run: str, start: int, events: Sequence[StoredEvent], state: RunState) -> None:
        """Keep a state, and the events that lead to it from the state at ``start``."""
        seqs = self.seqs(run)
        self._write(self._path(run, start, "events"), b"".join(map(slim, events)))
        self._write(self._path(run, state.seq, "state"), orjson.dumps(_plain(state)))
        # They may replace what was kept while rows were away.
        self._events.pop((run, start), None)
        self._states.pop((run, state.seq), None)
        if state.seq not in seqs:
            insort(seqs, state.seq)

    def seqs(self, run: str) -> list[int]:
        """Where a run has states, ascending."""
        if run not in self._seqs:
            names = (path.name.partition(".")[0] for path in self._path(run, 0, "state").parent.glob("*.state"))
            self._seqs[run] = sorted(int(name) for name in names if name.isdecimal())
        return self._seqs[run]

    def _kept(
        self, kept: OrderedDict[tuple[str, int], T], key: tuple[str, int], path: Path, read: Callable[[bytes], T]
    ) -> T | None:
        """What a file holds, from memory where it was read lately; None where it does not read back."""
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        try:
            whole = zstd.decompress(path.read_bytes())
            if hashlib.sha256(whole[32:]).digest() != whole[:32]:
                raise ValueError("its hash is another one")
            kept[key] = read(whole[32:])
        except FileNotFoundError:
            return None
        except (
            OSError,
            zstd.ZstdError,
            NotAnEvent,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            struct.error,
        ) as error:
            log.warning("the checkpoint %s does not read back (%s) and is not used", path, error)
            path.unlink(missing_ok=True)
            return None
        while len(kept) > REMEMBERED:
            kept.popitem(last=False)
        return kept[key]

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        partial.write_bytes(zstd.compress(hashlib.sha256(content).digest() + content))
        partial.replace(path)

    def _path(self, run: str, seq: int, what: str) -> Path:
        return self._folder / sha256_hex(run)[:32] / f"{seq}.{what}"


def slim(stored: StoredEvent) -> bytes:
    """An event with what `Folding` looks at, and no more."""
    event = SwarmEvent()
    event.CopyFrom(stored.event)
    change = event.state_change if event.HasField("state_change") else None
    if change is not None and change.target_type == FILE_SYSTEM:
        change.ClearField("diff_patch")
        for file in change.files:
            file.ClearField("old_blob")
    for name, looked_at in _LOOKED_AT.items():
        if event.HasField(name):
            _leave(getattr(event, name), looked_at)
    if event.HasField("run_transition"):
        event.run_transition.ClearField("heads")
    raw = event.SerializeToString()
    micros = int(stored.time.timestamp() * 1_000_000)
    return _HEAD.pack(stored.seq, micros, len(raw)) + raw


def _leave(message: Message, looked_at: Collection[str]) -> None:
    for descriptor, _ in message.ListFields():
        if descriptor.name not in looked_at:
            message.ClearField(descriptor.name)


def read_slim(content: bytes, until: int) -> list[StoredEvent]:
    """The events up to a sequence that `slim` wrote, one after the other; ``raw`` is not the published bytes."""
    found = []
    for seq, micros, raw in _split(content):
        if seq > until:
            break
        time = _EPOCH + timedelta(microseconds=micros)
        found.append(StoredEvent(seq=seq, time=time, subject="", raw=b"", event=parse_event(raw)))
    return found


def _split(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    place = 0
    while place < len(content):
        seq, micros, size = _HEAD.unpack_from(content, place)
        place += _HEAD.size + size
        if place > len(content):
            raise ValueError("the last event is cut short")
        yield seq, micros, content[place - size : place]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The events from one state to the next."""

    count: int
    last: int
    """The sequence of the last one."""
    content: bytes


def _whole(content: bytes) -> _Stretch:
    seqs = [seq for seq, _, _ in _split(content)]
    return _Stretch(len(seqs), seqs[-1] if seqs else 0, content)


def _events_of(state: RunState) -> int:
    """How many events a state comes from: every one is of an agent."""
    return sum(agent.events for agent in state.agents.values())


def is_settled(state: RunState, now: datetime, settled: timedelta) -> bool:
    """Whether no event before this state can come in any more: its agents' numbers have no gap, and it is old.

    The last events of an agent may be away all the same; a state without them does not fit the run's `Places` later.
    ``settled``: how old is old enough, where agents number their events.
    """
    if state.time is None or any(agent.agent_seq > agent.events for agent in state.agents.values()):
        return False
    numbered = all(agent.agent_seq == agent.events for agent in state.agents.values())
    return now.astimezone(UTC) - state.time > (settled if numbered else UNNUMBERED)


def _plain(state: RunState) -> dict[str, Any]:
    return {
        **{name: getattr(state, name) for name in ("seq", "time", "state", "reason", "details")},
        "workspaces": {name: _plain_space(space) for name, space in state.workspaces.items()},
        "tasks": [asdict(task) for task in state.tasks.values()],
        "agents": [asdict(agent) for agent in state.agents.values()],
        "main_steps": [
            [step.tree, {key: _listed(file) for key, file in step.before.items()}] for step in state.main_steps
        ],
    }


def _plain_space(space: WorkspaceState) -> dict[str, Any]:
    files = {key: _listed(file) for key, file in space.files.items()}
    return {"tree": space.tree, "files": files, "variables": space.variables, "schema_objects": space.schema_objects}


_FILE = tuple(one.name for one in fields(FileState))


def _file(listed: list[Any]) -> FileState:
    return FileState(**dict(zip(_FILE, listed, strict=True)))


def _values(saved: dict[str, Any]) -> dict[str, ValueState]:
    return {name: ValueState(**value) for name, value in saved.items()}


def _listed(file: FileState | None) -> list[Any] | None:
    return None if file is None else [getattr(file, name) for name in _FILE]


def _state(content: bytes) -> RunState:
    saved = orjson.loads(content)
    return RunState(
        **{name: saved[name] for name in ("seq", "state", "reason", "details")},
        time=datetime.fromisoformat(saved["time"]),
        workspaces={
            name: WorkspaceState(
                tree=space["tree"],
                files={key: _file(file) for key, file in space["files"].items()},
                variables=_values(space["variables"]),
                schema_objects=_values(space["schema_objects"]),
            )
            for name, space in saved["workspaces"].items()
        },
        tasks={task["task_id"]: TaskState(**task) for task in saved["tasks"]},
        agents={agent["agent_id"]: AgentState(**agent) for agent in saved["agents"]},
        main_steps=tuple(
            MainStep(tree, {key: None if file is None else _file(file) for key, file in before.items()})
            for tree, before in saved["main_steps"]
        ),
    )
