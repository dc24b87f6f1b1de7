"""Schemathesis over the committed description: whatever it makes up, the API answers as it says it does."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from enchanted.serve.openapi import COMMITTED
from enchanted.serve.testing import History, World

SEED = 20_260_101
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "unsupported_method", "ignored_auth", "missing_required_header"),
)


async def conforms(world: World, history: History, folder: Path, seconds: int) -> dict[str, Any]:
    """Schemathesis's report after so many seconds in all its phases."""
    trace, service = "5c" * 16, "schema-tests"
    found = {
        "run": history.run,
        "other": history.run,
        "event_id": history.events[-2].event.event_id,
        "trace_id": trace,
        "service": service,
    }
    report = folder / "report.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", str(COMMITTED), "--url", world.url),
        *("--header", f"Authorization: {world.http.headers['Authorization']}"),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing,stateful"),
        # A live stream has no end; tests of its own look at it.
        *("--exclude-path", "/api/v1/stream"),
        *("--max-time", str(seconds), "--seed", str(SEED), "--generation-database", "none"),
        *("--request-timeout", "60", "--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off"),
        *("--report-json-path", str(report), "--no-color", "--output-truncate", "false"),
        cwd=folder,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "schema_hooks",
            "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
            "SCHEMA_FOLDER": str(folder),
            **{f"SCHEMA_{name.upper()}": value for name, value in found.items()},
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds + 120)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode("utf-8", "replace")
    assert process.returncode == 0, text[-20_000:]
    document: dict[str, Any] = json.loads(report.read_text())
    return document
