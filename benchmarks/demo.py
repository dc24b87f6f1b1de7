"""How often does the demo end merged, and how fast? The main job with the bundled model, seed by seed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from enchanted.benchmarks.case import Benchmark, Result, Row

QUESTION = "share of demo runs that end merged with the bundled model, and seconds to the verdict, over seeds"
DEADLINE_S, STOP_DEADLINE_S = 900.0, 60.0
_PORTS = ("ENCHANTED_API_PORT", "ENCHANTED_NATS_PORT", "ENCHANTED_CLICKHOUSE_PORT", "ENCHANTED_RAY_DASHBOARD_PORT")


async def run(smoke: bool) -> Result:
    """Run the demo once for each seed, on services of a home of its own, which the first one starts."""
    with tempfile.TemporaryDirectory(prefix="eb-", ignore_cleanup_errors=True) as home:
        environment = os.environ | dict.fromkeys(_PORTS, "0") | {"ENCHANTED_HOME": home}
        try:
            outcomes = [await _demo(seed, environment) for seed in range(1 if smoke else 10)]
        finally:
            await _enchanted("down", environment=environment)
    merged = [float(outcome["verdict"] == "merged") for outcome in outcomes]
    rows = (
        Row(name="merged", unit="share", samples=[sum(merged) / len(merged)]),
        Row(name="seconds to the verdict", unit="s", samples=[outcome["seconds"] for outcome in outcomes]),
        Row(name="events of a run", unit="events", samples=[float(outcome["events"]) for outcome in outcomes]),
    )
    verdicts = ", ".join(f"seed {seed}: {outcome['verdict']}" for seed, outcome in enumerate(outcomes))
    notes = (verdicts, "the first run includes the start of the services and of the engine")
    return Result(benchmark="demo", question=QUESTION, rows=rows, notes=notes, smoke=smoke)


async def _demo(seed: int, environment: Mapping[str, str]) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_S):
        code, output = await _enchanted("demo", "--json", "--seed", str(seed), environment=environment)
    if not output:
        raise RuntimeError(f"the demo with seed {seed} ended with code {code} and no verdict")
    outcome: dict[str, Any] = json.loads(output)
    return outcome


async def _enchanted(*arguments: str, environment: Mapping[str, str]) -> tuple[int | None, bytes]:
    """What a command ended with and printed; it ends as by Ctrl-C when nobody waits for it any more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "enchanted", *arguments, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        output, _ = await process.communicate()
        return process.returncode, output
    finally:
        if process.returncode is None:
            await _stopped(process)


async def _stopped(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(STOP_DEADLINE_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


BENCHMARK = Benchmark(name="demo", question=QUESTION, run=run)
