"""`ray job submit` with the runtime environment our package needs."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from enchanted.cluster import console, state
from enchanted.cluster.errors import CHECK_FAILED, DONE, USAGE, CommandFailed, SubmitFailed
from enchanted.cluster.ray_head import environment
from enchanted.cluster.services import OTHER_TOKEN, home_of
from enchanted.cluster.settings import Settings

EXCLUDED = (".venv", ".enchanted", ".git", "node_modules", "__pycache__", ".mypy_cache", ".ruff_cache", "dist")


def runtime_environment(working_dir: Path) -> dict[str, Any]:
    """What travels with the job: the folder without what is large or private, and our code if it lies in it."""
    found: dict[str, Any] = {"working_dir": str(working_dir.absolute()), "excludes": list(EXCLUDED)}
    if (working_dir / "src" / "enchanted").is_dir():
        found["env_vars"] = {"PYTHONPATH": "src"}
    return found


def submit(settings: Settings, arguments: Sequence[str], *, working_dir: Path, address: str | None, wait: bool) -> int:
    """Submit ``python -m enchanted <arguments>``; the job's id is the data on stdout, its log goes to stderr.

    Raises:
        SubmitFailed: no Ray takes the job.
    """
    current = state.read(home_of(settings))
    # Those of services that have ended stay in the state, and somebody else's Ray may be on their port by now.
    ours = current.endpoints if current.phase in ("starting", "healthy") else None
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or (ours.ray_dashboard_url if ours else "")
    if not where:
        raise SubmitFailed("no Ray to submit to", "start one with `enchanted up`, or give --address")
    where = _of_http(where)
    token = ours.ray_token_file if ours and _is_same(where, ours.ray_dashboard_url) else None
    if token is not None:
        os.environ.pop(OTHER_TOKEN, None)
    os.environ |= {name: value for name, value in environment(token).items() if name not in os.environ}
    from ray.job_submission import JobSubmissionClient  # reads the variables above when it is imported

    try:
        client = JobSubmissionClient(where)
        job = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "enchanted", *arguments]),
            runtime_env=runtime_environment(working_dir),
            metadata={"submitted_by": "enchanted"},
        )
    except (RuntimeError, ValueError, OSError) as error:
        remedy = "check --address, the token (RAY_AUTH_TOKEN_PATH) and the size of the folder"
        raise SubmitFailed(f"{where} does not take the job: {_first_line(error)}", remedy) from error
    console.emit(job)
    return asyncio.run(_follow(client, job)) if wait else DONE


def _is_same(address: str, url: str) -> bool:
    """Whether both name one server; ours listens on the loopback address alone, which has several names."""
    given, known = urlsplit(address), urlsplit(url)
    names = {given.hostname, known.hostname}
    return given.port == known.port and (len(names) == 1 or names <= {"127.0.0.1", "localhost"})


def _of_http(address: str) -> str:
    """The address of a Jobs API; one without a scheme is of HTTP.

    Raises:
        CommandFailed: it is none; Ray would look for a cluster there for most of a minute.
    """
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname and parts.port)
    except ValueError:
        known = False
    if not known:
        raise CommandFailed(f"{address} is no address of a Ray dashboard", "write --address http://HOST:8265", USAGE)
    return url


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


async def _follow(client: Any, job: str) -> int:
    from aiohttp import ClientError  # what Ray's client reads logs with

    try:
        async for text in client.tail_job_logs(job):
            for line in text.splitlines():
                console.say(line)
        return DONE if str(client.get_job_status(job)) == "SUCCEEDED" else CHECK_FAILED
    except (RuntimeError, OSError, ClientError) as error:
        why = f"the log of job {job} broke off: {_first_line(error)}"
        raise SubmitFailed(why, f"the job goes on; `ray job status {job}` says how") from error
