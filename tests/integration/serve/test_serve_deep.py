"""`verify --deep`: a patch that was replaced in a log whose every chain was made to hold again is found and placed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from enchanted.actors.repository.patch_check import PatchCheck
from enchanted.actors.rerun import file
from enchanted.actors.rerun.importing import import_recording
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.cluster.cli import execute
from enchanted.cluster.commands.importing import RECORDED
from enchanted.schemas.chain import heads_of
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of, run_transition
from enchanted.serve.moments import history as history_routes
from enchanted.serve.moments import patches
from enchanted.serve.testing import History, World

Drafts = list[SwarmEvent]


class Commands:
    """`enchanted verify RUN --deep` as a user types it."""

    def __init__(self, world: World, capture: pytest.CaptureFixture[bytes]) -> None:
        self._access = ["--url", world.url, "--token-file", str(world.token_file)]
        self._capture = capture

    async def verify(self, run: str, *options: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        self._capture.readouterr()
        code = await asyncio.to_thread(execute, ["verify", run, "--deep", *options, *self._access])
        out, err = self._capture.readouterr()
        return code, out.decode(), err.decode()


@pytest.fixture
def commands(world: World, capfdbinary: pytest.CaptureFixture[bytes]) -> Commands:
    return Commands(world, capfdbinary)


def changes_of(history: History) -> list[StoredEvent]:
    return [one for one in history.events if kind_of(one.event) == "state_change"]


async def remade(world: World, history: History, run: str, alter: Callable[[Drafts], object]) -> list[StoredEvent]:
    """The changes of a run, altered, in a log whose every link, hash and close are right."""
    drafts = []
    for stored in changes_of(history):
        draft = SwarmEvent(workspace_id=stored.event.workspace_id)
        draft.state_change.CopyFrom(stored.event.state_change)
        drafts.append(draft)
    alter(drafts)
    log = AgentLog(world.bus, run_id=run, role="operator", agent_name="orchestrator")
    told = await log.emit(*drafts)
    close = run_transition(subject="run", from_state="", to_state="rejected", reason="", heads=heads_of(told))
    await log.emit(close)
    await world.stored(run, len(drafts) + 1)
    return told


def another_patch(drafts: Drafts) -> None:
    drafts[1].state_change.diff_patch = drafts[1].state_change.diff_patch.replace("print('b')", "print('X')")


def one_that_does_not_apply(drafts: Drafts) -> None:
    drafts[1].state_change.diff_patch = drafts[1].state_change.diff_patch.replace("-print('a')", "-print('Y')")


def binary_that_cannot_be_inflated(drafts: Drafts) -> None:
    change = drafts[2].state_change
    assert "\nliteral 256\nzc" in change.diff_patch
    change.diff_patch = change.diff_patch.replace("\nliteral 256\nzc", "\nliteral 256\nzd")


def binary_without_its_data(drafts: Drafts) -> None:
    change = drafts[2].state_change
    change.diff_patch = change.diff_patch.partition("GIT binary patch")[0] + "Binary files differ\n"


def two_that_arrive_all_the_same(drafts: Drafts) -> None:
    one, other = drafts[1].state_change, drafts[2].state_change
    one.diff_patch, other.diff_patch = other.diff_patch, one.diff_patch


def no_patch(drafts: Drafts) -> None:
    drafts[1].state_change.diff_patch = ""


def a_tree_that_nothing_leads_to(drafts: Drafts) -> None:
    drafts[1].state_change.previous_state_hash = "ab" * 32


def another_base(drafts: Drafts) -> None:
    tree = drafts[1].state_change.new_state_hash
    drafts[0].state_change.new_state_hash = tree


FORGERIES = [
    (another_patch, 1, "it leads to tree"),
    (one_that_does_not_apply, 1, "patch"),
    (binary_that_cannot_be_inflated, 2, "corrupt binary patch"),
    (binary_without_its_data, 2, "patch does not apply"),
    (two_that_arrive_all_the_same, 1, "it leads to tree"),
    (no_patch, 1, "it leads to tree"),
    (a_tree_that_nothing_leads_to, 1, "which no change before it leads to"),
    (another_base, 0, "it leads to tree"),
]


async def test_an_untouched_run_never_alarms(world: World, history: History, commands: Commands) -> None:
    verdict = await world.document(f"runs/{history.run}/verify", deep="true")
    assert (verdict["intact"], verdict["complete"], verdict["first_bad"]) == (True, True, None)
    patches = verdict["patches"]
    assert (patches["intact"], patches["whole"], patches["changes"]) == (True, True, len(changes_of(history)))
    assert patches["until"] == history.events[-1].seq
    code, out, err = await commands.verify(history.run)
    assert code == 0, err
    assert f"{len(changes_of(history))} patches lead to the trees they name" in out
    assert (await world.document(f"runs/{history.run}/verify")).get("patches") is None


async def test_a_run_of_a_real_swarm_never_alarms(world: World, commands: Commands) -> None:
    recording = await file.load(RECORDED)
    await import_recording(recording, world.bus)
    await world.stored(recording.run_id, len(recording.events))
    code, out, err = await commands.verify(recording.run_id, "--json")
    patches = json.loads(out)["patches"]
    assert (code, patches["intact"], patches["skipped"]) == (0, True, 0), err
    # Whoever else has brought this run into the world may have told more of it.
    page = await world.document("events", run=recording.run_id, kind="state_change", limit=1_000)
    assert patches["changes"] == len(page["data"]) > 5


@pytest.mark.parametrize(("alter", "place", "why"), FORGERIES, ids=lambda one: getattr(one, "__name__", None))
async def test_a_change_whose_patch_or_tree_was_replaced_is_named_though_every_chain_holds(
    world: World,
    history: History,
    commands: Commands,
    alter: Callable[[Drafts], object],
    place: int,
    why: str,
) -> None:
    run = f"run-deep-{alter.__name__}"
    told = await remade(world, history, run, alter)
    shallow = await world.document(f"runs/{run}/verify")
    assert (shallow["intact"], shallow["complete"], shallow["closed"]) == (True, True, True)
    verdict = await world.document(f"runs/{run}/verify", deep="true")
    bad = verdict["first_bad"]
    assert (verdict["intact"], verdict["patches"]["intact"], bad["seq"]) == (False, False, told[place].seq)
    assert bad == verdict["patches"]["first_bad"]
    assert told[place].event.event_id in bad["why"]
    assert why in bad["why"]
    assert verdict["patches"]["changes"] == place
    code, out, err = await commands.verify(run)
    assert (code, "A PATCH IS FALSE" in out) == (1, True)
    assert f"sequence {told[place].seq}" in err


async def test_the_same_log_without_a_forgery_holds(world: World, history: History) -> None:
    await remade(world, history, "run-deep-same", lambda drafts: None)
    verdict = await world.document("runs/run-deep-same/verify", deep="true")
    assert (verdict["intact"], verdict["patches"]["intact"]) == (True, True)


async def test_a_check_that_takes_too_long_says_how_far_it_came_and_the_command_goes_on_from_there(
    world: World, history: History, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_routes, "DEEP", 0.0)
    monkeypatch.setattr(history_routes, "SLICE", 0.0)
    patches = (await world.document(f"runs/{history.run}/verify", deep="true"))["patches"]
    assert (patches["intact"], patches["whole"], patches["until"]) == (None, False, history.events[0].seq)
    code, out, err = await commands.verify(history.run)
    assert (code, f"{len(changes_of(history))} patches lead" in out) == (0, True)
    assert f"up to sequence {history.events[3].seq} of {history.events[-1].seq}" in err
    told = await remade(world, history, "run-deep-sliced", a_tree_that_nothing_leads_to)
    code, _, err = await commands.verify("run-deep-sliced")
    assert (code, f"sequence {told[1].seq}" in err) == (1, True), err


def empty_the_cache(world: World) -> None:
    for folder in Path(world.folder, "cache").glob("*-deep"):
        shutil.rmtree(folder)


def damage_the_cache(world: World) -> None:
    for one in Path(world.folder, "cache").glob("*-deep/*/objects/*/*"):
        one.chmod(0o600)
        one.write_bytes(b"")


async def test_a_cache_that_was_emptied_between_two_pieces_is_no_forgery(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_routes, "SLICE", 0.0)
    told = await remade(world, history, "run-deep-emptied", lambda drafts: None)
    first = await world.document("runs/run-deep-emptied/verify/patches")
    assert (first["until"], first["intact"]) == (told[0].seq, None)
    empty_the_cache(world)
    for after in (told[0].seq, told[2].seq):
        second = await world.document("runs/run-deep-emptied/verify/patches", after=after)
        assert (second["intact"], second["first_bad"], second["until"]) == (None, None, after)
        assert "begin again" in second["why"]
        await world.document("runs/run-deep-emptied/verify/patches")  # the base is back, what comes after it is not


async def test_a_run_without_a_base_is_not_said_to_be_intact(
    world: World, history: History, commands: Commands
) -> None:
    def without_base(drafts: Drafts) -> None:
        drafts[0].state_change.content_sha256 = ""

    told = await remade(world, history, "run-deep-foreign", without_base)
    patches = (await world.document("runs/run-deep-foreign/verify", deep="true"))["patches"]
    assert (patches["intact"], patches["whole"], patches["changes"]) == (None, False, 0)
    assert "no base bundle" in patches["why"]
    assert patches["until"] < told[0].seq
    code, out, err = await commands.verify("run-deep-foreign")
    assert (code, "PATCHES NOT CHECKED" in out, "no base bundle" in err) == (1, True, True)


async def test_a_base_that_is_no_longer_there_is_no_forgery(world: World, history: History) -> None:
    def lost(drafts: Drafts) -> None:
        drafts[0].state_change.content_sha256 = "cd" * 32

    await remade(world, history, "run-deep-lost", lost)
    verdict = await world.document("runs/run-deep-lost/verify", deep="true")
    assert (verdict["intact"], verdict["patches"]["intact"], verdict["patches"]["first_bad"]) == (True, None, None)
    assert "cannot be checked" in verdict["patches"]["why"]


def one_that_begins_at_a_later_tree(drafts: Drafts) -> None:
    """Right but for its place: the change that makes the tree it begins at comes after it."""
    drafts[1], drafts[2] = SwarmEvent.FromString(drafts[2].SerializeToString()), drafts[1]


async def test_no_check_leans_on_what_another_one_left(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_routes, "SLICE", 0.0)
    told = await remade(world, history, "run-deep-later", one_that_begins_at_a_later_tree)
    base, bad, later = (one.seq for one in told[:3])
    for after in (0, base, bad, later, 0, base):
        found = await world.document("runs/run-deep-later/verify/patches", after=after)
        if after == base:
            assert (found["intact"], found["first_bad"]["seq"]) == (False, bad)
        else:
            assert (found["intact"], found["first_bad"], bool(found["why"])) == (None, None, after >= bad)
    verdict = await world.document("runs/run-deep-later/verify", deep="true")
    assert verdict["first_bad"]["seq"] == bad


async def test_checks_of_one_run_at_once_both_end_right(
    world: World, history: History, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_routes, "SLICE", 0.0)
    last = history.events[-1].seq

    async def whole(run: str) -> dict[str, object]:
        after = 0
        while True:
            found = await world.document(f"runs/{run}/verify/patches", after=after)
            if found["whole"] or found["why"] or found["first_bad"]:
                return found
            after = found["until"]

    told = await remade(world, history, "run-deep-twice", two_that_arrive_all_the_same)
    for found in await asyncio.gather(*(whole(history.run) for _ in range(3))):
        assert (found["intact"], found["until"], found["why"]) == (True, last, "")
    for found in await asyncio.gather(*(whole("run-deep-twice") for _ in range(3))):
        assert (found["intact"], found["first_bad"]["seq"]) == (False, told[1].seq)  # type: ignore[index]


async def test_so_many_checks_go_on_at_once_and_another_waits_or_is_refused(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "WAIT", 0.1)
    going, free = asyncio.Semaphore(0), asyncio.Event()

    async def held(check: PatchCheck, event: SwarmEvent) -> None:
        going.release()
        await free.wait()

    monkeypatch.setattr(PatchCheck, "check", held)
    path = f"runs/{history.run}/verify/patches"
    first = [asyncio.create_task(world.get(path)) for _ in range(patches.AT_ONCE)]
    for _ in first:
        await going.acquire()
    refused = await world.get(path)
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many-checks")
    assert int(refused.headers["Retry-After"]) > 0
    monkeypatch.setattr(patches, "WAIT", 60.0)
    waiting = asyncio.create_task(world.get(path))
    free.set()
    for answer in await asyncio.gather(*first, waiting):
        assert answer.status_code == 200


async def test_a_git_without_time_or_a_damaged_cache_is_no_forgery(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_routes, "SLICE", 0.0)
    path, after = f"runs/{history.run}/verify/patches", 0
    patch = changes_of(history)[1].seq
    while (until := (await world.document(path, after=after))["until"]) < patch:
        after = until
    with monkeypatch.context() as hurried:
        hurried.setattr(patches, "SHORTEST", 0.0)
        late = await world.document(path, after=after)
    assert (late["intact"], late["first_bad"], "took longer than" in late["why"]) == (None, None, True)
    damage_the_cache(world)
    damaged = await world.document(path, after=after)
    assert (damaged["intact"], damaged["first_bad"], "git" in damaged["why"]) == (None, None, True)
    verdict = await world.document(f"runs/{history.run}/verify", deep="true")
    assert verdict["patches"]["intact"] is True


async def test_changes_of_a_producer_without_a_chain_are_skipped_and_call_nothing_false(
    world: World, history: History, commands: Commands
) -> None:
    run, changes = "run-deep-unnumbered", [one.event.state_change for one in changes_of(history)]
    messages = []
    for number, alter in enumerate(("", "diff", "hash", "bundle")):
        event = SwarmEvent(run_id=run, agent_id="tool", agent_name="tool", event_id=f"{run}-{number}")
        event.workspace_id = "main"
        event.state_change.CopyFrom(changes[1 if alter in ("diff", "hash") else 0])
        if alter == "diff":
            event.state_change.diff_patch = "rubbish"
        if alter == "hash":
            event.state_change.new_state_hash = "version 7"
        if alter == "bundle":
            event.state_change.content_sha256 = await world.bus.blobs.put(b"no bundle")
        subject = "swarm.events.coder.state_change"
        messages.append(Outgoing(subject=subject, payload=event.SerializeToString(), event_id=event.event_id))
    await world.bus.publisher.publish_many(messages)
    await world.stored(run, 4)
    verdict = await world.document(f"runs/{run}/verify", deep="true")
    found = verdict["patches"]
    assert (found["first_bad"], found["intact"], found["whole"]) == (None, None, True), found
    assert (found["changes"], found["skipped"]) == (1, 3)
    assert verdict["first_bad"] is None


async def test_a_row_before_the_place_to_go_on_from_that_is_no_event_fails_nothing(
    world: World, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_routes, "SLICE", 0.0)
    told = await remade(world, history, "run-deep-row", a_tree_that_nothing_leads_to)
    path, base = "runs/run-deep-row/verify/patches", told[0].seq
    assert (await world.document(path))["until"] == base
    await world.table.command(
        "ALTER TABLE events UPDATE body = unhex('ff'), cut_at = 0 "
        "WHERE run = {run:String} AND stream_seq = {seq:UInt64} SETTINGS mutations_sync = 2",
        parameters={"run": "run-deep-row", "seq": base},
    )
    assert (await world.document(path, after=base))["first_bad"]["seq"] == told[1].seq
    assert (await world.document(path))["first_bad"]["seq"] == base
