"""Start, find and stop the services of a home."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from enchanted.cluster import probes, ray_head, state
from enchanted.cluster.errors import (
    ClusterError,
    CommandFailed,
    NotRunning,
    ServiceFailed,
    SettingsInvalid,
    StartTimedOut,
    StillRunning,
)
from enchanted.cluster.home import (
    Home,
    in_ray_job,
    new_secret,
    refuse_foreign,
    refuse_uploaded,
    take_lock,
    write_atomic,
    write_once,
)
from enchanted.cluster.probes import NotReady
from enchanted.cluster.processes import ProcessId, end, with_variable
from enchanted.cluster.service import MARKER, last_lines, python, rotate
from enchanted.cluster.settings import DEFAULT_HOME, Settings
from enchanted.cluster.state import Endpoints as Endpoints
from enchanted.cluster.state import ServiceState, State

Progress = Callable[[str], None]

DOWN_SECONDS = 60.0
LEFTOVER_GRACE = 3.0
POLL_SECONDS = 0.05
JOB_HOME = Path("~/.enchanted")
LEFT_OUT = ("RAY_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_ADDRESS")
"""What Ray tells a job's driver about the job, which the services outlive, and what the settings have read."""
OTHER_TOKEN = "RAY_AUTH_TOKEN"
"""Goes before the token file of a Ray of our own, and is of somebody else's; a Ray that was joined may need it."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A home's services as they answer now."""

    home: Path
    state: State
    services: tuple[ServiceState, ...]

    @property
    def healthy(self) -> bool:
        """Everything that should run answers."""
        return self.state.phase == "healthy" and all(s.state in ("healthy", "external") for s in self.services)

    def as_dict(self) -> dict[str, Any]:
        """The document of `status --json`."""
        endpoints = self.state.endpoints.as_dict() if self.state.endpoints else {}
        phase = self.state.phase
        document: dict[str, Any] = {"schema_version": state.SCHEMA_VERSION, "state": phase, "healthy": self.healthy}
        if phase == "healthy" and not self.healthy:
            document["state"] = "degraded"
        document |= {
            **endpoints,
            "home": str(self.home),
            "supervisor_pid": self.state.pid if phase != "stopped" else None,
        }
        document["services"] = [asdict(service) for service in self.services]
        document["notes"] = list(self.state.notes)
        document["failure"] = asdict(self.state.failure) if self.state.failure else None
        return document


def home_of(settings: Settings, environment: Mapping[str, str] | None = None) -> Home:
    """The home of these settings; inside a Ray job the default is ``~/.enchanted``.

    Raises:
        HomeRefused: it is inside the folder that Ray unpacked for a job.
    """
    environment = os.environ if environment is None else environment
    path = settings.home
    if in_ray_job(environment) and path == DEFAULT_HOME.absolute() and "ENCHANTED_HOME" not in environment:
        path = JOB_HOME.expanduser()
    refuse_uploaded(path)
    return Home(path)


def read_endpoints(home: Path) -> Endpoints:
    """The endpoints of the services that run for ``home``.

    Raises:
        NotRunning: none do.
    """
    current = state.read(Home(home))
    if current.phase != "healthy" or current.endpoints is None:
        raise NotRunning(home)
    return current.endpoints


def endpoints_in_cluster() -> Endpoints | None:
    """The endpoints registered in the Ray cluster this process is a job of; None outside a job, or without any."""
    if not in_ray_job(os.environ):
        return None
    import ray  # heavy, and only a job has a cluster to ask

    from enchanted.cluster import registry

    if not ray.is_initialized():
        ray.init(address="auto", namespace="enchanted", log_to_driver=False)
    return registry.registered()


async def up(settings: Settings, progress: Progress = lambda _: None) -> Endpoints:
    """Start what does not run, wait until everything is healthy; running services are left alone.

    Cancelled while it waits, it stops what it started.

    Raises:
        ClusterError: a service did not become healthy; the cause and its last log lines go to ``progress`` too.
    """
    if found := await _registered():
        return found
    home = home_of(settings)
    refuse_foreign(home.path)
    current = state.read(home)
    if current.phase == "healthy" and current.endpoints and not await _unhealthy(current):
        return current.endpoints
    home.prepare()
    _require_token(settings)
    started = await _start(home, settings)
    try:
        return await _wait_healthy(home, settings.start_seconds, progress)
    except (asyncio.CancelledError, StartTimedOut):
        if started is not None:
            progress("stopping what was started")
            await asyncio.shield(_stop(home, ProcessId.of(started.pid)))
        raise


def _require_token(settings: Settings) -> None:
    """The token file that is set is made, as the home's own is, and can be read."""
    path = settings.token_file
    if path is None:
        return
    try:
        write_once(path, new_secret())
        empty = not path.read_bytes().strip()
    except OSError as error:
        why = error.strerror or str(error)
        raise SettingsInvalid(f"token_file {path}: {why}", "name a file in a folder you can write to") from error
    if empty:
        raise SettingsInvalid(f"token_file {path} is empty", "remove it, and a token is made; or write one into it")


async def _registered() -> Endpoints | None:
    """The cluster's own services, if this is a job and they answer."""
    endpoints = await asyncio.to_thread(endpoints_in_cluster) if in_ray_job(os.environ) else None
    if endpoints is None:
        return None
    with suppress(NotReady):
        await probes.nats(endpoints.nats_url)
        await probes.http(f"{endpoints.api_url}/healthz")
        return endpoints
    return None


def _spawn(home: Home, settings: Settings) -> subprocess.Popen[bytes]:
    """Start the supervisor in a session of its own, so that neither Ctrl-C nor the end of a Ray job reaches it."""
    left_out = LEFT_OUT if settings.ray_address else (*LEFT_OUT, OTHER_TOKEN)
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {MARKER: str(home.path), "ENCHANTED_HOME": str(home.path)}
    if paths := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(
            str(Path(path).absolute()) for path in paths.split(os.pathsep) if path
        )
    rotate(home.logs / "supervisor.log")
    with (home.logs / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [*python("enchanted.cluster.supervisor"), "--home", str(home.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )


async def _start(home: Home, settings: Settings) -> subprocess.Popen[bytes] | None:
    """Start a supervisor unless one is at work; returns when it has said so. Of two at once, one starts it."""
    async with _alone(home, settings.start_seconds):
        current = state.read(home)
        supervisor = current.supervisor()
        if supervisor and current.phase in ("starting", "healthy"):
            return None
        if supervisor:  # it is on its way out
            await asyncio.to_thread(supervisor.wait, DOWN_SECONDS)
        await asyncio.to_thread(_end_leftovers, home)
        write_atomic(home.settings, settings.model_copy(update={"home": home.path}).model_dump_json())
        started = _spawn(home, settings)
        try:
            await _introduced(home, started, settings.start_seconds)
        except (asyncio.CancelledError, StartTimedOut):
            await asyncio.shield(_stop(home, ProcessId.of(started.pid)))
            raise
        return started


async def _introduced(home: Home, started: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until the supervisor has written its name into the state."""
    until = time.monotonic() + seconds
    while state.read(home).pid != started.pid:
        if started.poll() is not None:
            lines = last_lines(home.logs / "supervisor.log")
            raise ServiceFailed("supervisor", lines[-1] if lines else "ended", f"read {home.logs}/supervisor.log")
        if time.monotonic() > until:
            raise StartTimedOut("the supervisor", seconds, home.logs)
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def _alone(home: Home, seconds: float) -> AsyncIterator[None]:
    """Hold the lock under which a supervisor is started."""
    until = time.monotonic() + seconds
    while (descriptor := take_lock(home.start_lock_file)) is None:
        if time.monotonic() > until:
            raise StartTimedOut("another `enchanted up`", seconds, home.logs)
        await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


async def _wait_healthy(home: Home, seconds: float, progress: Progress) -> Endpoints:
    deadline = time.monotonic() + seconds
    shown: dict[str, str] = {}
    while True:
        current = state.read(home)
        _show(current, shown, progress)
        if current.phase in ("failed", "stopped"):
            raise _failed(current, progress)
        silent = await _unhealthy(current) if current.phase == "healthy" and current.endpoints else {}
        if current.phase == "healthy" and current.endpoints and not silent:
            for note in current.notes:
                progress(f"note: {note}")
            return current.endpoints
        if time.monotonic() > deadline:
            starting = (s.name for s in current.services if s.state not in ("healthy", "external"))
            raise StartTimedOut(", ".join({**dict.fromkeys(starting), **silent}), seconds, home.logs)
        await asyncio.sleep(POLL_SECONDS)


def _show(current: State, shown: dict[str, str], progress: Progress) -> None:
    for service in current.services:
        if shown.get(service.name) != service.state:
            shown[service.name] = service.state
            where = f" on port {service.port}" if service.port and service.state == "healthy" else ""
            progress(f"{service.name}: {service.state}{where}")


def _failed(current: State, progress: Progress) -> ClusterError:
    failure = current.failure
    if failure is None:
        return ServiceFailed("supervisor", "was stopped meanwhile", "run `enchanted up` again")
    for line in failure.log:
        progress(f"  | {line}")
    return CommandFailed(failure.cause, failure.remedy, failure.exit_code)


async def _unhealthy(current: State, *, timeout: float = 2.0) -> dict[str, str]:
    """The services that do not answer as healthy ones do, and what they answer instead."""
    endpoints = current.endpoints
    assert endpoints is not None
    questions = {
        "nats": probes.nats(endpoints.nats_url, timeout=timeout),
        "store": probes.clickhouse(endpoints.clickhouse_url, timeout=timeout),
        "api": probes.http(f"{endpoints.api_url}/healthz", timeout=timeout),
    }
    if endpoints.ray_token_file:  # a Ray that was joined is asked through the API
        questions["ray"] = ray_head.ask(endpoints.ray_dashboard_url, endpoints.ray_token_file, timeout=timeout)
    answers = await asyncio.gather(*questions.values(), return_exceptions=True)
    wrong: dict[str, str] = {}
    for name, answer in zip(questions, answers, strict=True):
        if isinstance(answer, NotReady):
            wrong[name] = str(answer)
        elif isinstance(answer, BaseException):
            raise answer
    return wrong


def _without_disk(home: Home) -> dict[str, str]:
    trouble = home.disk_trouble()
    return {"nats": f"the disk of the home {trouble}; events wait until it can be written"} if trouble else {}


async def status(settings: Settings) -> Status:
    """What runs, asked one by one."""
    home = home_of(settings)
    current = state.read(home)
    services = current.services
    if current.phase == "healthy" and current.endpoints:
        wrong = await _unhealthy(current) | _without_disk(home)
        services = tuple(_judged(service, wrong.get(service.name)) for service in services)
        figures = {} if wrong else await _figures(current.endpoints)
        services += tuple(replace(one, detail=figures.get(one.name, "")) for one in await _actors(current.endpoints))
    return Status(home=home.path, state=current, services=services)


def _judged(service: ServiceState, wrong: str | None) -> ServiceState:
    if wrong is None or service.state == "restarting":
        return service
    return ServiceState(**{**asdict(service), "state": "unhealthy", "detail": wrong})


_NO_ANSWER = (NotReady, OSError, ValueError, LookupError, TypeError, AttributeError)
"""Nobody answers, the token cannot be read, or something that is none of ours answers there."""


async def _actors(endpoints: Endpoints) -> tuple[ServiceState, ...]:
    """Our named actors in Ray, as its dashboard lists them; none when it cannot be asked."""
    if not endpoints.ray_dashboard_url:
        return ()
    url = f"{endpoints.ray_dashboard_url}/api/v0/actors?detail=true&limit=1000"
    try:
        answer = await probes.http_json(url, headers=ray_head.authorization(endpoints.ray_token_file), timeout=5)
        rows = answer["data"]["result"]["result"]
        ingest = [row for row in rows if str(row["name"]).startswith("ingest-") and row["state"] != "DEAD"]
        return tuple(map(_actor, sorted(ingest, key=lambda row: str(row["name"]))))
    except _NO_ANSWER:
        return ()


def _actor(row: Mapping[str, Any]) -> ServiceState:
    return ServiceState(
        name=row["name"],
        state="healthy" if row["state"] == "ALIVE" else "restarting",
        pid=row.get("pid") or None,
        restarts=int(row.get("num_restarts") or 0),
    )


async def _figures(endpoints: Endpoints) -> dict[str, str]:
    """What each ingest worker did, in a line; none where the API does not say."""
    url = f"{endpoints.api_url}/api/v1/pipeline"
    try:
        answer = await probes.http_json(url, headers=ray_head.authorization(endpoints.token_file), timeout=5)
        workers = answer.get("workers")  # what runs may be older than this command
        return {worker["name"]: _in_words(worker["events"]) for worker in workers or () if worker["events"]}
    except _NO_ANSWER:
        return {}


def _in_words(figures: Mapping[str, Any]) -> str:
    words = f"{figures['rows']} rows, {figures['rows_per_second']:g} a second, {figures['mean_batch']:g} a batch"
    counts = (("retries", "retries"), ("conflicting", "conflicting copies"), ("dead_letters", "dead letters"))
    return ", ".join([words, *(f"{figures[name]} {what}" for name, what in counts if figures[name])])


async def down(settings: Settings, progress: Progress = lambda _: None) -> bool:
    """Stop everything of this home; returns whether anything ran.

    Raises:
        StillRunning: a process does not end.
    """
    home = home_of(settings)
    supervisor = state.read(home).supervisor()
    if supervisor is not None:
        progress("stopping")
    return await _stop(home, supervisor)


async def _stop(home: Home, supervisor: ProcessId | None) -> bool:
    if supervisor is not None:
        supervisor.send(signal.SIGTERM)
        await asyncio.to_thread(supervisor.wait, DOWN_SECONDS)
    return await asyncio.to_thread(_end_leftovers, home) or supervisor is not None


def _end_leftovers(home: Home) -> bool:
    """End what a supervisor of this home left behind when it was killed; returns whether there was anything."""
    marked = (MARKER, str(home.path))
    found = bool(with_variable(*marked))
    if remaining := end(lambda: with_variable(*marked), grace=LEFTOVER_GRACE):
        raise StillRunning([process.pid for process in remaining])
    return found
