"""Runs that really happened (real bus, git and sandbox, the model without weights), run again from their log alone."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from enchanted.actors.config import RoleModel, SwarmConfig
from enchanted.actors.errors import ActorError
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.ledger import request_to_json
from enchanted.actors.lifecycle import RunState
from enchanted.actors.models.errors import ModelRefused
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.models.model import ModelReply, ModelRequest
from enchanted.actors.rerun import file
from enchanted.actors.rerun.driver import Verdict, rerun
from enchanted.actors.rerun.errors import CannotRerun
from enchanted.actors.rerun.players import RecordedModel, RecordedTools
from enchanted.actors.rerun.recording import Recording, recording_of
from enchanted.actors.team import AgentLost
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.work import Budget, RoleName, RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.connection import Bus
from enchanted.bus.testing import SMALL_LIMITS, NatsServer, nats_server
from enchanted.schemas import events
from enchanted.schemas.events import StoredEvent, kind_of

RUN = "run-1"
FILES = {
    "shop.py": 'import os\nimport sys\n\n\ndef status(order):\n    return f"open" if order else "closed"\n',
    "stock.py": 'import os\n\n\ndef left(items):\n    return f"{len(items)}"\n',
    "test_shop.py": 'from shop import status\n\nassert status(1) == "open"\nassert status(0) == "closed"\n',
    "test_stock.py": 'from stock import left\n\nassert left([1]) == "1"\n',
}
ONE_CALL, THREE = Budget(model_calls_per_task=1), Budget(model_calls_per_task=3, reworks_per_task=1)
CHECKS = ("ruff check .", "python test_shop.py", "python test_stock.py")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository with lint findings in two modules and passing tests."""
    make_repository(tmp_path / "shop", FILES)
    return tmp_path / "shop"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    async with Bus.connect(server.url) as bus:
        await bus.ensure_streams(SMALL_LIMITS)
        yield bus


@pytest.fixture
def config(server: NatsServer, tmp_path: Path) -> SwarmConfig:
    minimal = RoleModel(url="minimal")
    return SwarmConfig(
        nats_url=server.url,
        home=str(tmp_path / "home"),
        models={"architect": minimal, "coder": minimal, "reviewer": minimal},
        signal_seconds=0.5,
    )


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model without weights prefers to act and to approve, so that the run can be merged."""
    prefers: Callable[..., MinimalModel] = lambda *_: MinimalModel(("Remove", "yes"))  # noqa: E731
    monkeypatch.setattr("enchanted.actors.hosts.open_model", prefers)


@pytest.fixture(autouse=True)
async def nobody_left(bus: Bus) -> AsyncIterator[None]:
    yield
    while LocalTeam.living:
        await LocalTeam.living.pop().disband()


async def ask(bus: Bus, shop: Path, **changes: Any) -> None:
    request = RunRequest(run_id=RUN, task="make the linter pass", repo=str(shop), checks=CHECKS)
    request = replace(request, **changes)
    log = AgentLog(bus, run_id=request.run_id, role="operator", agent_name="operator")
    details = request_to_json(request)
    await log.emit(
        events.run_transition(subject="run", from_state="", to_state="created", reason=request.task, details=details)
    )


async def live(config: SwarmConfig, run: str = RUN, team: type[LocalTeam] = LocalTeam) -> RunState:
    return await OrchestratorHost(run, config, team).run()


async def recorded(bus: Bus, run: str = RUN) -> Recording:
    return await recording_of(run, bus.read_run, bus.blobs.get)


async def again(bus: Bus, folder: Path) -> Verdict:
    return await rerun(await recorded(bus), folder / "scratch", patience=5)


def require_equal(verdict: Verdict) -> None:
    assert verdict.divergence is None, (verdict.divergence.why, verdict.divergence.differences)
    assert [(part.name, part.equal) for part in verdict.parts] == [(p.name, p.recorded) for p in verdict.parts]


async def test_a_merged_run_of_parallel_coders_reruns_equal_and_the_user_repository_is_not_needed(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path
) -> None:
    await ask(bus, shop, coders=2)
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
    await ask(bus, shop, checks=(*CHECKS, "false"))
    assert await live(config) == RunState.REJECTED
    require_equal(await again(bus, tmp_path))


class OddModel(MinimalModel):
    """Fails, or stops inside its JSON, on every third question."""

    def __init__(self, oddity: str) -> None:
        super().__init__(("Remove", "yes"))
        self._oddity = oddity
        self._asked = 0

    async def complete(self, request: ModelRequest) -> ModelReply:
        self._asked += 1
        if self._oddity == "fails" and self._asked % 3 == 0:
            raise ModelRefused(self.name, "it is tired")
        reply = await super().complete(request)
        return replace(reply, text=reply.text[:-5]) if self._oddity == "stops" and self._asked % 3 == 1 else reply


ODD: dict[str, tuple[Callable[[], MinimalModel], bool, dict[str, Any]]] = {
    "models that fail": (lambda: OddModel("fails"), True, {}),
    "models that stop inside their JSON": (lambda: OddModel("stops"), True, {}),
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
    await ask(bus, shop, **changes)
    await live(replace(config, models=roles))
    require_equal(await again(bus, tmp_path))


async def test_how_fast_models_and_tools_answer_changes_nothing(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        (shop / f"more_{number}.py").write_text("import os\nimport re\n")
    git = make_repository(shop, {})
    assert git.run("ls-files").count(b"more_") == 4
    await ask(bus, shop, coders=3)
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
    await ask(bus, shop, checks=("sleep 60",))
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
    await ask(bus, shop, models={"coder": "vllm:some/model"})
    host = OrchestratorHost(RUN, config, LocalTeam)
    running = asyncio.create_task(host.run())
    await asked.wait()
    host.cancel("enough")
    assert await running == RunState.CANCELLED
    require_equal(await again(bus, tmp_path))


async def test_a_run_whose_time_was_over_reruns_equal_up_to_there(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path
) -> None:
    await ask(bus, shop, checks=("sleep 60",), budget=Budget(seconds=4.0))
    assert await live(config) == RunState.FAILED
    require_equal(await again(bus, tmp_path))


@pytest.mark.parametrize("crash_after", ["prepared", "working", "coding", "reviewing", "checking"])
async def test_a_run_with_two_orchestrators_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, crash_after: str
) -> None:
    await ask(bus, shop)
    first = asyncio.create_task(live(config))
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.to_state == crash_after:
            break
    first.cancel()
    await asyncio.wait([first])
    await LocalTeam.living[-1].disband()
    assert await live(config) == RunState.MERGED
    recording = await recorded(bus)
    assert len(recording.acts) == 2
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


LAST_WORD = 3.0
"""Seconds until what an agent has said is heard at the latest."""


class MortalTeam(LocalTeam):
    """Its first ``victim`` ends without a word as soon as it has said what ``last_word`` names; another one follows."""

    victim: ClassVar[str] = "coder-1"
    last_word: ClassVar[str] = "tool_call"
    graves: ClassVar[list[AsyncExitStack]] = []

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        if name != self.victim or self.graves:
            return await super()._call(name, role, method, request, number)
        work = asyncio.create_task(super()._call(name, role, method, request, number))
        said = asyncio.create_task(self._last_word_said(name))
        await asyncio.wait({work, said}, return_when=asyncio.FIRST_COMPLETED)
        # It may have answered before its last word was heard here: then the answer is lost with it.
        if not said.done() and not (await asyncio.wait({said}, timeout=LAST_WORD))[0]:
            said.cancel()
            return work.result()
        work.cancel()
        await asyncio.wait([work])
        # Nobody hears it say STOPPING before the test is over.
        self.graves.append(self._hosts.pop(name)._stack.pop_all())
        raise AgentLost(name)

    async def _last_word_said(self, name: str) -> None:
        async with Bus.connect(self._config.nats_url) as bus:
            async for stored in bus.tail(after=0):
                if stored.event.agent_name == name and self.last_word in (kind_of(stored.event), _chosen(stored)):
                    return


def _chosen(stored: StoredEvent) -> str:
    return "submit" if '"submit"' in stored.event.decision.action else ""


@pytest.mark.parametrize(
    ("victim", "last_word"),
    [
        ("coder-1", "tool_call"),
        ("coder-1", "decision"),
        ("coder-1", "state_change"),
        ("coder-1", "submit"),
        ("architect", "decision"),
        ("reviewer", "tool_call"),
        ("reviewer", "model_call"),
        ("reviewer", "decision"),
    ],
)
async def test_a_run_in_which_somebody_died_reruns_equal_with_the_successor(
    bus: Bus,
    config: SwarmConfig,
    shop: Path,
    tmp_path: Path,
    victim: str,
    last_word: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MortalTeam, "victim", victim)
    monkeypatch.setattr(MortalTeam, "last_word", last_word)
    await ask(bus, shop, coders=1 if victim == "coder-1" else 2)
    try:
        assert await live(config, team=MortalTeam) == RunState.MERGED
        recording = await recorded(bus)
    finally:
        await MortalTeam.graves.pop().aclose()
    assert [part.name for part in recording.parts].count(victim) == 2
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


class UnsucceededTeam(MortalTeam):
    """Whose victim nobody follows."""

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        if name == self.victim and self.graves:
            await asyncio.Event().wait()
        return await super()._call(name, role, method, request, number)


async def test_a_run_reruns_equal_whose_stream_took_in_the_last_words_of_somebody_after_the_news_of_his_death(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path
) -> None:
    await ask(bus, shop, coders=2)
    first = asyncio.create_task(live(config, team=UnsucceededTeam))
    news = str(AgentLost(MortalTeam.victim))
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.reason == news:
            break
    first.cancel()
    await asyncio.wait([first])
    try:
        await LocalTeam.living[-1].disband()
        assert await live(config) == RunState.MERGED
    finally:
        await MortalTeam.graves.pop().aclose()

    async def read(run_id: str) -> list[StoredEvent]:
        return _last_words_after(await bus.read_run(run_id), news)

    recording = await recording_of(RUN, read, bus.blobs.get)
    dead = next(part for part in recording.parts if part.name == MortalTeam.victim)
    assert dead.last_seq > next(s.seq for s in recording.events if s.event.run_transition.reason == news)
    assert [part.name for part in recording.acts[0].roles].count(MortalTeam.victim) == 1
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


def _last_words_after(events: Sequence[StoredEvent], news: str) -> list[StoredEvent]:
    """The same events, as a stream has them that took in the victim's last ones later than the news."""
    dead = next(stored.event.agent_id for stored in events if stored.event.agent_name == MortalTeam.victim)
    # Who is killed does not say STOPPING, which is said here when the grave is closed.
    said = [s for s in events if s.event.agent_id != dead or s.event.system_signal.status in ("", "STARTING")]
    place = next(at for at, stored in enumerate(said) if stored.event.run_transition.reason == news)
    last = max(at for at in range(place) if said[at].event.agent_id == dead)
    order = [*said[:last], *said[last + 1 : place + 1], said[last], *said[place + 1 :]]
    return [replace(stored, seq=seq) for seq, stored in enumerate(order, start=1)]


class NobodyTeam(LocalTeam):
    """Whose Coder is never there: lost before it says a word, again and again, then refused."""

    calls: ClassVar[int] = 0

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        if role != "coder":
            return await super()._call(name, role, method, request, number)
        type(self).calls += 1
        if self.calls % 3:
            raise AgentLost(name)
        raise ActorError("there is no room for it")


async def test_a_run_whose_coders_never_came_reruns_equal(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NobodyTeam, "calls", 0)
    await ask(bus, shop, coders=2)
    assert await live(config, team=NobodyTeam) == RunState.REJECTED
    recording = await recorded(bus)
    assert {part.name for part in recording.parts} == {"orchestrator", "architect", "reviewer"}
    require_equal(await rerun(recording, tmp_path / "scratch", patience=5))


@pytest.mark.parametrize("at", ["planning", "working", "coding", "reviewing", "checking"])
async def test_a_fork_reruns_equal_with_the_run_it_came_from(
    bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path, at: str
) -> None:
    await ask(bus, shop)
    await live(config)
    seq = next(s.seq for s in await bus.read_run(RUN) if s.event.run_transition.to_state == at)
    await ask(bus, shop, run_id="fork-1", forked_from=RUN, forked_at=seq)
    assert await live(config, "fork-1") == RunState.MERGED
    recording = await recorded(bus, "fork-1")
    file.save(recording, tmp_path / "fork.zip")
    require_equal(await rerun(await file.load(tmp_path / "fork.zip"), tmp_path / "scratch", patience=5))


async def test_a_recording_is_the_same_from_its_file(bus: Bus, config: SwarmConfig, shop: Path, tmp_path: Path) -> None:
    await ask(bus, shop)
    await live(config)
    recording = await recorded(bus)
    file.save(recording, tmp_path / "one.zip")
    loaded = await file.load(tmp_path / "one.zip")
    assert [s.raw for s in loaded.events] == [s.raw for s in recording.events]
    file.save(loaded, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    require_equal(await rerun(loaded, tmp_path / "scratch"))


async def test_an_open_run_cannot_be_run_again(bus: Bus, shop: Path) -> None:
    await ask(bus, shop)
    with pytest.raises(CannotRerun, match="no verdict yet"):
        await recorded(bus)


async def test_a_run_that_never_had_files_cannot_be_run_again(bus: Bus, config: SwarmConfig, tmp_path: Path) -> None:
    await ask(bus, tmp_path / "nowhere")
    assert await live(config) == RunState.FAILED
    with pytest.raises(CannotRerun, match="before its files were stored"):
        await recorded(bus)
