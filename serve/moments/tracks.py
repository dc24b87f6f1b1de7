"""Every file of a run through its changes: what touched it, what it was before, and where its lines came from. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from enchanted.schemas.events import FileChange, StoredEvent, SwarmEvent, kind_of
from enchanted.schemas.fold import MAIN_WORKSPACE, STARTS, path_key, workspace_of

MOST_CAUSES = 64
"""Events that are walked from a change to its decision."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Version:
    """A file after one change; the versions before it are a chain."""

    change: StoredEvent
    entry: FileChange
    before: Version | None
    """What the change found, under another name where it was renamed; a workspace begins with its origin's versions."""
    source: Version | None
    """Where the lines came from that a merge, a rollback, an undo or a fork brought: it moves lines, it writes none."""

    @property
    def seq(self) -> int:
        """Stream sequence of the change."""
        return self.change.seq

    @property
    def tree(self) -> str:
        """The tree that holds it."""
        return self.change.event.state_change.new_state_hash

    @property
    def blob(self) -> str:
        """Its content; empty where the change removed the file."""
        return self.entry.new_blob

    def history(self) -> list[Version]:
        """All versions up to this one, the oldest first."""
        found: list[Version] = []
        version: Version | None = self
        while version is not None:
            found.append(version)
            version = version.before
        return found[::-1]

    def origins(self) -> list[Version]:
        """Every version that lines of this one may come from, the oldest first."""
        found: dict[int, Version] = {}
        waiting = [self]
        while waiting:
            version = waiting.pop()
            if id(version) not in found:
                found[id(version)] = version
                waiting += [one for one in (version.before, version.source) if one is not None]
        return sorted(found.values(), key=lambda version: version.seq)


class Tracks:
    """The newest version of each file of each workspace, and the decision behind each change."""

    def __init__(self, events: Iterable[StoredEvent], parent: Tracks | None = None) -> None:
        """``parent``: those of the run that this one is a fork of, up to where it was forked."""
        self._parent = parent
        self._spaces: dict[str, dict[str, Version]] = {}
        self._trees: dict[str, str] = {}
        self._steps: deque[tuple[str, dict[str, Version | None]]] = deque(maxlen=STARTS)
        """Former trees of the main workspace, and what the change after each one replaced."""
        # A fork takes tasks up in the workspaces they had.
        self._of_task: dict[str, str] = dict(parent._of_task) if parent else {}
        self._events: dict[str, SwarmEvent] = dict(parent._events) if parent else {}
        for stored in events:
            self._events[stored.event.event_id] = stored.event
            if kind_of(stored.event) == "state_change" and stored.event.state_change.target_type == "FILE_SYSTEM":
                self._add(stored)

    def version(self, workspace: str, key: str) -> Version | None:
        """A file's newest version by its `path_key`, also of one that was removed."""
        return self._spaces.get(workspace, {}).get(key)

    def decision_of(self, event: SwarmEvent) -> str:
        """The id of the decision that led to an event: the nearest among its causes; empty where there is none."""
        for cause in self._causes(event):
            if kind_of(cause) == "decision":
                return cause.event_id
        return ""

    def _causes(self, event: SwarmEvent) -> Iterator[SwarmEvent]:
        for _ in range(MOST_CAUSES):
            cause = self._events.get(event.parent_event_id)
            if cause is None:
                return
            yield cause
            event = cause

    def _add(self, stored: StoredEvent) -> None:
        name, change = workspace_of(stored), stored.event.state_change
        if name not in self._spaces:
            self._spaces[name] = self._with_tree(change.previous_state_hash)
        space = self._spaces[name]
        removed = [entry for entry in change.files if not entry.new_blob]
        left = {entry.old_blob: space.get(path_key(entry.path, entry.path_hex)) for entry in removed}
        made = {}
        for entry in change.files:
            key = path_key(entry.path, entry.path_hex)
            before = space.get(key)
            if entry.new_blob and (before is None or not before.blob):
                before = left.get(entry.new_blob) or before
            source = self._source(stored, key, entry, before)
            made[key] = Version(change=stored, entry=entry, before=before, source=source)
        if name == MAIN_WORKSPACE:
            self._steps.append((self._trees.get(name, ""), {key: space.get(key) for key in made}))
        space.update(made)
        self._trees[name] = change.new_state_hash
        if name != MAIN_WORKSPACE and stored.event.task_id:
            self._of_task[stored.event.task_id] = name

    def _with_tree(self, tree: str) -> dict[str, Version]:
        """The versions of a tree that some workspace has, or the main one had lately."""
        for name, known in self._trees.items():
            if tree and known == tree:
                return dict(self._spaces[name])
        if not tree or all(earlier != tree for earlier, _ in self._steps):
            return {}
        space = dict(self._spaces[MAIN_WORKSPACE])
        for earlier, before in reversed(self._steps):
            for key, version in before.items():
                if version is None:
                    space.pop(key, None)
                else:
                    space[key] = version
            if earlier == tree:
                break
        return space

    def _source(self, stored: StoredEvent, key: str, entry: FileChange, before: Version | None) -> Version | None:
        if stored.event.state_change.reason == "merge":
            return self.version(self._of_task.get(stored.event.task_id, ""), key)
        if stored.event.state_change.reason == "rollback":
            return _found(before, lambda one: one.blob == entry.new_blob)
        if stored.event.state_change.reason == "undo":
            # It names what it takes back, and brings lines of what that had found.
            undone = _found(before, lambda one: one.change.event.event_id == stored.event.parent_event_id)
            return undone and undone.before
        if stored.event.state_change.reason == "fork" and self._parent is not None:
            there = self._parent.version(workspace_of(stored), key)
            return _found(there, lambda one: one.blob == entry.new_blob)
        return None


def _found(version: Version | None, wanted: Callable[[Version], bool]) -> Version | None:
    """The newest version from this one on backwards that is wanted."""
    while version is not None and not wanted(version):
        version = version.before
    return version


def version_document(tracks: Tracks, version: Version) -> dict[str, Any]:
    """A change of a file as the API shows it."""
    event, entry = version.change.event, version.entry
    return {
        "seq": version.seq,
        "event_id": event.event_id,
        "workspace": workspace_of(version.change),
        "path": entry.path,
        "path_hex": entry.path_hex,
        "reason": event.state_change.reason,
        "parent_event_id": event.parent_event_id,
        "decision_id": tracks.decision_of(event),
        "agent_id": event.agent_id,
        "agent_name": event.agent_name,
        "task_id": event.task_id,
        "trace_id": event.trace_id,
        "span_id": event.span_id,
        "old_mode": entry.old_mode,
        "new_mode": entry.new_mode,
        "old_blob": entry.old_blob,
        "new_blob": entry.new_blob,
        "size": entry.size,
    }
