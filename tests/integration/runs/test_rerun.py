"""Runs that really happened (real bus, git and sandbox, the model without weights), run again from their log alone."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.config import RoleModel, SwarmConfig
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.lifecycle import RunState
from enchanted.actors.models.errors import ModelRefused
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.models.model import ModelReply, ModelRequest
from enchanted.actors.rerun import file
from enchanted.actors.rerun.driver import rerun
from enchanted.actors.rerun.errors import CannotRerun
from enchanted.actors.rerun.players import RecordedModel, RecordedTools
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.work import Budget, RoleName
from enchanted.bus.connection import Bus
from enchanted.schemas.events import kind_of
from tests.integration.runs.world import CHECKS, RUN, again, ask, live, recorded, require_equal, wanted

pytestmark = pytest.mark.usefixtures("eager")

ONE_CALL, THREE = Budget(model_calls_per_task=1), Budget(model_calls_per_task=3, reworks_per_task=1)


async def test_a_merged_run_of_parallel_coders_reruns_equal_and_the_user_repository_is_not_needed(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path
) -> None:
    await ask(bus, wanted(shop, coders=2))
    assert await live(config) == RunState.MERGED
    recording = await recorded(bus)
    assert {part.name for part in recording.parts} == {"orchestrator", "architect", "coder-1", "coder-2", "reviewer"}
    for folder in (shop, Path(config.home)):
        await asyncio.to_thread(shutil.rmtree, folder)
    verdict = await rerun(recording, tmp_path / "scratch")
    require_equal(verdict)
    kinds = [kind_of(stored.event) for part in recording.parts for stored in part.events]
    assert (verdict.model_calls, verdict.tool_calls) == (kinds.count("model_call"), kinds.count("tool_call"))
    assert verdict.signals > 0


async def test_a_rejected_run_reruns_equal(bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path) -> None:
    await ask(bus, wanted(shop, checks=(*CHECKS, "false")))
    assert await live(config) == RunState.REJECTED
    require_equal(await again(bus, tmp_path))


class OddModel(MinimalModel):
    """Fails, stops inside its JSON, or says that it failed, on every third question; or never gets to the end."""

    def __init__(self, oddity: str) -> None:
        super().__init__(("Remove", "yes"))
        self._oddity = oddity
        self._asked = 0

    async def complete(self, request: ModelRequest) -> ModelReply:
        self._asked += 1
        if self._oddity == "fails" and self._asked % 3 == 0:
            raise ModelRefused(self.name, "it is tired")
        reply = await super().complete(request)
        if self._oddity == "says so" and self._asked % 3 == 1:
            return replace(reply, finish_reason="error")
        stops = self._oddity == "never" or (self._oddity == "stops" and self._asked % 3 == 1)
        return replace(reply, text=reply.text[:-5]) if stops else reply


ODD: dict[str, tuple[Callable[[], MinimalModel], bool, dict[str, Any]]] = {
    "models that fail": (lambda: OddModel("fails"), True, {}),
    "models that stop inside their JSON": (lambda: OddModel("stops"), True, {}),
    "models whose server calls a good answer an error": (lambda: OddModel("says so"), True, {}),
    "a budget of one call for each task": (lambda: MinimalModel(("Remove",)), True, {"budget": ONE_CALL}),
    "free models that hand in at once and reject": (lambda: MinimalModel(("submit", "no")), False, {}),
    "free models that write edits which do not fit": (lambda: MinimalModel(("edit", "yes")), False, {"budget": THREE}),
    "free models that act, then anything": (MinimalModel, False, {"coders": 3, "seed": 7, "budget": THREE}),
    "nothing to do": (MinimalModel, True, {"checks": ("true",), "task": "nothing"}),
}


@pytest.mark.parametrize("oddity", ODD)
async def test_runs_of_odd_models_rerun_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, oddity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guided, changes = ODD[oddity]
    monkeypatch.setattr("enchanted.actors.hosts.open_model", lambda *_: model())
    roles = {
        role: RoleModel(url="minimal", guided=guided, temperature=0.7) for role in ("architect", "coder", "reviewer")
    }
    await ask(bus, wanted(shop, **changes))
    await live(replace(config, models=roles))
    require_equal(await again(bus, tmp_path))


@pytest.mark.parametrize("whose", ["architect", "coder", "reviewer"])
async def test_a_run_whose_model_never_gave_a_usable_answer_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(role: RoleName, *_: object) -> MinimalModel:
        return OddModel("never") if role == whose else MinimalModel(("Remove", "yes"))

    monkeypatch.setattr("enchanted.actors.hosts.open_model", opened)
    await ask(bus, wanted(shop, coders=2))
    assert await live(config) == (RunState.REJECTED if whose == "coder" else RunState.FAILED)
    require_equal(await again(bus, tmp_path))


async def test_a_run_that_failed_by_its_reviewer_while_coders_went_on_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(MinimalModel):
        async def complete(self, request: ModelRequest) -> ModelReply:
            handed_in = 0
            async for stored in bus.tail(after=0):
                handed_in += stored.event.run_transition.to_state == "reviewing"
                if handed_in == 2:
                    break
            raise ModelRefused(self.name, "it is tired")

    monkeypatch.setattr(
        "enchanted.actors.hosts.open_model",
        lambda role, *_: Slow() if role == "reviewer" else MinimalModel(("Remove", "yes")),
    )
    await ask(bus, wanted(shop, coders=2))
    assert await live(config) == RunState.FAILED
    answer = RecordedModel.complete

    async def answer_late(self: RecordedModel, request: ModelRequest) -> ModelReply:
        await asyncio.sleep(0.05 if self._cursor.part.name.startswith("coder") else 0)
        return await answer(self, request)

    monkeypatch.setattr(RecordedModel, "complete", answer_late)
    require_equal(await again(bus, tmp_path))


async def test_how_fast_models_and_tools_answer_changes_nothing(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        (shop / f"more_{number}.py").write_text("import os\nimport re\n")
    git = make_repository(shop, {})
    assert git.run("ls-files").count(b"more_") == 4
    await ask(bus, wanted(shop, coders=3))
    assert await live(config) == RunState.MERGED
    recording, chance = await recorded(bus), random.Random(11)
    answer, use = RecordedModel.complete, RecordedTools.call

    async def answer_late(self: RecordedModel, request: ModelRequest) -> ModelReply:
        await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02]))
        return await answer(self, request)

    async def use_late(self: RecordedTools, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02]))
        return await use(self, tool, arguments)

    monkeypatch.setattr(RecordedModel, "complete", answer_late)
    monkeypatch.setattr(RecordedTools, "call", use_late)
    for attempt in range(15):
        require_equal(await rerun(recording, tmp_path / f"scratch-{attempt}", patience=5))


async def test_a_cancelled_run_reruns_equal_up_to_the_wish_to_cancel(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path
) -> None:
    await ask(bus, wanted(shop, checks=("sleep 60",)))
    host = OrchestratorHost(RUN, config, LocalTeam)
    running = asyncio.create_task(host.run())
    async for stored in bus.tail(after=0):
        if stored.event.tool_call.tool == "lint":
            break
    host.cancel("enough")
    assert await running == RunState.CANCELLED
    require_equal(await again(bus, tmp_path))


async def test_a_run_cancelled_before_a_free_model_answered_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    class Thinking(MinimalModel):
        async def complete(self, request: ModelRequest) -> ModelReply:
            if "anyOf" in request.schema:
                return await super().complete(request)
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr("enchanted.actors.hosts.open_model", lambda *_: Thinking(("Remove", "yes")))
    await ask(bus, wanted(shop, models={"coder": "vllm:some/model"}))
    host = OrchestratorHost(RUN, config, LocalTeam)
    running = asyncio.create_task(host.run())
    await asked.wait()
    host.cancel("enough")
    assert await running == RunState.CANCELLED
    require_equal(await again(bus, tmp_path))


async def test_a_run_whose_time_was_over_reruns_equal_up_to_there(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path
) -> None:
    await ask(bus, wanted(shop, checks=("sleep 60",), budget=Budget(seconds=4.0)))
    assert await live(config) == RunState.FAILED
    require_equal(await again(bus, tmp_path))


@pytest.mark.parametrize("at", ["planning", "working", "coding", "reviewing", "checking"])
async def test_a_fork_reruns_equal_with_the_run_it_came_from(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, at: str
) -> None:
    await ask(bus, wanted(shop))
    await live(config)
    seq = next(s.seq for s in await bus.read_run(RUN) if s.event.run_transition.to_state == at)
    await ask(bus, wanted(shop, run_id="fork-1", forked_from=RUN, forked_at=seq))
    assert await live(config, "fork-1") == RunState.MERGED
    recording = await recorded(bus, "fork-1")
    file.save(recording, tmp_path / "fork.zip")
    require_equal(await rerun(await file.load(tmp_path / "fork.zip"), tmp_path / "scratch", patience=5))


async def test_a_recording_is_the_same_from_its_file(bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path) -> None:
    await ask(bus, wanted(shop))
    await live(config)
    recording = await recorded(bus)
    file.save(recording, tmp_path / "one.zip")
    loaded = await file.load(tmp_path / "one.zip")
    assert [s.raw for s in loaded.events] == [s.raw for s in recording.events]
    file.save(loaded, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    require_equal(await rerun(loaded, tmp_path / "scratch"))


async def test_an_open_run_cannot_be_run_again(bus: Bus, shop: Path) -> None:
    await ask(bus, wanted(shop))
    with pytest.raises(CannotRerun, match="no verdict yet"):
        await recorded(bus)


async def test_a_run_that_never_had_files_cannot_be_run_again(bus: Bus, config: SwarmConfig, tmp_path: Path) -> None:
    await ask(bus, wanted(tmp_path / "nowhere"))
    assert await live(config) == RunState.FAILED
    with pytest.raises(CannotRerun, match="before its files were stored"):
        await recorded(bus)
