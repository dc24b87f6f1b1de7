"""`ray job submit` with the runtime environment our package needs."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enchanted.cluster import console, state
from enchanted.cluster.errors import CHECK_FAILED, DONE, SubmitFailed
from enchanted.cluster.ray_head import environment
from enchanted.cluster.services import home_of
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
    endpoints = state.read(home_of(settings)).endpoints
    token = endpoints.ray_token_file if endpoints else None
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or (endpoints.ray_dashboard_url if endpoints else "")
    if not where:
        raise SubmitFailed("no Ray to submit to", "start one with `enchanted up`, or give --address")
    os.environ |= {name: value for name, value in environment(token).items() if name not in os.environ}
    from ray.job_submission import JobSubmissionClient  # reads the variables above when it is imported

    try:
        client = JobSubmissionClient(where)
        job = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "enchanted", *arguments]),
            runtime_env=runtime_environment(working_dir),
            metadata={"submitted_by": "enchanted"},
        )
    except (ConnectionError, RuntimeError) as error:
        remedy = "check --address and the token (RAY_AUTH_TOKEN_PATH)"
        raise SubmitFailed(f"{where} does not take the job: {str(error).splitlines()[0]}", remedy) from error
    console.emit(job)
    return asyncio.run(_follow(client, job)) if wait else DONE


async def _follow(client: Any, job: str) -> int:
    async for text in client.tail_job_logs(job):
        for line in text.splitlines():
            console.say(line)
    return DONE if str(client.get_job_status(job)) == "SUCCEEDED" else CHECK_FAILED
