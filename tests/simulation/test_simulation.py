"""The promises hold in a thousand histories with crashes at any await; the same checks notice what is unsafe."""

from __future__ import annotations

import os

import pytest

from tests.simulation.__main__ import run_many
from tests.simulation.controls import CONTROLS
from tests.simulation.history import simulate

SEEDS = 1_000
FOUND_WITHIN = 150
"""Seeds in which a negative control has to fail."""


def test_every_promise_holds_in_a_thousand_histories() -> None:
    killed = stored = 0
    for verdict in run_many(0, SEEDS, workers=min(2, os.cpu_count() or 1)):
        assert not verdict.error, f"seed {verdict.seed}: {verdict.error}\n{verdict.trace}"
        killed, stored = killed + verdict.killed, stored + verdict.stored
    assert killed > SEEDS / 4
    assert stored > 10 * SEEDS


def test_a_seed_is_one_history() -> None:
    for seed in (3, 16, 102, 178):
        first, second = simulate(seed), simulate(seed)
        assert first.digest == second.digest
        assert first.seconds == second.seconds


@pytest.mark.parametrize("what", CONTROLS)
def test_the_checks_notice(what: str) -> None:
    for seed in range(FOUND_WITHIN):
        if simulate(seed, CONTROLS[what]).error:
            return
    pytest.fail(f"{what} passes {FOUND_WITHIN} histories")
