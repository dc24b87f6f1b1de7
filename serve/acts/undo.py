"""Take one change of a run back: of files with a three-way merge over what came later, of a variable by itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from enchanted.actors.errors import ActorError
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.merge_queue import Conflict, MergeQueue
from enchanted.actors.repository.tree_store import Patch
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.errors import StateConflict
from enchanted.bus.ports import BusPort
from enchanted.schemas.events import StoredEvent, kind_of, state_change
from enchanted.schemas.fold import DB_SCHEMA, ENV_VAR, FILE_SYSTEM, MAIN_WORKSPACE, workspace_of
from enchanted.serve.acts.run_facts import facts_of
from enchanted.serve.acts.undo_variable import (
    CHANGED,
    VariableTarget,
    changes_of,
    find_variable,
    ids_of,
    newest_in_stream,
    record_variable,
    variable_document,
)
from enchanted.serve.errors import EventNotFound, ServeError, TableBehind, UndoRefused
from enchanted.serve.moments.contents import Contents
from enchanted.serve.moments.seek import events_between
from enchanted.serve.sources.arrival import arrived
from enchanted.serve.sources.buslink import RUN_DEADLINE
from enchanted.serve.sources.dependencies import Dependencies
from enchanted.serve.sources.parameters import MAX_SEQ

STAYED = 10
"""Undos that a run's branch may be behind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The change, and where its workspace stands now."""

    change: StoredEvent
    tree: str
    """The files of the same workspace as they are now."""
    former: tuple[str, ...]
    """What its files were before the last undos, the newest first: a branch may have stayed there, checked out."""
    known: frozenset[str]
    """See `newest_in_stream`."""

    @property
    def workspace(self) -> str:
        """The workspace the change is of."""
        return workspace_of(self.change)


async def undone(deps: Dependencies, contents: Contents, run: str, event_id: str, *, dry_run: bool) -> dict[str, Any]:
    """Undo a change and record it; what it did, or would do, as a document.

    Raises:
        EventNotFound: the run has no such event.
        UndoRefused: it is no change that can be taken back, or later work contradicts.
    """
    events = await _newest(deps, run)
    change = find_change(events, run, event_id)
    if change.event.state_change.target_type == ENV_VAR:
        return await _variable_undone(deps, run, find_variable(events, change), dry_run=dry_run)
    target = find_target(events, run, event_id)
    step = target.change.event.state_change
    trees = [target.tree, step.previous_state_hash, step.new_state_hash]
    if not dry_run:
        trees = [*reversed(target.former), *trees]
    async with contents.trees(run, events, trees) as repository:
        patch, tree = await taken_back(repository, target)
        if dry_run:
            return _document(run, target, patch, tree)
        async with deps.bus.use(RUN_DEADLINE) as bus:
            stored = await record(bus, run, target, patch, tree)
        branch = await _branch_moved(repository, events, run, target, tree)
    with suppress(TableBehind):  # the undo is done; that it cannot be asked about yet is no failure of it
        await arrived(deps, run, stored.seq)
    return _document(run, target, patch, tree) | {
        "undo_event_id": stored.event.event_id,
        "seq": stored.seq,
        "branch": branch,
    }


async def _variable_undone(deps: Dependencies, run: str, target: VariableTarget, *, dry_run: bool) -> dict[str, Any]:
    document = variable_document(run, target)
    if dry_run:
        return document
    async with deps.bus.use(RUN_DEADLINE) as bus:
        stored = await record_variable(bus, run, target)
    with suppress(TableBehind):  # as above
        await arrived(deps, run, stored.seq)
    return document | {"undo_event_id": stored.event.event_id, "seq": stored.seq}


async def _newest(deps: Dependencies, run: str) -> Sequence[StoredEvent]:
    """From the stream, since the table is a moment behind; from the table where the stream has let the base go."""
    try:
        events = await deps.bus.read_run(run)
    except ServeError:
        events = []
    if any(stored.event.state_change.content_sha256 for stored in events):
        return events
    return await events_between(deps, run, 0, MAX_SEQ)


def find_change(events: Sequence[StoredEvent], run: str, event_id: str) -> StoredEvent:
    """The change to take back, of all the run's events.

    Raises:
        EventNotFound: the run has no such event.
        UndoRefused: it is none that can be taken back, or the run is at work.
    """
    change = next((stored for stored in events if stored.event.event_id == event_id), None)
    if change is None:
        raise EventNotFound(event_id)
    step = change.event.state_change
    if step.target_type == DB_SCHEMA:
        raise UndoRefused(
            f"event {event_id} changed an object of a database, which Enchanted does not hold; change it back there, "
            "and let whoever does so record it as a new state change"
        )
    if kind_of(change.event) != "state_change" or step.target_type not in (FILE_SYSTEM, ENV_VAR):
        raise UndoRefused(
            f"event {event_id} is no change of files or of a variable; "
            "`enchanted events --kind state_change` lists those"
        )
    if not step.is_reversible or step.content_sha256:
        raise UndoRefused(f"event {event_id} says that it cannot be reversed; fork or restore a state before it")
    facts = facts_of(events)
    if facts.state and not facts.closed:
        raise UndoRefused(f"{run} is still at work; wait for its verdict, or cancel it")
    return change


def find_target(events: Sequence[StoredEvent], run: str, event_id: str) -> Target:
    """The change of files to take back, and where its workspace stands.

    Raises:
        As `find_change`.
    """
    change = find_change(events, run, event_id)
    held = changes_of(events, workspace_of(change))
    files = [one.event.state_change for one in held if one.event.state_change.target_type == FILE_SYSTEM]
    undone = [one for one in files if one.reason == "undo"] if workspace_of(change) == MAIN_WORKSPACE else []
    return Target(
        change=change,
        tree=files[-1].new_state_hash,
        former=tuple(one.previous_state_hash for one in reversed(undone[-STAYED:])),
        known=ids_of(held),
    )


async def taken_back(repository: ShadowRepository, target: Target) -> tuple[Patch, str]:
    """The files as they are now without the change, as a patch and a tree.

    Raises:
        UndoRefused: later work contradicts.
    """
    step = target.change.event.state_change
    try:
        merged = await MergeQueue(repository).merge(
            base=step.new_state_hash, ours=target.tree, theirs=step.previous_state_hash
        )
    except ActorError as error:
        raise UndoRefused(str(error)) from error
    if isinstance(merged, Conflict):
        raise UndoRefused(
            f"later work changed the same places in {', '.join(merged.paths[:10])}; undo that first", merged.paths
        )
    if merged.tree == target.tree:
        raise UndoRefused("nothing of this change is left: it was undone, or all of it was changed again")
    return await repository.diff(target.tree, merged.tree), merged.tree


async def record(bus: BusPort, run: str, target: Target, patch: Patch, tree: str) -> StoredEvent:
    """Write an undo into the run's log.

    Raises:
        UndoRefused: the workspace was changed since ``target`` was looked at.
    """
    change = state_change(
        workspace_id=target.workspace,
        previous_tree=target.tree,
        new_tree=tree,
        patch=patch.text,
        files=patch.files,
        reason="undo",
        resource=", ".join(file.path for file in patch.files[:3]),
        parent=target.change.event.event_id,
    )
    log = AgentLog(bus, run_id=run, role="operator", agent_name="operator")
    newest = await newest_in_stream(bus, run, target.workspace, target.known)
    try:
        return await log.emit_change(change, expected_last=newest)
    except StateConflict as error:
        raise UndoRefused(CHANGED) from error


async def _branch_moved(
    repository: ShadowRepository, events: Sequence[StoredEvent], run: str, target: Target, tree: str
) -> str:
    """What became of the run's branch, in words."""
    facts = facts_of(events)
    branch = f"enchanted/{run}"
    if target.workspace != MAIN_WORKSPACE or not facts.repo:
        return ""
    message = f"Undo {target.change.event.event_id}\n\nEnchanted-Run: {run}"
    try:
        commit = await repository.extend_branch(
            facts.repo, branch, (target.tree, *target.former), tree, message, base_commit=facts.base_commit
        )
    except ActorError as error:
        return f"{branch} is as it was: {error}"
    return f"{branch} is at {commit[:12]} now"


def _document(run: str, target: Target, patch: Patch, tree: str) -> dict[str, Any]:
    return {
        "run_id": run,
        "event_id": target.change.event.event_id,
        "workspace": target.workspace,
        "previous_tree": target.tree,
        "tree": tree,
        "files": [file.path for file in patch.files],
        "patch": patch.text,
        "variable": None,
        "undo_event_id": "",
        "seq": 0,
        "branch": "",
    }
