"""Variables through the API: offered to a run and to a fork, and set back by an undo."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.actors.rerun import file
from enchanted.actors.rerun.recording import Recording
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.cluster import cli
from enchanted.cluster.commands.importing import RECORDED
from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent, SwarmEvent, run_transition, state_change, variable_change
from enchanted.schemas.fold import DB_SCHEMA, ENV_VAR
from enchanted.serve.testing import World, copies, scripted

OFFERS = {"LEVEL": ["debug", "trace", "debug"], "MODE": [""]}
SPACE = "task-1.1"


async def act(world: World, run: str, verb: str, **body: Any) -> httpx.Response:
    return await world.http.post(f"/api/v1/runs/{run}/{verb}", json=body)


class Setting:
    """A Coder of a closed run, with files of its own, that sets variables."""

    def __init__(self, world: World, run: str) -> None:
        self.world, self.run = world, run
        self.log = AgentLog(world.bus, run_id=run, role="coder", agent_name="coder-9")
        self.held: dict[str, str] = {}

    @classmethod
    async def of(cls, world: World, run: str) -> Setting:
        await scripted(world, run)
        return cls(world, run)

    async def set(self, name: str, value: str, workspace: str = SPACE) -> StoredEvent:
        """``value`` is JSON; an empty one takes the variable away."""
        draft = variable_change(
            workspace_id=workspace,
            name=name,
            previous_hash=self._hash(self.held.get(name, "")),
            new_hash=self._hash(value),
            value=value,
            reason="edit",
        )
        self.held[name] = value
        return (await self.log.emit(draft))[0]

    async def undo(self, stored: StoredEvent, **more: Any) -> httpx.Response:
        return await act(self.world, self.run, "undos", event_id=stored.event.event_id, **more)

    async def now(self, workspace: str = SPACE) -> dict[str, Any]:
        """Name -> value, by the API."""
        log = await self.world.bus.read_run(self.run)
        await self.world.stored(self.run, len(log))
        spaces = (await self.world.document(f"runs/{self.run}/state"))["workspaces"]
        return {one["name"]: one["value"] for one in spaces[workspace]["variables"]}

    @staticmethod
    def _hash(value: str) -> str:
        return sha256_hex(value) if value else ""


async def test_an_undone_variable_is_what_it_was_before_and_the_undo_can_be_undone(world: World) -> None:
    setting = await Setting.of(world, "run-variable-undo")
    first = await setting.set("LEVEL", '"debug"')
    second = await setting.set("LEVEL", '{"deep":[1,null]}')
    await setting.set("OTHER", '"kept"')
    preview = (await setting.undo(second, dry_run=True)).json()
    assert preview["variable"] == {
        "name": "LEVEL", "was_set": True, "before": {"deep": [1, None]}, "is_set": True, "after": "debug",
    }  # fmt: skip
    assert (preview["undo_event_id"], preview["files"], preview["workspace"]) == ("", [], SPACE)
    assert await setting.now() == {"LEVEL": {"deep": [1, None]}, "OTHER": "kept"}

    done = (await setting.undo(second)).json()
    assert await setting.now() == {"LEVEL": "debug", "OTHER": "kept"}
    recorded = next(s.event for s in await world.bus.read_run(setting.run) if s.event.event_id == done["undo_event_id"])
    assert (recorded.state_change.target_type, recorded.state_change.reason) == (ENV_VAR, "undo")
    assert (recorded.parent_event_id, recorded.workspace_id) == (second.event.event_id, SPACE)

    gone = (await setting.undo(first)).json()
    assert (gone["variable"]["is_set"], gone["variable"]["after"]) == (False, None)
    assert await setting.now() == {"OTHER": "kept"}
    back = await act(world, setting.run, "undos", event_id=gone["undo_event_id"])
    assert (back.status_code, back.json()["variable"]["was_set"]) == (200, False)
    assert await setting.now() == {"LEVEL": "debug", "OTHER": "kept"}
    verdict = await world.document(f"runs/{setting.run}/verify")
    assert (verdict["intact"], verdict["complete"]) == (True, True)


async def test_a_variable_that_somebody_set_since_is_a_conflict_and_one_that_is_back_leaves_nothing_to_undo(
    world: World,
) -> None:
    setting = await Setting.of(world, "run-variable-conflict")
    first = await setting.set("LEVEL", '"debug"')
    second = await setting.set("LEVEL", '"trace"')
    answer = await setting.undo(first)
    assert (answer.status_code, answer.json()["code"], answer.json()["conflicts"]) == (409, "undo-refused", ["LEVEL"])
    assert f"changed again since, by event {second.event.event_id}; undo that first" in answer.json()["detail"]
    await setting.set("LEVEL", '"debug"')
    answer = await setting.undo(second)
    assert (answer.status_code, "nothing of this change is left" in answer.json()["detail"]) == (409, True)
    assert await setting.now() == {"LEVEL": "debug"}


async def test_a_workspace_without_a_name_is_the_main_one_for_an_undo_as_well(world: World) -> None:
    setting = await Setting.of(world, "run-variable-unnamed")
    first = await setting.set("LEVEL", '"debug"', "")
    second = await setting.set("LEVEL", '"trace"', "main")
    answer = await setting.undo(first)
    assert (answer.status_code, answer.json()["conflicts"]) == (409, ["LEVEL"])
    for stored, left in ((second, {"LEVEL": "debug"}), (first, {})):
        answer = await setting.undo(stored)
        assert (answer.status_code, answer.json()["workspace"]) == (200, "main"), answer.text
        assert await setting.now("main") == left
    assert (await world.bus.read_run(setting.run))[-1].event.workspace_id == "main"


async def test_a_change_that_a_foreign_producer_published_to_its_own_subject_is_undone(world: World) -> None:
    setting = Setting(world, "run-variable-foreign")
    event = SwarmEvent(event_id="set-by-another", run_id=setting.run, agent_id="tool", workspace_id="main")
    event.timestamp.GetCurrentTime()
    change = variable_change(
        workspace_id="main", name="LEVEL", previous_hash="", new_hash=sha256_hex("1"), value="1", reason="edit"
    )
    event.state_change.CopyFrom(change.state_change)
    subject = "swarm.events.coder.state_change"
    await world.bus.publisher.publish(
        Outgoing(subject=subject, payload=event.SerializeToString(), event_id=event.event_id)
    )
    await world.stored(setting.run, 1)
    answer = await act(world, setting.run, "undos", event_id=event.event_id)
    assert answer.status_code == 200, answer.text
    await world.stored(setting.run, 2)
    assert await setting.now("main") == {}


async def test_files_of_a_workspace_without_a_name_are_undone_as_those_of_the_main_one(world: World) -> None:
    history, run = await scripted(world, "run-files-unnamed"), "run-files-unnamed"
    *_, rolled_back = (one.event.state_change for one in history.events if one.event.HasField("state_change"))
    again = SwarmEvent(workspace_id="")
    again.state_change.CopyFrom(
        next(
            step
            for step in (one.event.state_change for one in history.events)
            if step.reason == "merge" and step.previous_state_hash == rolled_back.new_state_hash
        )
    )
    setting = Setting(world, run)
    (stored,) = await setting.log.emit(again)
    answer = await setting.undo(stored)
    assert (answer.status_code, answer.json()["workspace"]) == (200, "main"), answer.text
    assert await setting.now("main") == {}
    spaces = (await world.document(f"runs/{run}/state"))["workspaces"]
    assert spaces["main"]["tree"] == rolled_back.new_state_hash == answer.json()["tree"]


async def test_two_undos_of_a_variable_at_once_do_not_both_win(world: World) -> None:
    setting = await Setting.of(world, "run-variable-twice")
    only = await setting.set("LEVEL", '"debug"')
    answers = await asyncio.gather(*(setting.undo(only) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    log = await world.bus.read_run(setting.run)
    assert [one.event.state_change.target_type for one in log].count(ENV_VAR) == 2


async def test_a_value_that_the_log_does_not_tell_is_not_made_up(world: World) -> None:
    setting = await Setting.of(world, "run-variable-unknown")
    setting.held["LEVEL"] = '"never recorded"'
    answer = await setting.undo(await setting.set("LEVEL", '"debug"'))
    assert (answer.status_code, "does not tell what 'LEVEL' was before" in answer.json()["detail"]) == (409, True)


async def test_a_change_of_a_database_is_refused_with_what_to_do(world: World) -> None:
    setting = await Setting.of(world, "run-schema-undo")
    draft = state_change(
        workspace_id=SPACE, previous_tree="", new_tree="h", patch="CREATE TABLE t (id int)", files=[], reason="edit",
        resource="table t",
    )  # fmt: skip
    draft.state_change.target_type = DB_SCHEMA
    answer = await setting.undo((await setting.log.emit(draft))[0])
    assert (answer.status_code, answer.json()["code"]) == (409, "undo-refused")
    assert "changed an object of a database, which Enchanted does not hold; change it back there" in answer.text


async def test_nothing_of_a_run_that_is_still_at_work_is_undone_and_all_of_it_once_it_is_closed(world: World) -> None:
    history, run = await scripted(world, "run-model-for-an-open-one"), "run-open-for-an-undo"
    log, told = AgentLog(world.bus, run_id=run, role="operator", agent_name="orchestrator"), list[StoredEvent]()
    for stored in history.events[:-1]:
        draft = SwarmEvent(workspace_id=stored.event.workspace_id, task_id=stored.event.task_id)
        payload = stored.event.WhichOneof("payload")
        getattr(draft, payload).CopyFrom(getattr(stored.event, payload))
        told += await log.emit(draft)
    setting = Setting(world, run)
    variable = await setting.set("LEVEL", '"debug"')
    binary = next(
        one for one in told if one.event.HasField("state_change") and one.event.state_change.files[0].path == "data.bin"
    )
    await world.stored(run, len(told) + 1)
    for stored in (binary, variable):
        for dry_run in (True, False):
            answer = await setting.undo(stored, dry_run=dry_run)
            assert (answer.status_code, answer.json()["code"]) == (409, "undo-refused")
            assert f"{run} is still at work; wait for its verdict, or cancel it" in answer.json()["detail"]
    assert len(await world.bus.read_run(run)) == len(told) + 1
    await log.emit(run_transition(subject="run", from_state="checking", to_state="rejected", reason="over"))
    assert [(await setting.undo(stored)).status_code for stored in (binary, variable)] == [200, 200]


async def test_the_command_shows_a_variable_before_and_after_and_asks(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = await Setting.of(world, "run-variable-command")
    event_id = (await setting.set("LEVEL", '"debug"')).event.event_id
    where = ["--url", world.url, "--token-file", str(world.token_file)]
    assert await asyncio.to_thread(cli.execute, ["undo", setting.run, event_id, *where]) == 2
    shown = 'variable LEVEL in workspace task-1.1: "debug" -> not set'
    assert shown in capsys.readouterr().err
    assert await setting.now() == {"LEVEL": "debug"}
    assert await asyncio.to_thread(cli.execute, ["undo", setting.run, event_id, "--yes", *where]) == 0
    assert shown in capsys.readouterr().out
    assert await setting.now() == {}


async def test_a_run_is_started_with_what_is_offered_and_what_may_not_be_is_refused(
    world: World, tmp_path: Path
) -> None:
    await asyncio.to_thread(subprocess.run, ["git", "init", "-q", str(tmp_path)], check=True)
    body = {"task": "t", "repo": str(tmp_path)}
    answer = await world.http.post("/api/v1/runs", json=body | {"variables": OFFERS})
    assert answer.status_code == 202, answer.text
    assert world.starter.requests[-1].variables == {"LEVEL": ("debug", "trace"), "MODE": ("",)}
    count = len(world.starter.requests)
    refused = (("PATH", ["/x"], "sandbox sets it"), ("LD_PRELOAD", ["x"], "kept"), ("A", [], "0 values"))
    for name, values, word in refused:
        answer = await world.http.post("/api/v1/runs", json=body | {"variables": {name: values}})
        assert (answer.status_code, word in answer.text) == (422, True), answer.text
    assert len(world.starter.requests) == count


@pytest.fixture(scope="module")
async def recording(world: World) -> Recording:
    recording = await file.load(RECORDED)
    for content in recording.blobs.values():
        await world.bus.blobs.put(content)
    return recording


async def parent_with(world: World, recording: Recording, run: str, variables: Any) -> None:
    """The recorded demo under a name of its own (16 characters), as if it had been asked for with ``variables``."""

    def offer(event: SwarmEvent) -> None:
        if event.run_transition.to_state == "created":
            asked = json.loads(event.run_transition.details) | {"variables": variables}
            event.run_transition.details = json.dumps(asked)

    await world.bus.publisher.publish_many(copies(recording, run, offer))
    await world.stored(run, len(recording.events))


async def test_a_fork_offers_what_its_parent_does_unless_it_is_told_otherwise(
    world: World, recording: Recording
) -> None:
    run = "run-offers-level"
    await parent_with(world, recording, run, {"LEVEL": ["debug", "trace"]})
    told: tuple[tuple[dict[str, Any], dict[str, tuple[str, ...]]], ...] = (
        ({}, {"LEVEL": ("debug", "trace")}),
        ({"variables": {}}, {}),
        ({"variables": {"MODE": ["fast"]}}, {"MODE": ("fast",)}),
    )
    for body, offers in told:
        answer = await act(world, run, "forks", **body)
        assert answer.status_code == 202, answer.text
        assert world.starter.requests[-1].variables == offers
    where = ["--url", world.url, "--token-file", str(world.token_file)]
    command = ["fork", run, "--variable", "MODE=a,b", "--yes", "--detach", *where]
    assert await asyncio.to_thread(cli.execute, command) == 0
    assert world.starter.requests[-1].variables == {"MODE": ("a", "b")}
    refused = await act(world, run, "forks", variables={"HOME": ["/"]}, dry_run=True)
    assert (refused.status_code, "the sandbox sets it itself" in refused.text) == (422, True)


FOREIGN: dict[str, tuple[Any, str]] = {
    "run-offers-paths": ({"PATH": ["/x"]}, "'PATH' cannot be offered: the sandbox sets it itself"),
    "run-offers-names": ({f"A{number}": ["x"] for number in range(3_000)}, "one of 3000; offer at most 8"),
    "run-offers-lists": ({"A": [["x"], {"y": 1}]}, "its log is not one of our orchestrator's"),
    "run-offers-texts": ({"A": "text"}, "its log is not one of our orchestrator's"),
    "run-offers-nulls": (None, "its log is not one of our orchestrator's"),
}


@pytest.mark.parametrize("run", FOREIGN)
async def test_what_no_operator_could_have_offered_is_not_passed_on_to_a_fork(
    world: World, recording: Recording, run: str
) -> None:
    variables, words = FOREIGN[run]
    await parent_with(world, recording, run, variables)
    started = len(world.starter.requests)
    for dry_run in (True, False):
        answer = await act(world, run, "forks", dry_run=dry_run)
        assert (answer.status_code, answer.json()["code"]) == (409, "fork-refused"), answer.text
        assert words in answer.json()["detail"]
    assert len(world.starter.requests) == started
    if "cannot be offered" in words:
        assert (await act(world, run, "forks", variables={"MODE": ["fast"]}, dry_run=True)).status_code == 200
    for method, path in (("POST", "reruns"), ("GET", "recovery"), ("GET", "state")):
        answer = await world.http.request(method, f"/api/v1/runs/{run}/{path}")
        assert answer.status_code < 500, answer.text
