"""``python -m enchanted.benchmarks [NAME…] [--smoke] [--json] [--save] [--plot FOLDER]``, each in a fresh process."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from enchanted.benchmarks.case import Benchmark, Unavailable
from enchanted.benchmarks.fresh import Stopped, be_inside, heed_signals, run_fresh
from enchanted.benchmarks.plot import NoPlotter, draw, require_plotter

NAMES = ("publish", "ingest", "pipeline", "sweep", "storage", "query", "live", "timemachine", "recording", "ui", "demo")
INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM, as shells have it."""
RESULTS = Path(__file__).resolve().parent / "results"


def benchmark(name: str) -> Benchmark:
    """The benchmark called ``name``, imported only now: each has heavy imports of its own."""
    found: Benchmark = importlib.import_module(f"enchanted.benchmarks.{name}").BENCHMARK
    return found


def main() -> int:
    """Run benchmarks and print what they found."""
    parser = argparse.ArgumentParser(prog="enchanted bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all by default")
    parser.add_argument("--smoke", action="store_true", help="once, at small scale")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--save", action="store_true", help="keep each result in benchmarks/results")
    parser.add_argument("--plot", metavar="FOLDER", type=Path, help="draw each result there, as SVG")
    parser.add_argument("--inside", metavar="PID", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.save and options.smoke:
        parser.error("--save keeps full runs; leave out --smoke")
    if options.inside:
        return _inside(options.names[0], options.inside, smoke=options.smoke)
    heed_signals()
    results: list[dict[str, Any]] = []
    try:
        if options.plot:
            options.plot.mkdir(parents=True, exist_ok=True)
            require_plotter()
        for name in options.names or NAMES:
            if result := run_fresh(name, smoke=options.smoke):
                results.append(result)
                _keep(result, options)
    except (NoPlotter, OSError) as error:
        print(f"enchanted bench: {error}", file=sys.stderr)
        return 1
    except (Stopped, KeyboardInterrupt):
        print("enchanted bench: stopped", file=sys.stderr)
        return INTERRUPTED
    finally:
        if options.json:
            print(json.dumps(results, indent=2))
    return 0 if len(results) == len(options.names or NAMES) else 1


def _keep(result: dict[str, Any], options: argparse.Namespace) -> None:
    """At once, so that a later one that fails takes nothing with it."""
    if options.save:
        (RESULTS / f"{result['benchmark']}.json").write_text(json.dumps(result, indent=2) + "\n")
    if not options.json:
        _show(result)
    if options.plot:
        print(f"drawn: {draw(result, options.plot)}", file=sys.stderr)


def _inside(name: str, parent: int, *, smoke: bool) -> int:
    try:
        be_inside(parent)
        print(json.dumps(asyncio.run(benchmark(name).run(smoke)).as_dict()))
    except Unavailable as error:
        print(f"enchanted bench {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _show(result: dict[str, Any]) -> None:
    print(f"\n{result['benchmark']}: {result['question']}\n{result['machine']}{' (smoke)' if result['smoke'] else ''}")
    for row in result["rows"]:
        ratio = f"  {row['ratio']:.2f} × {row['floor']}" if "ratio" in row else ""
        print(f"  {row['name']:50} {row['median']:12.2f} {row['unit']}{ratio}{_budget(row)}")
    for note in result["notes"]:
        print(f"  {note}")


def _budget(row: dict[str, Any]) -> str:
    if "budget" not in row:
        return ""
    return f"  {'met' if row['within'] else 'MISSED'}: {row['budget_is'].partition(',')[0]} {row['budget']:g}"


if __name__ == "__main__":
    sys.exit(main())
