"""Where a fork begins: another run's state at a sequence, and what the new run's log says of it.

A fork's log stands for itself: it names the parent's base bundle and holds the way from there as changes of its own,
so that it outlives its parent.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from enchanted.actors.errors import ActorError
from enchanted.actors.ledger import Ledger, TaskRecord, read_ledger, record_to_json, report_to_json
from enchanted.actors.lifecycle import RunSignal, RunState, TaskSignal, TaskState, next_task_state
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.rebuild import Rebuilder
from enchanted.actors.repository.tree_store import Patch
from enchanted.actors.tools.variables import Offers, from_json, still_offered, to_json
from enchanted.actors.work import RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.errors import BlobUnusable
from enchanted.bus.ports import BusPort
from enchanted.schemas import events
from enchanted.schemas.canonical import Json, sha256_hex
from enchanted.schemas.events import ChangeReason, StoredEvent, SwarmEvent
from enchanted.schemas.fold import MAIN_WORKSPACE

SIGNALS = {
    RunState.PLANNING: RunSignal.FORK_PLANNING,
    RunState.WORKING: RunSignal.FORK_WORKING,
    RunState.CHECKING: RunSignal.FORK_CHECKING,
}
"""State of the parent at the point -> what brings the fork there; any other begins with the checks."""
TASK_SIGNALS = {
    TaskState.PENDING: TaskSignal.PLAN,
    TaskState.REVIEWING: TaskSignal.FORK_REVIEWING,
    TaskState.ACCEPTED: TaskSignal.FORK_ACCEPTED,
    TaskState.REJECTED: TaskSignal.FORK_REJECTED,
}


class CannotFork(ActorError):
    """There is no state to fork from."""

    def __init__(self, run: str, at: int, why: str, remedy: str = "") -> None:
        remedy = remedy or f"`enchanted events {shlex.quote(run)}` lists its sequences"
        super().__init__(f"{run} cannot be forked at {at}: {why}; {remedy}")


class ForkPruned(CannotFork):
    """What the fork would begin with was there once and is not kept any more."""

    def __init__(self, run: str, at: int, why: str) -> None:
        remedy = (
            f"if the API has its files yet, `enchanted restore {shlex.quote(run)} --at {at} --into FOLDER` writes "
            "them; else begin anew with `enchanted run TASK --repo REPO`"
        )
        super().__init__(run, at, why, remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class ForkPoint:
    """A run as it stood at a sequence."""

    run: str
    at: int
    events: tuple[StoredEvent, ...]
    """Its events up to there, whole."""
    ledger: Ledger
    base_content: str
    """SHA-256 of its base bundle."""

    @property
    def main_tree(self) -> str:
        """The main workspace."""
        return self.ledger.main_tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """The step out of ``created``."""

    signal: RunSignal
    reason: str
    details: dict[str, Json]
    drafts: list[SwarmEvent]
    """The tasks as they stand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beginning:
    """What a fork starts with."""

    signal: RunSignal
    tasks: tuple[TaskRecord, ...]
    workspaces: Mapping[str, tuple[str, ...]]
    """Workspace of a task in progress -> its trees, from the one it was given to the one it has."""


async def read_fork_point(bus: BusPort, run: str, at: int) -> ForkPoint:
    """Read a run up to a sequence.

    Raises:
        CannotFork: the stream does not hold the run, or its base was not stored yet at ``at``.
        ForkPruned: the beginning of its log, or content that its events name, is not kept any more.
    """
    try:
        found = [await inflated(bus, stored) for stored in await bus.read_run(run, until=at)]
    except BlobUnusable as error:
        raise ForkPruned(run, at, f"part of its log cannot be had: {error}") from error
    if not found:
        raise CannotFork(run, at, "the stream holds none of its events up to there")
    point = fork_point(run, at, found)
    if not await bus.blobs.has(point.base_content):
        raise ForkPruned(run, at, _without_base(point))
    return point


def _without_base(point: ForkPoint) -> str:
    assert point.ledger.request is not None
    parent = point.ledger.request.forked_from
    whose = f", which was {parent}'s," if parent else ""
    gone = f"is no more in the bus's object store ({point.base_content[:12]})"
    return f"the bundle its log begins with{whose} {gone}"


def fork_point(run: str, at: int, found: Sequence[StoredEvent]) -> ForkPoint:
    """The same from events that are at hand, every one up to ``at``.

    Raises:
        CannotFork: as above.
    """
    base = next((one.event.state_change for one in found if one.event.state_change.content_sha256), None)
    if _begins_in_the_middle(found):
        raise ForkPruned(run, at, "the stream no longer holds the beginning of its log")
    try:
        ledger = read_ledger(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CannotFork(run, at, "its log is not one of our orchestrator's") from error
    if base is None or ledger.request is None or not ledger.main_tree:
        raise CannotFork(run, at, "its files were not stored yet")
    return ForkPoint(run=run, at=at, events=tuple(found), ledger=ledger, base_content=base.content_sha256)


def _begins_in_the_middle(found: Sequence[StoredEvent]) -> bool:
    """Whether an agent's first event is not there; who does not number events tells nothing."""
    first: dict[str, int] = {}
    for stored in found:
        first.setdefault(stored.event.agent_id, stored.event.agent_seq)
    return any(number > 1 for number in first.values())


def beginning(point: ForkPoint, request: RunRequest) -> Beginning:
    """Where the fork goes on: in the middle of the parent's plan, unless it is asked for something else."""
    parent = point.ledger
    assert parent.request is not None
    same = (request.task, request.checks) == (parent.request.task, parent.request.checks)
    if not same or parent.state not in SIGNALS or parent.report is None:
        return Beginning(signal=RunSignal.BASE_STORED, tasks=(), workspaces={})
    tasks = tuple(_as_begun(parent, task, request.variables) for task in parent.tasks.values())
    workspaces = {name: trees for task in parent.tasks.values() for name, trees in _trees(parent, task)}
    return Beginning(signal=SIGNALS[parent.state], tasks=tasks, workspaces=workspaces)


def _as_begun(parent: Ledger, task: TaskRecord, offers: Offers) -> TaskRecord:
    """A task that a Coder was at waits for another one, which finds the files and what was set for checks as they
    were, as far as the fork offers that as well.
    """
    if task.state != TaskState.CODING:
        return replace(task, variables=still_offered(offers, task.variables))
    values = {name: from_json(text) for name, text in parent.variables.get(task.workspace_id, {}).items()}
    variables = still_offered(offers, {**task.variables, **values})
    return replace(task, state=TaskState.PENDING, start=_stood(parent, task), variables=variables)


def _stood(parent: Ledger, task: TaskRecord) -> str:
    return parent.trees.get(task.workspace_id, task.start or task.assigned)


def _trees(parent: Ledger, task: TaskRecord) -> Iterator[tuple[str, tuple[str, ...]]]:
    if task.state == TaskState.CODING:
        yield task.workspace_id, (task.assigned, _stood(parent, task))
    if task.state == TaskState.PENDING and task.start:
        yield task.workspace_id, (task.assigned, task.start)
    if task.state == TaskState.REVIEWING:
        yield task.workspace_id, (task.submission["base_tree"], task.submission["tree"])


async def store_beginning(bus: BusPort, log: AgentLog, ledger: Ledger, repository: ShadowRepository) -> Opening:
    """Write what a fork begins with into its log, without what an earlier orchestrator wrote; what follows is a step.

    Raises:
        CannotFork: see `read_fork_point`.
    """
    assert ledger.request is not None
    point = await read_fork_point(bus, ledger.request.forked_from, ledger.request.forked_at)
    begin, base = beginning(point, ledger.request), point.ledger.base_tree
    write = _Changes(log, ledger, repository)
    if not ledger.main_tree:
        await write.base(base, point.base_content)
    for name, trees in begin.workspaces.items():
        written = trees.index(ledger.trees[name]) + 1 if name in ledger.trees else 0
        for tree in trees[written:]:
            await write.change(name, ledger.trees.get(name, base), tree)
    for task in begin.tasks:
        await write.variables(task.workspace_id, task.variables)
    for tree in _main_trees(point, begin, ledger.main_tree):
        await write.change(MAIN_WORKSPACE, ledger.main_tree, tree)
    return Opening(
        signal=begin.signal,
        reason=f"forked from {point.run} at {point.at}",
        details=_details(point, begin),
        drafts=[_task_draft(task, ledger.last_event_id) for task in begin.tasks],
    )


def _main_trees(point: ForkPoint, begin: Beginning, reached: str) -> list[str]:
    """The way of the main workspace by the last valid state, which a rollback goes to, from where it is."""
    valid = point.ledger.valid_tree if begin.signal != RunSignal.BASE_STORED else ""
    way = [tree for tree in (valid, point.main_tree) if tree and tree != point.ledger.base_tree]
    return way[way.index(reached) + 1 :] if reached in way else way or [point.main_tree]


class _Changes:
    """Changes of a fork's workspaces that bring them where the parent's were."""

    def __init__(self, log: AgentLog, ledger: Ledger, repository: ShadowRepository) -> None:
        assert ledger.request is not None
        self._log, self._ledger, self._repository = log, ledger, repository
        self._resource = f"{ledger.request.forked_from} at {ledger.request.forked_at}"

    async def base(self, tree: str, content: str) -> None:
        empty = self._repository.empty_tree
        files = await self._repository.list(tree)
        await self._write(MAIN_WORKSPACE, empty, tree, Patch(text="", files=files), reason="base", content=content)

    async def change(self, workspace: str, old: str, new: str) -> None:
        if old != new:
            await self._write(workspace, old, new, await self._repository.diff(old, new), reason="fork")

    async def variables(self, workspace: str, values: Mapping[str, str]) -> None:
        known = self._ledger.variables.get(workspace, {})
        for name, value in values.items():
            text = to_json(value)
            if known.get(name) != text:
                change = events.variable_change(
                    workspace_id=workspace,
                    name=name,
                    previous_hash="",
                    new_hash=sha256_hex(text),
                    value=text,
                    reason="fork",
                    reversible=False,
                    parent=self._ledger.last_event_id,
                )
                await self._emit(change)

    async def _write(
        self, workspace: str, old: str, new: str, patch: Patch, *, reason: ChangeReason, content: str = ""
    ) -> None:
        change = events.state_change(
            workspace_id=workspace,
            previous_tree=old,
            new_tree=new,
            patch=patch.text,
            files=patch.files,
            reason=reason,
            resource=self._resource,
            reversible=False,
            content_sha256=content,
            parent=self._ledger.last_event_id,
        )
        await self._emit(change)

    async def _emit(self, change: SwarmEvent) -> None:
        last = self._ledger.seqs.get(change.workspace_id, 0)
        self._ledger.add(await self._log.emit_change(change, expected_last=last))


def _details(point: ForkPoint, begin: Beginning) -> dict[str, Json]:
    parent = point.ledger
    details: dict[str, Json] = {"base_commit": parent.base_commit, "base_tree": parent.base_tree}
    details["forked_from"] = {"run_id": point.run, "at": point.at, "state": parent.state}
    if begin.signal != RunSignal.BASE_STORED and parent.report is not None:
        details |= {"report": report_to_json(parent.report), "valid_tree": parent.valid_tree}
    return details


def _task_draft(task: TaskRecord, parent: str) -> SwarmEvent:
    return events.run_transition(
        subject="task",
        from_state="",
        to_state=next_task_state(TaskState.NEW, TASK_SIGNALS[task.state]),
        reason=task.spec.title,
        details={"forked": record_to_json(task)},
        task_id=task.spec.task_id,
        parent=parent,
    )


async def make_repository(
    folder: Path, bus: BusPort, events: Sequence[StoredEvent], *, trees: Sequence[str], base_commit: str
) -> ShadowRepository:
    """A shadow repository made from a run's events, with these trees in it; it appears at once or not at all.

    Raises:
        CannotRebuild: the events do not lead there.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    rebuilder = Rebuilder(partial, fetch=bus.blobs.get, inflate=bus.inflate, base_commit=base_commit)
    for tree in dict.fromkeys(trees):
        await rebuilder.make(events, tree)
    partial.rename(folder)
    return ShadowRepository.open(folder)


async def fork_repository(folder: Path, bus: BusPort, request: RunRequest) -> ShadowRepository:
    """The shadow repository of a fork, with every tree it begins with.

    Raises:
        CannotFork, CannotRebuild: the parent's events are not there any more, or do not lead there.
    """
    point = await read_fork_point(bus, request.forked_from, request.forked_at)
    try:
        return await _with_trees(folder, bus, point, request)
    except BlobUnusable as error:
        raise ForkPruned(point.run, point.at, f"part of its log cannot be had: {error}") from error


async def _with_trees(folder: Path, bus: BusPort, point: ForkPoint, request: RunRequest) -> ShadowRepository:
    inner = [tree for trees in beginning(point, request).workspaces.values() for tree in trees]
    trees = [point.ledger.base_tree, *inner, point.ledger.valid_tree, point.ledger.main_tree]
    return await make_repository(
        folder, bus, point.events, trees=[tree for tree in trees if tree], base_commit=point.ledger.base_commit
    )


async def inflated(bus: BusPort, stored: StoredEvent) -> StoredEvent:
    """The event with its moved-out fields."""
    return replace(stored, event=await bus.inflate(stored.event)) if stored.event.blobs else stored
