"""The roles of a run in one process, for tests."""

from __future__ import annotations

from typing import Any, ClassVar

from enchanted.actors.config import SwarmConfig
from enchanted.actors.hosts import RoleHost, RoleSpec
from enchanted.actors.ledger import Ledger
from enchanted.actors.work import (
    Assignment,
    CheckReport,
    CheckRequest,
    Plan,
    PlanRequest,
    Review,
    ReviewRequest,
    RoleName,
    RunRequest,
    Submission,
)


class LocalTeam:
    """The roles of a run in this process; whoever makes one disbands it."""

    living: ClassVar[list[LocalTeam]] = []

    def __init__(self, request: RunRequest, config: SwarmConfig, ledger: Ledger) -> None:
        self.living.append(self)
        self._request = request
        self._config = config
        self._hosts: dict[str, RoleHost] = {}
        self.coders = request.coders

    async def plan(self, request: PlanRequest) -> Plan:
        plan: Plan = await self._call("architect", "architect", "plan", request)
        return plan

    async def code(self, coder: int, job: Assignment) -> Submission:
        done: Submission = await self._call(f"coder-{coder + 1}", "coder", "code", job, number=coder)
        return done

    async def check(self, request: CheckRequest) -> CheckReport:
        report: CheckReport = await self._call("reviewer", "reviewer", "check", request)
        return report

    async def review(self, request: ReviewRequest) -> Review:
        review: Review = await self._call("reviewer", "reviewer", "review", request)
        return review

    async def disband(self) -> None:
        hosts, self._hosts = self._hosts, {}
        for host in hosts.values():
            await host.stop()

    async def _call(self, name: str, role: RoleName, method: str, request: Any, number: int = 0) -> Any:
        if name not in self._hosts:
            spec = RoleSpec(role=role, name=name, request=self._request, config=self._config, number=number)
            host = RoleHost(spec)
            await host.start()
            self._hosts[name] = host
        return await self._hosts[name].call(method, request)
