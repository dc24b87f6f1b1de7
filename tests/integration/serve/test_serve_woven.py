"""Two runs woven into one stream, runs still open, and runs whose contents are gone: every moment is one run's own."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from enchanted.actors.rerun import file
from enchanted.actors.rerun.recording import Recording
from enchanted.cluster.cli import execute
from enchanted.cluster.commands.importing import RECORDED
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of
from enchanted.schemas.fold import RunState, fold
from enchanted.serve.testing import World, copies

LAG = 60
"""Events that the second run is behind the first one, so that the two never say the same at a time."""


@pytest.fixture(scope="module")
async def recording(world: World) -> Recording:
    recording = await file.load(RECORDED)
    for content in recording.blobs.values():
        await world.bus.blobs.put(content)
    return recording


@dataclass(frozen=True, kw_only=True)
class Woven:
    """One of two runs, and some sequences of the other between its own."""

    run: str
    events: list[StoredEvent]
    foreign: list[int]

    def own(self, seq: int) -> int:
        """Its last sequence up to one that is not its."""
        seqs = [stored.seq for stored in self.events]
        return seqs[bisect_right(seqs, seq) - 1]

    def at(self, seq: int) -> RunState:
        return fold(self.events, at=seq)


@pytest.fixture(scope="module")
async def woven(world: World, recording: Recording) -> list[Woven]:
    names = ("run-woven-first0", "run-woven-second")
    first, second = (copies(recording, name) for name in names)
    between = [one for pair in zip(first[LAG:], second, strict=False) for one in pair]
    await world.bus.publisher.publish_many([*first[:LAG], *between, *second[len(first) - LAG :]])
    logs = [await world.bus.read_run(name) for name in names]
    for name, log in zip(names, logs, strict=True):
        await world.stored(name, len(log))
    return [Woven(run=names[n], events=logs[n], foreign=_between(logs[n], logs[1 - n])) for n in (0, 1)]


def _between(log: Sequence[StoredEvent], other: Sequence[StoredEvent]) -> list[int]:
    base = next(one.seq for one in log if one.event.state_change.content_sha256)
    return [stored.seq for stored in other if base < stored.seq < log[-1].seq][::12]


async def test_a_sequence_of_another_run_means_the_moment_of_the_run_that_is_asked_for(
    world: World, woven: list[Woven]
) -> None:
    for one in woven:
        assert len(one.foreign) > 8
        for seq in one.foreign:
            expected = one.at(seq)
            found = await world.document(f"runs/{one.run}/state", at=seq)
            assert found["at"] == expected.seq == one.own(seq) < seq
            assert found == await world.document(f"runs/{one.run}/state", at=one.own(seq))
            assert {name: space["tree"] for name, space in found["workspaces"].items()} == {
                name: space.tree for name, space in expected.workspaces.items()
            }
            assert {agent["agent_id"]: agent["events"] for agent in found["agents"]} == {
                agent.agent_id: agent.events for agent in expected.agents.values()
            }
            for agent in (agent for agent in expected.agents.values() if agent.context_seq):
                context = await world.document(f"runs/{one.run}/agents/{agent.agent_id}/context", seq=seq)
                call = next(stored for stored in one.events if stored.seq == agent.context_seq)
                assert context["event_id"] == call.event.event_id
                assert context["messages"] == json.loads(call.event.model_call.messages)


async def test_a_diff_between_sequences_of_another_run_is_that_between_the_runs_own(
    world: World, woven: list[Woven]
) -> None:
    for one in woven:
        start, end = one.foreign[0], one.foreign[-1]
        for a, b in ((start, end), (end, start)):
            found = await world.get(f"runs/{one.run}/diff", **{"from": a, "to": b})
            own = await world.get(f"runs/{one.run}/diff", **{"from": one.own(a), "to": one.own(b)})
            assert found.text == own.text != ""
            trees = tuple(found.headers[f"x-enchanted-{side}-tree"] for side in ("from", "to"))
            assert trees == tuple(one.at(seq).workspaces["main"].tree for seq in (a, b))


async def typed(world: World, capfdbinary: pytest.CaptureFixture[bytes], *arguments: str) -> tuple[int, bytes]:
    code = await asyncio.to_thread(execute, [*arguments, "--url", world.url, "--token-file", str(world.token_file)])
    return code, capfdbinary.readouterr().out


async def test_restore_and_fork_begin_at_the_runs_own_moment(
    world: World, woven: list[Woven], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for one in woven:
        for seq in one.foreign[:: len(one.foreign) - 1]:
            into = str(world.folder / "nowhere")
            body = {"at": seq, "into": into, "dry_run": True}
            restored = await world.http.post(f"/api/v1/runs/{one.run}/restores", json=body)
            assert restored.status_code == 200, restored.text
            tree = one.at(seq).workspaces["main"].tree
            assert (restored.json()["at"], restored.json()["tree"]) == (one.own(seq), tree)
            code, out = await typed(world, capfdbinary, "restore", one.run, "--at", str(seq), "--into", into, "--json")
            assert (code, json.loads(out)["at"]) == (2, one.own(seq))
            forked = await world.http.post(f"/api/v1/runs/{one.run}/forks", json={"at": seq, "dry_run": True})
            assert forked.status_code == 200, forked.text
            code, out = await typed(world, capfdbinary, "fork", one.run, "--at", str(seq), "--json")
            begin = json.loads(out)
            assert (code, begin["at"]) == (2, one.own(seq))
            assert {task["task_id"]: task["state"] for task in begin["tasks"]} == {
                task.task_id: task.state for task in one.at(seq).tasks.values()
            }


async def test_a_change_of_another_run_cannot_be_undone_in_this_one(world: World, woven: list[Woven]) -> None:
    for one, other in (woven, woven[::-1]):
        theirs = [stored for stored in other.events if stored.event.state_change.reason == "merge"]
        assert any(one.events[0].seq < stored.seq < one.events[-1].seq for stored in theirs)
        for stored in theirs:
            for dry_run in (True, False):
                body = {"event_id": stored.event.event_id, "dry_run": dry_run}
                answer = await world.http.post(f"/api/v1/runs/{one.run}/undos", json=body)
                assert (answer.status_code, answer.json()["code"]) == (404, "event-not-found")
        assert len(await world.bus.read_run(other.run)) == len(other.events)


async def test_play_from_a_sequence_of_another_run_shows_the_runs_own_from_there(
    world: World, woven: list[Woven], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for one in woven:
        start = one.foreign[len(one.foreign) // 2]
        command = ["play", one.run, "--from", str(start), "--speed", "100000", "--gap", "0", "--output", "ndjson"]
        code, out = await typed(world, capfdbinary, *command)
        seqs = [json.loads(line)["seq"] for line in out.splitlines()]
        assert (code, seqs) == (0, [stored.seq for stored in one.events if stored.seq > start])


async def test_a_run_that_is_still_open_is_viewed_and_played_as_far_as_it_is(
    world: World, recording: Recording, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = "run-still-open00"
    messages, known = copies(recording, run), 0
    command = ["play", run, "--speed", "100000", "--gap", "0", "--output", "ndjson"]
    for until in (90, 130, len(messages)):
        await world.bus.publisher.publish_many(messages[known:until])
        await world.stored(run, until)
        known = until
        events = await world.bus.read_run(run)
        expected, whole = fold(events), until == len(messages)
        assert (await world.document(f"runs/{run}"))["closed"] is whole
        found = await world.document(f"runs/{run}/state")
        assert (found["at"], found["state"]) == (events[-1].seq, expected.state)
        assert found["workspaces"]["main"]["tree"] == expected.workspaces["main"].tree
        diff = await world.get(f"runs/{run}/diff", **{"from": events[2].seq})
        assert diff.headers["x-enchanted-to-tree"] == expected.workspaces["main"].tree
        assert diff.text.count("diff --git") == len(_touched(events))
        code, out = await typed(world, capfdbinary, *command)
        assert (code, [json.loads(line)["seq"] for line in out.splitlines()]) == (0, [one.seq for one in events])


def _touched(events: Sequence[StoredEvent]) -> set[str]:
    """Files of the main workspace that were changed since its base."""
    merges = [one.event.state_change for one in events if one.event.state_change.reason == "merge"]
    return {entry.path for merge in merges for entry in merge.files}


def _without_bundle(event: SwarmEvent) -> None:
    if event.state_change.content_sha256:
        event.state_change.content_sha256 = "0" * 64


def _with_a_patch_that_does_not_apply(event: SwarmEvent) -> None:
    if not event.state_change.diff_patch:  # to look at a payload that is not there would make it
        return
    event.state_change.diff_patch = event.state_change.diff_patch.replace("\n ", "\n nobody wrote this ")


def _with_a_patch_that_is_gone(event: SwarmEvent) -> None:
    if event.state_change.diff_patch:
        event.state_change.diff_patch = ""
        event.blobs.add(field="state_change.diff_patch", sha256="0" * 64, size=9)


@pytest.mark.parametrize(
    ("run", "change", "words"),
    [
        ("run-bundle-gone0", _without_bundle, "no blob 0000"),
        ("run-patch-broken", _with_a_patch_that_does_not_apply, "patch"),
        ("run-patch-gone00", _with_a_patch_that_is_gone, "no blob 0000"),
    ],
)
async def test_contents_that_cannot_be_made_again_are_not_found_and_the_rest_of_the_state_is(
    world: World, recording: Recording, run: str, change: Callable[[SwarmEvent], None], words: str
) -> None:
    messages = copies(recording, run, change)
    await world.bus.publisher.publish_many(messages)
    await world.stored(run, len(messages))
    events = await world.bus.read_run(run)
    base = next(one.seq for one in events if kind_of(one.event) == "state_change")
    merged = next(one for one in events if one.event.state_change.reason == "merge")
    path = merged.event.state_change.files[0].path
    state = await world.document(f"runs/{run}/state")
    assert path in {entry["path"] for entry in state["workspaces"]["main"]["files"]}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "state", {"path": path}),
        ("GET", "diff", {"from": base}),
        ("GET", "diff", {"from": merged.seq, "to": base}),
        ("GET", "blame", {"path": path}),
        ("POST", "restores", {"into": str(world.folder / "nowhere"), "dry_run": True}),
        ("POST", "undos", {"event_id": merged.event.event_id, "dry_run": True}),
    ]
    for method, verb, what in asked:
        given = {"params": what} if method == "GET" else {"json": what}
        answer = await world.http.request(method, f"/api/v1/runs/{run}/{verb}", **given)
        assert (answer.status_code, answer.json()["code"]) == (404, "content-unavailable"), (verb, answer.text)
        assert words in answer.json()["detail"]
        assert "need the run's base bundle" in answer.json()["detail"]
    early = await world.get(f"runs/{run}/state", at=base, path=path)
    assert early.status_code == (404 if change is _without_bundle else 200)
