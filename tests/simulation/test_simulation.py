"""The promises hold in a thousand histories with crashes at any await; the same checks notice what is unsafe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.controls import CONTROLS
from tests.simulation.history import simulate
from tests.simulation.parts import Parts

ROOT = Path(__file__).parents[2]
SEEDS = 1_000
NOTICED_WITHIN = 150
"""Seeds in which a negative control has to fail."""


def many(seeds: int, *, start: int = 0) -> None:
    """Run histories in processes of their own; fails with seed and history of those that break a promise."""
    command = [sys.executable, "-m", "tests.simulation", "--workers", "2", "--trace"]
    numbers = ["--seeds", str(seeds), "--start", str(start)]
    done = subprocess.run([*command, *numbers], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_every_promise_holds_in_a_thousand_histories() -> None:
    many(SEEDS)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_every_promise_holds_in_a_million_histories() -> None:
    many(1_000_000, start=SEEDS)


@pytest.mark.parametrize("seed", [1_096, 43_009])
def test_histories_that_broke_a_promise_before_hold_them(seed: int) -> None:
    verdict = simulate(seed)
    assert not verdict.error, f"{verdict.error}\n{verdict.trace}"


@pytest.mark.parametrize("seed", [3, 16, 102, 178])
def test_a_seed_is_one_history(seed: int) -> None:
    first, second = simulate(seed), simulate(seed)
    assert first.digest == second.digest
    assert first.seconds == second.seconds


@pytest.mark.parametrize("what", CONTROLS)
def test_the_checks_notice(what: str) -> None:
    for seed in range(NOTICED_WITHIN):
        if simulate(seed, CONTROLS[what]).error:
            return
    pytest.fail(f"{what} passes {NOTICED_WITHIN} histories")


def test_copies_of_one_event_in_the_hands_of_two_workers_are_visible_once_when_the_reconciler_has_looked() -> None:
    for seed in range(150):
        verdict = simulate(seed, Parts(workers=2, copies_among_workers=True))
        assert not verdict.error, f"seed {seed}: {verdict.error}\n{verdict.trace}"
