"""States of runs on the way, so that a seek folds a few hundred events; derived, may be deleted at any time."""

from __future__ import annotations

import logging
from bisect import bisect_right, insort
from collections import OrderedDict
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from backports import zstd

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.fold import AgentState, FileState, MainStep, RunState, TaskState, WorkspaceState

log = logging.getLogger(__name__)

EVERY = 500
"""Events from one checkpoint to the next."""
VERSION = "v1"
"""Of the files; a folder of another one is not looked at."""
UNNUMBERED = timedelta(hours=1)
"""Age of an event after which none before it is still on its way, where a producer does not number its events."""
REMEMBERED = 32
"""States in memory."""


class Checkpoints:
    """States by run and sequence, in a folder of the cache."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "states" / VERSION
        self._seqs: dict[str, list[int]] = {}
        self._recent: OrderedDict[tuple[str, int], RunState] = OrderedDict()

    def nearest(self, run: str, at: int) -> RunState | None:
        """The newest state of a run at a sequence up to ``at``; None where there is none, or it does not read back."""
        seqs = self._known(run)
        while (place := bisect_right(seqs, at)) > 0:
            seq = seqs[place - 1]
            if (state := self._read(run, seq)) is not None:
                return state
            seqs.remove(seq)
        return None

    def add(self, run: str, state: RunState) -> None:
        """Keep a state, unless it is kept already."""
        seqs = self._known(run)
        if state.seq in seqs[max(0, bisect_right(seqs, state.seq) - 1) :]:
            return
        path = self._path(run, state.seq)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(zstd.compress(orjson.dumps(_plain(state))))
        partial.replace(path)
        insort(seqs, state.seq)
        self._remember(run, state)

    def _known(self, run: str) -> list[int]:
        if run not in self._seqs:
            names = self._path(run, 0).parent.glob("*.zst")
            self._seqs[run] = sorted(int(path.stem) for path in names if path.stem.isdecimal())
        return self._seqs[run]

    def _read(self, run: str, seq: int) -> RunState | None:
        if (run, seq) in self._recent:
            self._recent.move_to_end((run, seq))
            return self._recent[run, seq]
        path = self._path(run, seq)
        try:
            state = _state(orjson.loads(zstd.decompress(path.read_bytes())))
        except FileNotFoundError:
            return None
        except (OSError, zstd.ZstdError, ValueError, KeyError, TypeError) as error:
            log.warning("the checkpoint %s does not read back (%s) and is not used", path, error)
            path.unlink(missing_ok=True)
            return None
        self._remember(run, state)
        return state

    def _remember(self, run: str, state: RunState) -> None:
        self._recent[run, state.seq] = state
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)

    def _path(self, run: str, seq: int) -> Path:
        return self._folder / sha256_hex(run)[:32] / f"{seq}.zst"


def is_settled(state: RunState, now: datetime, settled: timedelta) -> bool:
    """Whether no event before this state can come in any more: its agents' numbers have no gap, and it is old.

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


def _listed(file: FileState | None) -> list[Any] | None:
    # orjson takes no named tuples.
    return None if file is None else list(file)


def _state(saved: dict[str, Any]) -> RunState:
    return RunState(
        **{name: saved[name] for name in ("seq", "state", "reason", "details")},
        time=datetime.fromisoformat(saved["time"]),
        workspaces={
            name: WorkspaceState(**{**space, "files": {key: FileState(*file) for key, file in space["files"].items()}})
            for name, space in saved["workspaces"].items()
        },
        tasks={task["task_id"]: TaskState(**task) for task in saved["tasks"]},
        agents={agent["agent_id"]: AgentState(**agent) for agent in saved["agents"]},
        main_steps=tuple(
            MainStep(tree, {key: file and FileState(*file) for key, file in before.items()})
            for tree, before in saved["main_steps"]
        ),
    )
