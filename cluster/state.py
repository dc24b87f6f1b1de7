"""What a supervisor says about its services, in one file that any process may read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from enchanted.cluster.home import Home, write_atomic
from enchanted.cluster.processes import ProcessId

SCHEMA_VERSION = 1

Phase = Literal["stopped", "starting", "healthy", "failed", "stopping"]
ServicePhase = Literal["waiting", "starting", "healthy", "restarting", "unhealthy", "stopped", "external"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """How to reach the services of a home; the URLs carry their credentials."""

    nats_url: str
    clickhouse_url: str
    api_url: str
    ray_address: str
    ray_dashboard_url: str
    token_file: Path
    home: Path
    clickhouse_reader_url: str = ""
    """The same store for a login that can only read; empty where no such login is known."""
    ray_token_file: Path | None = None
    """Token of the Ray we started; None for a Ray that was joined."""

    def as_dict(self) -> dict[str, str]:
        """Every value as text, empty where there is none."""
        return {name: "" if value is None else str(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, str]) -> Endpoints:
        """The inverse of ``as_dict``."""
        paths = {name: Path(values[name]) for name in ("token_file", "home")}
        token = values.get("ray_token_file")
        rest = {name: values[name] for name in values if name not in (*paths, "ray_token_file")}
        return cls(**rest, **paths, ray_token_file=Path(token) if token else None)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceState:
    """One service."""

    name: str
    state: ServicePhase
    pid: int | None = None
    started: int | None = None
    """Start of the process in clock ticks from boot: tells it from a later one with the same pid."""
    port: int = 0
    restarts: int = 0
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why the services are not there."""

    cause: str
    remedy: str
    log: tuple[str, ...] = ()
    exit_code: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """All services of a home."""

    phase: Phase = "stopped"
    pid: int | None = None
    """The outermost process of the supervisor: the one to signal."""
    started: int | None = None
    services: tuple[ServiceState, ...] = ()
    endpoints: Endpoints | None = None
    failure: Failure | None = None
    notes: tuple[str, ...] = field(default=())
    """What a person should know, for instance an external bus whose durability could not be read."""

    def supervisor(self) -> ProcessId | None:
        """The supervisor, if it still lives."""
        if self.pid is None or self.started is None:
            return None
        process = ProcessId(self.pid, self.started)
        return process if process.alive() else None

    def service(self, name: str) -> ServiceState | None:
        """The service called ``name``."""
        return next((service for service in self.services if service.name == name), None)

    def with_service(self, changed: ServiceState) -> State:
        """This state with one service replaced or added."""
        names = [service.name for service in self.services]
        if changed.name not in names:
            return replace(self, services=(*self.services, changed))
        services = tuple(changed if service.name == changed.name else service for service in self.services)
        return replace(self, services=services)


def read(home: Home) -> State:
    """The last state written; "stopped" when there is none, or its supervisor is gone."""
    try:
        state = _from_table(json.loads(home.state.read_text()))
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return State()
    if state.phase in ("stopped", "failed") or state.supervisor():
        return state
    return replace(state, phase="stopped", services=tuple(_gone(service) for service in state.services))


def write(home: Home, state: State) -> None:
    """Replace the state file."""
    table = {"schema_version": SCHEMA_VERSION, **asdict(state)}
    table["endpoints"] = state.endpoints.as_dict() if state.endpoints else None
    write_atomic(home.state, json.dumps(table, indent=1))


def _gone(service: ServiceState) -> ServiceState:
    if service.state == "external" or service.pid is None or service.started is None:
        return service if service.state == "external" else replace(service, state="stopped")
    alive = ProcessId(service.pid, service.started).alive()
    return replace(service, state="unhealthy" if alive else "stopped", detail="its supervisor is gone")


def _from_table(table: dict[str, Any]) -> State:
    failure, endpoints = table.get("failure"), table.get("endpoints")
    return State(
        phase=table["phase"],
        pid=table["pid"],
        started=table["started"],
        services=tuple(ServiceState(**_known(ServiceState, service)) for service in table["services"]),
        endpoints=Endpoints.from_dict(endpoints) if endpoints else None,
        failure=Failure(**{**_known(Failure, failure), "log": tuple(failure["log"])}) if failure else None,
        notes=tuple(table.get("notes", ())),
    )


def _known(made: type, table: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a newer version wrote beside it."""
    names = {one.name for one in fields(made)}
    return {name: value for name, value in table.items() if name in names}
