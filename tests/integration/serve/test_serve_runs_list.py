"""The list of runs is searched, comes in pages, and says how busy each run was."""

from __future__ import annotations

import pytest

from enchanted.bus.agent_log import AgentLog
from enchanted.schemas.events import run_transition, tool_call
from enchanted.serve.queries.runs_list import STRETCHES
from enchanted.serve.testing import History, World, until

ODD = 'it\'s \\ "50 %" (ü) [x] {y}'


@pytest.fixture(scope="module")
async def listed(world: World, history: History) -> list[str]:
    """Ids of five more runs, the oldest first."""
    names = [f"run-list-{number}" for number in range(5)]
    for number, name in enumerate(names):
        log = AgentLog(world.bus, run_id=name, role="operator", agent_name="operator")
        details = {"task": f"Polish the FLANGE {number}" if number < 4 else ODD}
        await log.emit(run_transition(subject="run", from_state="", to_state="created", reason="r", details=details))
        await log.emit(*(tool_call(tool="t", arguments={}, outcome="OK") for _ in range(number)))
        verdict = "merged" if number % 2 else "failed"
        await log.emit(run_transition(subject="run", from_state="created", to_state=verdict, reason=ODD))
        await world.stored(name, number + 2)
    return names


async def found(world: World, q: str) -> list[str]:
    return [run["run_id"] for run in (await world.document("runs", q=q))["data"]]


@pytest.mark.parametrize(
    ("q", "numbers"),
    [
        ("polish", [3, 2, 1, 0]),
        ("flange POLISH", [3, 2, 1, 0]),
        ("flange merged", [3, 1]),
        ("run-list-2", [2]),
        ("list flange failed", [2, 0]),
        ("(ü)", [4, 3, 2, 1, 0]),
        ("\\ [x] {y}", [4, 3, 2, 1, 0]),
        ("it's", [4, 3, 2, 1, 0]),
        ("flange nowhere", []),
        ("%", [4, 3, 2, 1, 0]),
    ],
)
async def test_a_run_has_all_words_in_its_id_or_its_transitions(
    world: World, history: History, listed: list[str], q: str, numbers: list[int]
) -> None:
    runs = await found(world, q)
    assert history.run not in runs
    # Other files' runs are in this world too, and some of them hold odd words of their own.
    assert [run for run in runs if run in listed] == [listed[number] for number in numbers]


async def test_a_search_goes_on_page_by_page_and_its_cursor_is_of_no_other(world: World, listed: list[str]) -> None:
    seen, cursor = [], None
    while True:
        given = {} if cursor is None else {"cursor": cursor}
        page = await world.document("runs", q="flange", limit=1, **given)
        seen += [run["run_id"] for run in page["data"]]
        if (cursor := page["meta"]["cursor"]) is None:
            break
        refused = await world.get("runs", cursor=cursor, limit=1)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad-cursor")
    assert seen == listed[3::-1]


async def test_events_of_no_run_are_in_the_log_and_make_no_run(world: World, listed: list[str]) -> None:
    log = AgentLog(world.bus, run_id="", role="coder", agent_name="nobody")
    await log.emit(tool_call(tool="t", arguments={}, outcome="OK"))
    await until(lambda: _logged(world, log.agent_id))
    assert "" not in {run["run_id"] for run in (await world.document("runs", limit=1_000))["data"]}


async def _logged(world: World, agent: str) -> bool:
    return bool((await world.document("events", agent=agent))["data"])


async def test_activity_counts_every_event_once_in_its_stretch(
    world: World, history: History, listed: list[str]
) -> None:
    runs = (await world.document("runs", limit=1_000))["data"]
    assert {run["run_id"] for run in runs} >= {history.run, *listed}
    for run in runs:
        assert len(run["activity"]) == STRETCHES
        assert sum(run["activity"]) == run["events"]
    scripted = next(run for run in runs if run["run_id"] == history.run)["activity"]
    assert min(scripted[0], scripted[-1]) > 0, "the first and the last event are in the first and the last stretch"


async def test_a_search_that_makes_no_sense_is_refused(world: World) -> None:
    for q in ("\0", "a\x1b", "x" * 257):
        assert (await world.get("runs", q=q)).status_code == 422
    assert (await world.document("runs", q="   "))["data"] == (await world.document("runs"))["data"]
