"""A run of very many changes, made without a repository: every tree id is git's, computed here."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from enchanted.actors.ledger import request_to_json
from enchanted.actors.repository.git import Git
from enchanted.actors.repository.tree_store import EMPTY_TREE, TreeStore
from enchanted.actors.repository.tree_writer import TreeWriter
from enchanted.actors.work import RunRequest
from enchanted.bus.agent_log import new_id
from enchanted.bus.batch import Outgoing
from enchanted.bus.subjects import event_subject
from enchanted.schemas.chain import Head
from enchanted.schemas.events import AgentHead, FileChange, SwarmEvent, run_transition, state_change

FILES = 200


class _Hashing(TreeWriter):
    """Computes ids and writes nothing."""

    def _write(self, kind: bytes, content: bytes) -> bytes:
        return hashlib.sha256(b"%s %d\0%s" % (kind, len(content), content)).digest()


@dataclass(frozen=True, kw_only=True, slots=True)
class LongRun:
    """Messages in their order, and the bundle that the base names."""

    run: str
    messages: list[Outgoing]
    raws: list[bytes]
    bundle: bytes


def path_of(number: int) -> str:
    """The path of the file that the change ``number`` edits."""
    return f"src/part_{number % 10}/module_{number % FILES:03}.py"


def content_of(number: int) -> bytes:
    """What that file holds afterwards."""
    lines = "".join(f"CONSTANT_{line} = {line}\n" for line in range(20))
    return f"VALUE = {number}\n{lines}".encode()


def long_run(run: str, changes: int) -> LongRun:
    """A closed run with so many changes of its main workspace by one agent."""
    messages: list[Outgoing] = []
    raws: list[bytes] = []
    head = Head()
    bundle, base = _base()
    for event in _events(run, changes, base, bundle):
        event.event_id, event.run_id, event.agent_id = new_id(), run, "orchestrator-1"
        event.agent_name, event.agent_role = "orchestrator", 4  # type: ignore[assignment]  # open enum
        if event.run_transition.to_state == "merged":
            event.run_transition.heads.append(
                AgentHead(agent_id=event.agent_id, agent_seq=head.seq, event_hash=head.event_hash)
            )
        raw, head = head.stamp(event)
        raws.append(raw)
        messages.append(Outgoing(subject=event_subject(event), payload=raw, event_id=event.event_id))
    return LongRun(run=run, messages=messages, raws=raws, bundle=bundle)


def _base() -> tuple[bytes, str]:
    with tempfile.TemporaryDirectory() as folder:
        store = TreeStore.create(Path(folder, "repo.git"))
        files = {path_of(number).encode(): ("100644", content_of(number)) for number in range(FILES)}
        tree = store.writer.with_files("", files)
        assert tree is not None
        store.bundle(tree, Path(folder, "base"))
        return Path(folder, "base").read_bytes(), tree


def _events(run: str, changes: int, base: str, bundle: bytes) -> Iterator[SwarmEvent]:
    request = RunRequest(run_id=run, task="change much", repo="/nowhere", checks=("true",))
    yield run_transition(
        subject="run", from_state="", to_state="created", reason="change much", details=request_to_json(request)
    )
    writer = _Hashing(Path(), Git(cwd=Path()))
    files = {path_of(number).encode(): ("100644", content_of(number)) for number in range(FILES)}
    blobs = {path: _blob(content).hex() for path, (_, content) in files.items()}
    tree = writer.with_files("", files)
    assert tree == base
    listed = [_file(path.decode(), "", blobs[path], len(files[path][1])) for path in sorted(files)]
    yield state_change(
        workspace_id="main", previous_tree=EMPTY_TREE, new_tree=base, patch="", files=listed, reason="base",
        resource="/nowhere", reversible=False, content_sha256=hashlib.sha256(bundle).hexdigest(),
    )  # fmt: skip
    for number in range(FILES, FILES + changes):
        path, content = path_of(number), content_of(number)
        after = writer.with_files(tree, {path.encode(): ("100644", content)})
        assert after is not None
        old, blobs[path.encode()] = blobs[path.encode()], _blob(content).hex()
        yield state_change(
            workspace_id="main", previous_tree=tree, new_tree=after, patch=_patch(number, old, blobs[path.encode()]),
            files=[_file(path, old, blobs[path.encode()], len(content))], reason="merge", resource=path,
        )  # fmt: skip
        tree = after
    yield run_transition(subject="run", from_state="checking", to_state="merged", reason="done")


def _patch(number: int, old: str, new: str) -> str:
    path = path_of(number)
    return (
        f"diff --git a/{path} b/{path}\nindex {old}..{new} 100644\n--- a/{path}\n+++ b/{path}\n@@ -1,4 +1,4 @@\n"
        f"-VALUE = {number - FILES}\n+VALUE = {number}\n CONSTANT_0 = 0\n CONSTANT_1 = 1\n CONSTANT_2 = 2\n"
    )


def _file(path: str, old: str, new: str, size: int) -> FileChange:
    return FileChange(
        path=path, old_mode="100644" if old else "", new_mode="100644", old_blob=old, new_blob=new, size=size
    )


def _blob(content: bytes) -> bytes:
    return hashlib.sha256(b"blob %d\0%s" % (len(content), content)).digest()
