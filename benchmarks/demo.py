"""How often does the demo end merged, and how fast? The main job with the bundled model, seed by seed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from enchanted.benchmarks.case import Benchmark, Result, Row

QUESTION = "share of demo runs that end merged with the bundled model, and seconds to the verdict, over seeds"
DEADLINE_S, STOP_DEADLINE_S = 900.0, 60.0


async def run(smoke: bool) -> Result:
    """Run the demo once for each seed on the services of this home, which are started if need be."""
    outcomes = [await _demo(seed) for seed in range(1 if smoke else 10)]
    merged = [float(outcome["verdict"] == "merged") for outcome in outcomes]
    rows = (
        Row(name="merged", unit="share", samples=[sum(merged) / len(merged)]),
        Row(name="seconds to the verdict", unit="s", samples=[outcome["seconds"] for outcome in outcomes]),
        Row(name="events of a run", unit="events", samples=[float(outcome["events"]) for outcome in outcomes]),
    )
    verdicts = ", ".join(f"seed {seed}: {outcome['verdict']}" for seed, outcome in enumerate(outcomes))
    notes = (verdicts, "the first run includes the start of the services and of the engine if they were down")
    return Result(benchmark="demo", question=QUESTION, rows=rows, notes=notes, smoke=smoke)


async def _demo(seed: int) -> dict[str, Any]:
    command = (sys.executable, "-m", "enchanted", "demo", "--json", "--seed", str(seed))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(DEADLINE_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            await _stopped(process)
    if not output:
        raise RuntimeError(f"the demo with seed {seed} ended with code {process.returncode} and no verdict")
    outcome: dict[str, Any] = json.loads(output)
    return outcome


async def _stopped(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGINT)
    try:
        async with asyncio.timeout(STOP_DEADLINE_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()


BENCHMARK = Benchmark(name="demo", question=QUESTION, run=run)
