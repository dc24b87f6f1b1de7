"""``python -m tests.simulation --seeds 1000000 --start 0 --workers 2``: many histories; prints those that fail."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.history import Verdict, simulate

_CHUNK = 50


def run_chunk(seeds: range) -> list[Verdict]:
    """Several seeds in this process; only failures keep their trace."""
    verdicts = [simulate(seed) for seed in seeds]
    gc.collect()
    return verdicts


def run_many(start: int, seeds: int, workers: int) -> Iterator[Verdict]:
    """The verdict on each seed, as they come."""
    chunks = [range(first, min(first + _CHUNK, start + seeds)) for first in range(start, start + seeds, _CHUNK)]
    if workers == 1:
        for chunk in chunks:
            yield from run_chunk(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        for verdicts in pool.map(run_chunk, chunks):
            yield from verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trace", action="store_true", help="print the history of every failure")
    options = parser.parse_args()
    begun, failures, done, killed, stored, simulated = time.perf_counter(), 0, 0, 0, 0, 0.0
    for verdict in run_many(options.start, options.seeds, options.workers):
        done, killed, stored = done + 1, killed + verdict.killed, stored + verdict.stored
        simulated += verdict.seconds
        if verdict.error:
            failures += 1
            print(f"seed {verdict.seed}: {verdict.error}", flush=True)
            if options.trace:
                print(verdict.trace, flush=True)
        if done % 1000 == 0:
            print(f"{done} seeds, {failures} failed, {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - begun
    print(
        f"{done} seeds from {options.start}, {failures} failed; {killed} kills, {stored} messages, "
        f"{simulated:,.0f} s simulated in {seconds:.1f} s ({done / seconds:.1f} seeds/s)"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
