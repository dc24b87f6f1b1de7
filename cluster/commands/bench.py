"""`enchanted bench`: the benchmark suite, in processes of its own."""

from __future__ import annotations

import os
import sys

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def bench(context: typer.Context) -> None:
    """Run benchmarks: enchanted bench [NAME…] [--smoke] [--json] [--save]."""
    # In its place: a signal reaches the suite itself, and its exit code is ours.
    os.execv(sys.executable, [sys.executable, "-m", "enchanted.benchmarks", *context.args])


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench", context_settings=PASS_ON)(bench)
