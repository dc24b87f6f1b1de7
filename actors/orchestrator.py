"""The Orchestrator: drives a run from its request to a verdict, one step of the table at a time.

It keeps nothing that the log does not: kill it at any point, and the next one folds the log and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from enchanted.actors import spans
from enchanted.actors.errors import ActorError, BaseMissing, CannotApply, NotARepository, OutOfTime, ToolNotRun
from enchanted.actors.fork import inflated, store_beginning
from enchanted.actors.ledger import Ledger, TaskRecord, read_ledger, report_to_json, spec_to_json
from enchanted.actors.lifecycle import (
    CLOSED_RUN,
    CLOSED_TASK,
    RunSignal,
    RunState,
    TaskSignal,
    TaskState,
    next_run_state,
    next_task_state,
)
from enchanted.actors.models.errors import ModelError
from enchanted.actors.recovery import Recovery
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.merge_queue import Conflict, MergeQueue
from enchanted.actors.team import AgentLost, Team
from enchanted.actors.work import Assignment, CheckReport, CheckRequest, PlanRequest, ReviewRequest, RunRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.errors import BusError
from enchanted.bus.ports import BusPort
from enchanted.schemas import events
from enchanted.schemas.canonical import Json
from enchanted.schemas.chain import heads_of
from enchanted.schemas.events import SwarmEvent
from enchanted.schemas.fold import MAIN_WORKSPACE

T = TypeVar("T")

MAX_INTERRUPTIONS = 5
"""A task whose Coder died this often is given up."""


class Orchestrator:
    """One run. `drive` returns its verdict; calling it again on a closed run only returns it."""

    def __init__(
        self,
        *,
        bus: BusPort,
        log: AgentLog,
        ledger: Ledger,
        team: Team,
        repository: ShadowRepository,
        now: Callable[[], float],
    ) -> None:
        assert ledger.request is not None
        self._bus = bus
        self._log = log
        self._ledger = ledger
        self._team = team
        self._repository = repository
        self._now = now
        self._merging = asyncio.Lock()
        self._closed: dict[str, asyncio.Event] = {}
        self._queue = MergeQueue(repository)
        self._limit: asyncio.Timeout | None = None
        self.closing = False
        """The verdict is being made: git and the bus go on whoever is cancelled, so nobody stops it any more."""

    @property
    def _request(self) -> RunRequest:
        request = self._ledger.request
        assert request is not None
        return request

    async def drive(self) -> RunState:
        """Go on from wherever the log says, until the run is closed."""
        steps = {
            RunState.CREATED: self._store_base,
            RunState.PREPARED: self._baseline,
            RunState.PLANNING: self._plan,
            RunState.WORKING: self._work,
            RunState.CHECKING: self._judge,
        }
        while self._ledger.state not in CLOSED_RUN:
            if self._ledger.cancel_reason:
                await self._close(RunSignal.CANCEL, self._ledger.cancel_reason)
                break
            try:
                async with asyncio.timeout(self._time_left()) as self._limit:
                    await steps[self._ledger.state]()
            except TimeoutError:
                await self.run_out_of_time()
            except (ActorError, ModelError) as error:
                await self._close(RunSignal.ERROR, str(error))
        return self._ledger.state

    async def cancel(self, reason: str) -> RunState:
        """Close the run as cancelled, if it is not closed; whoever runs `drive` must have been stopped first."""
        return await self._end(RunSignal.CANCEL, reason)

    async def run_out_of_time(self) -> RunState:
        """The same, as failed because its time is spent."""
        return await self._end(RunSignal.ERROR, str(OutOfTime(self._request.budget.seconds)))

    async def _end(self, signal: RunSignal, reason: str) -> RunState:
        # What was being published when the driver was stopped may be stored, and may be the verdict.
        await self._log.quiet()
        log = await self._bus.read_run(self._request.run_id)
        self._ledger = read_ledger([await inflated(self._bus, stored) for stored in log])
        if self._ledger.state not in CLOSED_RUN:
            await self._close(signal, reason)
        return self._ledger.state

    async def give_up(self, recovery: Recovery, why: str) -> RunState:
        """Close a run whose log does not verify, with the files of its last valid state."""
        # A forged event may name files that nobody has: there is no way back from those.
        there = await asyncio.to_thread(self._repository.store.has, [self._ledger.main_tree])
        await self._close(RunSignal.ERROR, why, await self._roll_back(recovery.tree if there else ""))
        return self._ledger.state

    def _time_left(self) -> float | None:
        end = self._ledger.started_at + self._request.budget.seconds
        return max(0.0, end - self._now()) if self._request.budget.seconds else None

    async def _store_base(self) -> None:
        if self._request.forked_from:
            fork = await store_beginning(self._bus, self._log, self._ledger, self._repository)
            return await self._step(fork.signal, fork.reason, fork.details, before=fork.drafts)
        tree = self._repository.base_tree
        if not self._ledger.main_tree:
            content = await self._bus.blobs.put(await self._repository.bundle(tree))
            change = events.state_change(
                workspace_id=MAIN_WORKSPACE,
                previous_tree=self._repository.empty_tree,
                new_tree=tree,
                patch="",
                files=await self._repository.list(tree),
                reason="base",
                resource=self._request.repo,
                reversible=False,
                content_sha256=content,
                parent=self._ledger.last_event_id,
            )
            await self._change_main(change)
        commit = self._repository.base_commit
        details = {"base_commit": commit, "base_tree": tree, **self._left_out()}
        return await self._step(RunSignal.BASE_STORED, f"the repository at {commit[:12]} is stored", details)

    def _left_out(self) -> dict[str, Json]:
        source = self._repository.source
        found = () if source is None else (("uncommitted", source.changed[:100]), ("submodules", source.submodules))
        return {name: list(paths) for name, paths in found}

    async def _baseline(self) -> None:
        report = await self._checked(self._ledger.main_tree)
        failing = ", ".join(report.failing) or "none"
        reason = f"checks failing at the start: {failing}; lint findings: {sum(report.findings.values())}"
        await self._step(RunSignal.BASELINE_KNOWN, reason, {"report": report_to_json(report)})

    async def _plan(self) -> None:
        assert self._ledger.report is not None
        files = tuple(entry.path for entry in await self._repository.list(self._ledger.main_tree))
        request = PlanRequest(task=self._request.task, report=self._ledger.report, files=files, carrier=spans.carrier())
        plan = await self._retried(lambda: self._team.plan(request))
        drafts = [
            events.run_transition(
                subject="task",
                from_state="",
                to_state=next_task_state(TaskState.NEW, TaskSignal.PLAN),
                reason=task.title,
                details=spec_to_json(task),
                task_id=task.task_id,
                parent=plan.decision_id,
            )
            for task in plan.tasks
        ]
        await self._step(RunSignal.PLANNED, f"{len(drafts)} tasks", parent=plan.decision_id, before=drafts)

    async def _work(self) -> None:
        for task in self._ledger.open_tasks:
            if task.state == TaskState.CODING:
                await self._task_step(task, TaskSignal.INTERRUPT, "the orchestrator restarted")
        self._closed = {task_id: asyncio.Event() for task_id in self._ledger.tasks}
        for task_id, task in self._ledger.tasks.items():
            if task.state in CLOSED_TASK:
                self._closed[task_id].set()
        idle: asyncio.Queue[int] = asyncio.Queue()
        for coder in range(self._team.coders):
            idle.put_nowait(coder)
        try:
            async with asyncio.TaskGroup() as group:
                for task in self._ledger.open_tasks:
                    group.create_task(self._finish(task, idle))
        except* (ActorError, ModelError, BusError) as errors:
            raise errors.exceptions[0] from errors
        accepted = sum(task.state == TaskState.ACCEPTED for task in self._ledger.tasks.values())
        await self._step(RunSignal.TASKS_DONE, f"{accepted} of {len(self._ledger.tasks)} tasks accepted")

    async def _finish(self, task: TaskRecord, idle: asyncio.Queue[int]) -> None:
        for earlier in task.spec.after:
            await self._closed[earlier].wait()
        while task.state not in CLOSED_TASK:
            if task.state == TaskState.PENDING:
                coder = await idle.get()
                try:
                    await self._code(task, coder)
                finally:
                    idle.put_nowait(coder)
            else:
                async with self._merging:
                    await self._merge(task)
        self._closed[task.spec.task_id].set()

    async def _code(self, task: TaskRecord, coder: int) -> None:
        ledger = self._ledger
        assert ledger.report is not None
        if task.codings > task.reworks + MAX_INTERRUPTIONS:
            return await self._task_step(task, TaskSignal.GIVE_UP, "its coders died too often")
        report, tree = ledger.report, task.assigned if task.start else ledger.main_tree
        await self._task_step(task, TaskSignal.ASSIGN, f"coder-{coder + 1}", {"tree": tree})
        job = Assignment(
            task=task.spec,
            workspace_id=task.workspace_id,
            tree=tree,
            report=report,
            feedback=task.feedback,
            attempt=task.codings,
            parent=task.event_id,
            carrier=spans.carrier(),
            start=task.start,
            variables=task.variables,
        )
        try:
            done = await self._team.code(coder, job)
        except AgentLost as error:
            return await self._task_step(task, TaskSignal.INTERRUPT, str(error))
        except (ActorError, ModelError) as error:
            return await self._task_step(task, TaskSignal.GIVE_UP, str(error))
        details = {
            "tree": done.tree,
            "base_tree": done.base_tree,
            "summary": done.summary,
            "decision": done.decision_id,
        }
        return await self._task_step(task, TaskSignal.SUBMIT, done.summary, details, parent=done.decision_id)

    async def _merge(self, task: TaskRecord) -> None:
        if task.merged:
            return await self._accept(task, await self._checked(self._ledger.main_tree), "merged before the restart")
        done = task.submission
        merged = await self._queue.merge(base=done["base_tree"], ours=self._ledger.main_tree, theirs=done["tree"])
        if isinstance(merged, Conflict):
            return await self._again(task, f"conflicts with work merged meanwhile in {', '.join(merged.paths)}")
        patch = await self._repository.diff(self._ledger.main_tree, merged.tree)
        assert self._ledger.report is not None
        request = ReviewRequest(
            task=task.spec,
            before=self._ledger.report,
            tree=merged.tree,
            patch=patch.text,
            summary=done["summary"],
            parent=task.event_id,
            carrier=spans.carrier(),
        )
        try:
            review = await self._retried(lambda: self._team.review(request))
        except ToolNotRun as error:
            # What it is about may be the candidate's own doing.
            return await self._again(task, str(error))
        if not review.approved:
            return await self._again(task, review.reason, review.decision_id)
        if patch.files:
            change = events.state_change(
                workspace_id=MAIN_WORKSPACE,
                previous_tree=self._ledger.main_tree,
                new_tree=merged.tree,
                patch=patch.text,
                files=patch.files,
                reason="merge",
                resource=task.spec.title,
                task_id=task.spec.task_id,
                parent=review.decision_id,
            )
            await self._change_main(change)
        return await self._accept(task, review.report, review.reason, review.decision_id)

    async def _accept(self, task: TaskRecord, report: CheckReport, reason: str, parent: str = "") -> None:
        details = {"report": report_to_json(report)}
        await self._task_step(task, TaskSignal.APPROVE, reason, details, parent=parent)

    async def _again(self, task: TaskRecord, reason: str, parent: str = "") -> None:
        spent = task.reworks >= self._request.budget.reworks_per_task
        await self._task_step(task, TaskSignal.GIVE_UP if spent else TaskSignal.REWORK, reason, parent=parent)

    async def _judge(self) -> None:
        report = await self._checked(self._ledger.main_tree)
        if report.green:
            self._begin_to_close()
            return await self._accept_all(report.tree)
        reason = f"checks still fail: {', '.join(report.failing)}"
        return await self._close(RunSignal.RED, reason, await self._roll_back(self._ledger.valid_tree))

    async def _accept_all(self, tree: str) -> None:
        branch, published = await self._publish()
        given_up = [t.spec.title for t in self._ledger.tasks.values() if t.state == TaskState.REJECTED]
        left = f"; given up: {', '.join(given_up)}" if given_up else ""
        reason = f"every check passes; {published}{left}"
        await self._close(RunSignal.GREEN, reason, {"branch": branch, "tree": tree})

    async def _publish(self) -> tuple[str, str]:
        """The branch, and in words what became of it."""
        branch = f"enchanted/{self._request.run_id}"
        message = f"{self._request.task}\n\nEnchanted-Run: {self._request.run_id}"
        try:
            await self._repository.export_branch(self._request.repo, branch, self._ledger.main_tree, message)
        except (NotARepository, BaseMissing) as error:
            # The repository of a fork may be on another machine; its files are in the log all the same.
            if not self._request.forked_from:
                raise
            return "", f"no branch: {error}"
        if self._request.apply:
            try:
                await self._repository.apply_to_working_tree(self._request.repo, branch)
            except CannotApply as error:
                return branch, f"branch {branch}, not applied: {error}"
        return branch, f"branch {branch}"

    async def _roll_back(self, valid: str) -> dict[str, Json]:
        ledger = self._ledger
        if ledger.main_tree == valid or not valid:
            return {"tree": ledger.main_tree, "rolled_back": []}
        patch = await self._repository.diff(ledger.main_tree, valid)
        change = events.state_change(
            workspace_id=MAIN_WORKSPACE,
            previous_tree=ledger.main_tree,
            new_tree=valid,
            patch=patch.text,
            files=patch.files,
            reason="rollback",
            resource="last valid state",
            parent=ledger.last_event_id,
        )
        await self._change_main(change)
        return {"tree": valid, "rolled_back": [entry.path for entry in patch.files]}

    async def _checked(self, tree: str) -> CheckReport:
        report = self._ledger.report
        if report is not None and report.tree == tree:
            return report
        return await self._retried(lambda: self._team.check(CheckRequest(tree=tree, carrier=spans.carrier())))

    @staticmethod
    async def _retried(call: Callable[[], Awaitable[T]]) -> T:
        for _ in range(MAX_INTERRUPTIONS):
            with suppress(AgentLost):
                return await call()
        return await call()

    def _begin_to_close(self) -> None:
        if not self.closing and self._limit is not None:
            with suppress(RuntimeError):  # the step is over already
                self._limit.reschedule(None)
        self.closing = True

    async def _close(self, signal: RunSignal, reason: str, details: dict[str, Json] | None = None) -> None:
        self._begin_to_close()
        await self._team.disband()
        if signal != RunSignal.GREEN and details is None:
            details = await self._roll_back(self._ledger.valid_tree)
        heads = heads_of(await self._bus.read_run(self._request.run_id))
        await self._step(signal, reason, details, heads=heads)

    async def _step(
        self,
        signal: RunSignal,
        reason: str,
        details: Json = None,
        *,
        parent: str = "",
        before: list[SwarmEvent] | None = None,
        heads: list[events.AgentHead] | None = None,
    ) -> None:
        draft = events.run_transition(
            subject="run",
            from_state=self._ledger.state,
            to_state=next_run_state(self._ledger.state, signal),
            reason=reason,
            details=details,
            heads=heads or (),
            parent=parent or self._ledger.last_event_id,
        )
        await self._write(*(before or ()), draft)

    async def _task_step(
        self, task: TaskRecord, signal: TaskSignal, reason: str, details: Json = None, *, parent: str = ""
    ) -> None:
        await self._write(
            events.run_transition(
                subject="task",
                from_state=task.state,
                to_state=next_task_state(task.state, signal),
                reason=reason,
                details=details,
                task_id=task.spec.task_id,
                parent=parent or task.event_id,
            )
        )

    async def _write(self, *drafts: SwarmEvent) -> None:
        for stored in await self._log.emit(*drafts):
            self._ledger.add(stored)

    async def _change_main(self, change: SwarmEvent) -> None:
        self._ledger.add(await self._log.emit_change(change, expected_last=self._ledger.main_seq))
