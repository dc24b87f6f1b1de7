"""`GET /runs/{run}/recovery` and `enchanted recover`: the last valid state, and how to go on from it."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from enchanted.actors.ledger import request_to_json
from enchanted.actors.work import RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.cluster import cli
from enchanted.schemas.chain import heads_of
from enchanted.schemas.events import ChangeReason, run_transition, state_change
from enchanted.serve.proof import verify
from enchanted.serve.testing import History, World, scripted

Typed = Callable[..., Any]


@pytest.fixture
def typed(world: World, capsys: pytest.CaptureFixture[str]) -> Typed:
    """A command line against the world's API: the exit code, and what came out."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        where = ["--url", world.url, "--token-file", str(world.token_file)]
        code = await asyncio.to_thread(cli.execute, [*arguments, *where])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class Told:
    """A run that is written as our orchestrator writes one."""

    def __init__(self, world: World, run: str) -> None:
        self.world, self.run, self.tree = world, run, ""
        self.log = AgentLog(world.bus, run_id=run, role="operator", agent_name="orchestrator")
        self.seqs: list[int] = []

    async def moved(self, state: str, details: dict[str, Any] | None = None, *, closes: bool = False) -> int:
        heads = heads_of(await self.world.bus.read_run(self.run)) if closes else []
        step = run_transition(subject="run", from_state="", to_state=state, reason="", details=details, heads=heads)
        return await self._write(step)

    async def changed(self, tree: str, reason: ChangeReason = "merge") -> int:
        change = state_change(
            workspace_id="main", previous_tree=self.tree, new_tree=tree, patch="", files=[], reason=reason,
            resource="", content_sha256="0" * 64 if reason == "base" else "",
        )  # fmt: skip
        self.tree = tree
        return await self._write(change)

    async def checked(self, *, passed: bool, output: str = "") -> int:
        check = {"command": "make test", "passed": passed, "exit_code": 0, "output": output}
        return await self.moved("working", {"report": {"tree": self.tree, "checks": [check], "findings": {}}})

    async def _write(self, draft: Any) -> int:
        (stored,) = await self.log.emit(draft)
        self.seqs.append(stored.seq)
        return stored.seq


async def begun(world: World, run: str, details: dict[str, Any] | None = None) -> Told:
    told = Told(world, run)
    await told.moved("created", details or {"task": "t"})
    await told.changed("a" * 64, "base")
    return told


async def test_the_last_valid_state_is_named_with_the_reasons_against_the_later_ones(
    world: World, typed: Typed
) -> None:
    run = await begun(world, "run-recover")
    merged = await run.changed("b" * 64)
    # Large enough to be moved out of its event.
    checked = await run.checked(passed=True, output="x" * 400_000)
    worse = await run.changed("c" * 64)
    await run.checked(passed=False)
    await world.stored(run.run, len(run.seqs))

    document = await world.document(f"runs/{run.run}/recovery")
    assert (document["valid"]["seq"], document["valid"]["checked_at"], document["at"]) == (merged, checked, checked)
    assert [(one["seq"], one["why_not"]) for one in document["later"]] == [(worse, "its checks failed: make test")]
    assert (document["closed"], document["fault"]) == (False, None)
    code, line, said = await typed("recover", run.run)
    assert (code, f"the last valid state is sequence {merged}" in line) == (0, True)
    assert "its checks failed: make test" in said
    assert "still at work (working)" in said
    assert f"enchanted restore {run.run} --at {checked} --into" in said
    assert f"enchanted fork {run.run} --at {checked}" in said
    assert json.loads((await typed("recover", run.run, "--json"))[1]) == document


async def test_the_commands_that_go_on_can_be_pasted_into_a_shell_whatever_the_run_is_called(
    world: World, typed: Typed
) -> None:
    run = await begun(world, "a b; rm 'x' $HOME")
    await run.checked(passed=True)
    bare = Told(world, "c $d")
    await bare.moved("working")
    for told in (run, bare):
        await world.stored(told.run, len(told.seqs))
        _, _, said = await typed("recover", told.run)
        commands = [shlex.split(line.removeprefix("next: ")) for line in said.splitlines() if line.startswith("next: ")]
        assert commands
        assert all(command[2] == told.run for command in commands)


async def test_a_run_whose_checks_never_passed_has_none_and_the_command_says_what_there_is(
    world: World, typed: Typed
) -> None:
    run = await begun(world, "run-never-green")
    await run.checked(passed=False)
    await run.moved("rejected", {"tree": run.tree}, closes=True)
    await world.stored(run.run, len(run.seqs))

    document = await world.document(f"runs/{run.run}/recovery")
    assert (document["valid"], document["at"], document["closed"]) == (None, 0, True)
    assert document["base"]["seq"] == run.seqs[1]
    code, line, said = await typed("recover", run.run)
    assert (code, line) == (1, f"{run.run}: no valid state\n")
    assert f"next: enchanted restore {run.run} --at {run.seqs[1]} --into FOLDER" in said


async def test_a_log_that_does_not_verify_ends_what_is_valid(world: World, typed: Typed) -> None:
    run = await begun(world, "run-forged")
    await run.checked(passed=True)
    forger = AgentLog(world.bus, run_id=run.run, role="operator", agent_name="orchestrator", agent_id=run.log.agent_id)
    step = run_transition(subject="run", from_state="", to_state="working", reason="I was never here")
    (forged,) = await forger.emit(step)
    after = await run.changed("b" * 64)
    await run.checked(passed=True)
    await world.stored(run.run, len(run.seqs) + 1)

    document = await world.document(f"runs/{run.run}/recovery")
    assert document["valid"]["tree"] == "a" * 64
    assert document["fault"]["seq"] == forged.seq
    assert [one["seq"] for one in document["later"]] == [after]
    assert f"does not verify from sequence {forged.seq}" in document["later"][0]["why_not"]
    code, _, said = await typed("recover", run.run)
    assert (code, "the log does not verify from sequence" in said) == (0, True)


ALTERED = "UPDATE sha256 = unhex(repeat('00', 32))"


@pytest.mark.parametrize("spoil", [ALTERED, "DELETE"])
async def test_a_row_of_the_table_that_was_altered_or_deleted_ends_what_can_be_restored(
    world: World, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "FLUSH_GRACE", timedelta())
    run = await begun(world, f"run-spoilt-row-{spoil[0]}")
    await run.checked(passed=True)
    await run.changed("b" * 64)
    last = await run.checked(passed=True)
    await world.stored(run.run, len(run.seqs))
    await world.table.command(
        f"ALTER TABLE events {spoil} "
        "WHERE run = {run:String} AND stream_seq = {seq:UInt64} SETTINGS mutations_sync = 2",
        parameters={"run": run.run, "seq": last},
    )
    document = await world.document(f"runs/{run.run}/recovery")
    assert (document["valid"]["tree"], document["fault"]["seq"]) == ("a" * 64, last)


async def test_a_run_that_nobody_checked_has_states_and_none_that_is_valid(world: World, history: History) -> None:
    document = await world.document(f"runs/{history.run}/recovery")
    assert document["valid"] is None
    assert {one["why_not"] for one in document["later"]} == {"no check ran on it"}
    assert (await world.get("runs/nobody/recovery")).status_code == 404


async def test_a_change_is_undone_though_a_variable_was_set_in_the_workspace_since(world: World) -> None:
    history = await scripted(world, "run-undo-variable")
    change = [one for one in history.events if one.event.state_change.reason == "merge"][1].event
    log = AgentLog(world.bus, run_id=history.run, role="operator", agent_name="somebody")
    variable = state_change(
        workspace_id="main", previous_tree="", new_tree="v1", patch="1", files=[], reason="edit", resource="MODE"
    )
    variable.state_change.target_type = "ENV_VAR"
    await log.emit(variable)
    done = await world.http.post(f"/api/v1/runs/{history.run}/undos", json={"event_id": change.event_id})
    assert done.status_code == 200, done.text


async def test_a_run_whose_bundle_is_gone_is_not_forked_and_the_answer_says_what_is_left(world: World) -> None:
    request = RunRequest(run_id="run-pruned", task="t", repo="/somewhere", checks=(), forked_from="run-before")
    run = await begun(world, "run-pruned", request_to_json(request))
    await world.stored(run.run, len(run.seqs))
    answer = await world.http.post(f"/api/v1/runs/{run.run}/forks", json={"at": run.seqs[-1]})
    assert (answer.status_code, answer.json()["code"]) == (409, "fork-refused")
    assert "bundle its log begins with, which was run-before's, is no more" in answer.json()["detail"]
    assert "enchanted run TASK --repo REPO" in answer.json()["detail"]
