"""A whole run in one process: real bus, real git, real sandbox, the model without weights."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enchanted.actors.config import SwarmConfig
from enchanted.actors.hosts import OrchestratorHost
from enchanted.actors.lifecycle import RunState
from enchanted.actors.recovery import recover
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.swarm import OrchestratorActor
from enchanted.actors.team_testing import LocalTeam
from enchanted.actors.testing import make_repository
from enchanted.actors.work import Review, ReviewRequest, RunRequest
from enchanted.bus.batch import Ack, Outgoing
from enchanted.bus.connection import Bus
from enchanted.bus.publisher import Publisher
from enchanted.bus.subjects import event_subject
from enchanted.schemas.chain import verify
from enchanted.schemas.events import StoredEvent, SwarmEvent, kind_of
from enchanted.schemas.fold import fold
from tests.integration.runs.world import ask
from tests.integration.runs.world import wanted as asked_for

SOURCE = 'import os\nimport sys\n\n\ndef status(order):\n    return f"open" if order else "closed"\n'
TEST = 'from shop import status\n\nassert status(1) == "open"\nassert status(0) == "closed"\n'
CHECKS = ("ruff check .", "python test_shop.py")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository with three lint findings and a passing test."""
    make_repository(tmp_path / "shop", {"shop.py": SOURCE, "test_shop.py": TEST})
    return tmp_path / "shop"


def wanted(shop: Path, **changes: Any) -> RunRequest:
    return asked_for(shop, **({"checks": CHECKS} | changes))


def of_kind(log: list[StoredEvent], kind: str) -> list[StoredEvent]:
    return [stored for stored in log if kind_of(stored.event) == kind]


async def test_a_run_is_merged_onto_a_branch_of_its_own(bus: Bus, config: SwarmConfig, shop: Path, eager: None) -> None:
    await ask(bus, wanted(shop))
    assert await OrchestratorHost("run-1", config, LocalTeam).run() == RunState.MERGED
    assert git(shop, "show", "enchanted/run-1:shop.py").startswith("def status") or "import os" not in git(
        shop, "show", "enchanted/run-1:shop.py"
    )
    assert (git(shop, "status", "--porcelain"), git(shop, "branch", "--show-current")) == ("", "main")
    log = await bus.read_run("run-1")
    verdict = verify(log)
    assert (verdict.intact, verdict.complete, verdict.closed) == (True, True, True)
    state = fold([replace(s, event=await bus.inflate(s.event)) for s in log])
    assert state.state == "merged"
    assert state.workspaces["main"].tree == of_kind(log, "state_change")[-1].event.state_change.new_state_hash
    assert {"decision", "state_change", "system_signal", "model_call", "tool_call", "run_transition"} == {
        kind_of(stored.event) for stored in log
    }
    assert len({stored.event.event_id for stored in log}) == len(log)


async def test_every_event_of_a_run_is_in_one_trace_with_a_live_span(
    bus: Bus, config: SwarmConfig, shop: Path, eager: None
) -> None:
    from enchanted.cluster.telemetry import configure

    configure("test", None)
    from opentelemetry import trace

    with trace.get_tracer("test").start_as_current_span("create_run"):
        await ask(bus, wanted(shop))
    await OrchestratorHost("run-1", config, LocalTeam).run()
    log = await bus.read_run("run-1")
    assert len({stored.event.trace_id for stored in of_kind(log, "decision") + of_kind(log, "tool_call")}) == 1
    assert all(len(stored.event.span_id) == 16 for stored in of_kind(log, "decision"))


async def test_a_run_whose_checks_stay_red_is_rejected_and_rolled_back(
    bus: Bus, config: SwarmConfig, shop: Path, eager: None
) -> None:
    await ask(bus, wanted(shop, checks=(*CHECKS, "false")))
    assert await OrchestratorHost("run-1", config, LocalTeam).run() == RunState.REJECTED
    log = await bus.read_run("run-1")
    trees = [s.event.state_change for s in of_kind(log, "state_change") if s.event.workspace_id == "main"]
    assert trees[-1].reason == "rollback"
    assert trees[-1].new_state_hash == trees[0].new_state_hash
    assert git(shop, "branch", "--list", "enchanted/*") == ""
    assert verify(log).complete


async def test_a_run_on_a_folder_without_a_repository_fails_with_the_remedy(
    bus: Bus, config: SwarmConfig, tmp_path: Path
) -> None:
    await ask(bus, wanted(tmp_path / "nowhere"))
    assert await OrchestratorHost("run-1", config, LocalTeam).run() == RunState.FAILED
    closing = (await bus.read_run("run-1"))[-2:]
    assert any("git init" in stored.event.run_transition.reason for stored in closing)


async def test_an_error_nobody_expected_still_closes_the_run(bus: Bus, config: SwarmConfig, shop: Path) -> None:
    await ask(bus, wanted(shop))
    await OrchestratorHost("run-1", config, LocalTeam).abandon(KeyError("odd"))
    log = await bus.read_run("run-1")
    assert fold(log).state == RunState.FAILED
    assert "KeyError: 'odd'" in log[-1].event.run_transition.reason
    assert verify(log).closed


def verdicts(log: list[StoredEvent]) -> list[str]:
    return [stored.event.run_transition.to_state for stored in log if stored.event.run_transition.heads]


async def first_of(event: asyncio.Event, running: asyncio.Task[RunState]) -> None:
    """Return when the event is set; a run that ends before says how."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
    if not event.is_set():
        waiting.cancel()
        raise AssertionError(running.result())


class Held:
    """Acknowledgements of some events are kept back: they are stored, and who published them does not know."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wanted: Callable[[SwarmEvent], bool]) -> None:
        self.stored, self.late = asyncio.Event(), asyncio.Event()
        publish = Publisher.publish_many

        async def slow(publisher: Publisher, messages: Sequence[Outgoing], **options: Any) -> list[Ack]:
            acks = await publish(publisher, messages, **options)
            events = [SwarmEvent.FromString(one.payload) for one in messages if one.subject.startswith("swarm.events")]
            if any(wanted(event) for event in events):
                self.stored.set()
                await self.late.wait()
            return acks

        monkeypatch.setattr(Publisher, "publish_many", slow)


@pytest.mark.parametrize(("checks", "verdict"), [(CHECKS, RunState.MERGED), ((*CHECKS, "false"), RunState.REJECTED)])
async def test_a_cancel_that_comes_while_the_verdict_is_published_changes_nothing_of_it(
    bus: Bus,
    config: SwarmConfig,
    shop: Path,
    eager: None,
    monkeypatch: pytest.MonkeyPatch,
    checks: tuple[str, ...],
    verdict: RunState,
) -> None:
    held = Held(monkeypatch, lambda event: bool(event.run_transition.heads))
    await ask(bus, wanted(shop, checks=checks))
    host = OrchestratorHost("run-1", config, LocalTeam)
    running = asyncio.create_task(host.run())
    await first_of(held.stored, running)
    # Nor does the end of the run's time.
    assert host._orchestrator is not None
    assert host._orchestrator._limit is not None
    assert host._orchestrator._limit.when() is None
    host.cancel("too late")
    await asyncio.sleep(0.01)
    held.late.set()
    assert await running == verdict
    assert verdicts(await bus.read_run("run-1")) == [verdict]


async def test_a_cancel_that_comes_while_a_merge_is_published_ends_with_the_files_it_tells_of(
    bus: Bus, config: SwarmConfig, shop: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch, lambda event: event.state_change.reason == "merge")
    await ask(bus, wanted(shop, checks=("false",)))
    host = OrchestratorHost("run-1", config, LocalTeam)
    running = asyncio.create_task(host.run())
    await first_of(held.stored, running)
    host.cancel("enough")
    await asyncio.sleep(0.01)
    held.late.set()
    assert await running == RunState.CANCELLED
    log = await bus.read_run("run-1")
    state = fold(log)
    assert verdicts(log) == ["cancelled"]
    assert json.loads(state.details)["tree"] == state.workspaces["main"].tree
    assert (verify(log).intact, verify(log).complete) == (True, True)


async def test_a_cancel_that_comes_while_git_makes_the_branch_finds_the_run_merged(
    bus: Bus, config: SwarmConfig, shop: Path, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, late, export = asyncio.Event(), asyncio.Event(), ShadowRepository.export_branch

    async def slow(self: ShadowRepository, *arguments: Any, **options: Any) -> str:
        begun.set()
        await asyncio.shield(late.wait())
        return await export(self, *arguments, **options)

    monkeypatch.setattr(ShadowRepository, "export_branch", slow)
    await ask(bus, wanted(shop))
    host = OrchestratorHost("run-1", config, LocalTeam)
    running = asyncio.create_task(host.run())
    await first_of(begun, running)
    for _ in range(2):
        host.cancel("too late")
        await asyncio.sleep(0.05)
    late.set()
    assert await running == RunState.MERGED
    log = await bus.read_run("run-1")
    assert verdicts(log) == ["merged"]
    branches = git(shop, "branch", "--list", "enchanted/*", "--format=%(refname:short)")
    assert json.loads(fold(log).details)["branch"] == branches == "enchanted/run-1"


async def test_a_run_whose_log_names_content_that_nobody_has_ends_with_that_as_its_reason(
    bus: Bus, config: SwarmConfig, shop: Path
) -> None:
    await ask(bus, wanted(shop))
    event = SwarmEvent(event_id="of-somebody", run_id="run-1", agent_id="somebody")
    event.tool_call.tool = "read"
    event.blobs.add(field="tool_call.output", sha256="ab" * 32)
    await bus.publisher.publish(
        Outgoing(subject=event_subject(event), payload=event.SerializeToString(), event_id=event.event_id)
    )
    actor = object.__new__(OrchestratorActor)
    OrchestratorHost.__init__(actor, "run-1", config, LocalTeam)
    await actor._run_or_abandon()
    state = fold(await bus.read_run("run-1"))
    assert (state.state, state.reason.startswith(f"no blob {'ab' * 32}")) == (RunState.FAILED, True)


async def test_what_a_killed_orchestrator_left_of_a_closed_run_is_cleared_away(
    bus: Bus, config: SwarmConfig, shop: Path, eager: None
) -> None:
    await ask(bus, wanted(shop))
    await OrchestratorHost("run-1", config, LocalTeam).run()
    folder = config.run_folder("run-1")
    (folder / "task-1.1" / "made").mkdir(parents=True)
    (folder / "task-1.1" / "made").chmod(0o500)
    assert await OrchestratorHost("run-1", config, LocalTeam).run() == RunState.MERGED
    assert [path.name for path in folder.iterdir()] == ["repo.git"]


class SpoiltTeam(LocalTeam):
    """Whose reviewer answers with an error that no step expects, while the coder lives."""

    async def review(self, request: ReviewRequest) -> Review:
        raise KeyError("odd")


async def test_when_nobody_expected_an_error_the_roles_have_ended_before_the_verdict_names_their_last_events(
    bus: Bus, config: SwarmConfig, shop: Path, eager: None
) -> None:
    await ask(bus, wanted(shop))
    host = OrchestratorHost("run-1", config, SpoiltTeam)
    with pytest.raises(ExceptionGroup) as raised:
        await host.run()
    await host.abandon(raised.value)
    await LocalTeam.living[-1].disband()
    log = await bus.read_run("run-1")
    assert log[-1].event.run_transition.to_state == "failed"
    assert (verify(log).intact, verify(log).complete, verify(log).closed) == (True, True, True)


async def test_a_cancelled_run_is_closed_as_cancelled(bus: Bus, config: SwarmConfig, shop: Path, eager: None) -> None:
    await ask(bus, wanted(shop, checks=("sleep 60",)))
    host = OrchestratorHost("run-1", config, LocalTeam)
    running = asyncio.create_task(host.run())
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.to_state == "prepared":
            break
    host.cancel("enough")
    assert await running == RunState.CANCELLED
    assert fold(await bus.read_run("run-1")).reason == "enough"


@pytest.mark.parametrize("crash_after", ["prepared", "planning", "working", "coding", "reviewing", "checking"])
async def test_an_orchestrator_that_dies_after_any_step_is_continued_to_a_verdict(
    bus: Bus, config: SwarmConfig, shop: Path, eager: None, crash_after: str
) -> None:
    await ask(bus, wanted(shop))
    first = asyncio.create_task(OrchestratorHost("run-1", config, LocalTeam).run())
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.to_state == crash_after:
            break
    first.cancel()
    await asyncio.wait([first])
    # As with Ray, the roles end with the orchestrator that made them.
    await LocalTeam.living[-1].disband()
    assert await OrchestratorHost("run-1", config, LocalTeam).run() == RunState.MERGED
    log = await bus.read_run("run-1")
    closings = [s for s in log if s.event.run_transition.heads]
    merges = [s.event.task_id for s in of_kind(log, "state_change") if s.event.state_change.reason == "merge"]
    assert len(closings) == 1
    assert len(merges) == len(set(merges))
    assert (verify(log).intact, verify(log).complete) == (True, True)


@pytest.mark.parametrize("forged_tree", ["f" * 64, ""], ids=["a tree nobody has", "the tree it began with"])
async def test_a_run_whose_log_was_tampered_with_is_not_gone_on_with_but_taken_back_to_its_last_valid_state(
    bus: Bus, config: SwarmConfig, shop: Path, eager: None, forged_tree: str
) -> None:
    await ask(bus, wanted(shop))
    first = asyncio.create_task(OrchestratorHost("run-1", config, LocalTeam).run())
    async for stored in bus.tail(after=0):
        if stored.event.run_transition.to_state == "checking":
            break
    first.cancel()
    await asyncio.wait([first])
    await LocalTeam.living[-1].disband()
    base, *_, merge = of_kind(await bus.read_run("run-1"), "state_change")
    merged, forged = merge.event.state_change.new_state_hash, SwarmEvent()
    forged.CopyFrom(merge.event)
    forged.event_id = "forged"
    forged.state_change.previous_state_hash = merged
    forged.state_change.new_state_hash = forged_tree or base.event.state_change.new_state_hash
    ack = await bus.publisher.publish(
        Outgoing(subject=merge.subject, payload=forged.SerializeToString(), event_id="forged")
    )

    assert await OrchestratorHost("run-1", config, LocalTeam).run() == RunState.FAILED
    log = await bus.read_run("run-1")
    closing = next(one for one in log if one.event.run_transition.heads)
    assert f"does not verify from sequence {ack.seq} on" in closing.event.run_transition.reason
    found = recover(log, run="run-1")
    assert found.valid is not None
    assert found.valid.tree == merged
    newest = of_kind(log, "state_change")[-1].event
    assert newest.event_id == "forged" if forged_tree else newest.state_change.new_state_hash == merged
    assert not git(shop, "branch", "--list", "enchanted/*")
