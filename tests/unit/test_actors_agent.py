"""What an agent takes for an answer: only what has the form it asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from enchanted.actors import prompts
from enchanted.actors.agent import TRIES, Agent, AnswerUnusable, Place, Question
from enchanted.actors.architect import Architect
from enchanted.actors.models.minimal import MinimalModel
from enchanted.actors.models.model import Message, Model, ModelReply, ModelRequest
from enchanted.actors.prompts import Option
from enchanted.actors.work import CheckReport, PlanRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.memory import InMemoryBus
from enchanted.schemas.events import kind_of

RUN = "run-agent"
WHY = "because the test says so"
FILES = ("cart.py", "shop.py")
OPTIONS = (
    Option(name="first", meaning="the one", reasons=("it is the one",)),
    Option(name="second", meaning="the other", reasons=("it is the other", "it comes later")),
)
GUIDED, FREE = prompts.guided_schema(OPTIONS), prompts.free_schema(OPTIONS)
EDIT, PLAN = prompts.edit_schema(OPTIONS, FILES), prompts.plan_schema(FILES)

PICKED = {"choice": "first", "rationale": "it is the one"}
CHOSEN = {"choice": "first", "rationale": WHY, "confidence": 90}
TASK = {"title": "tidy up", "goal": "tidy the cart up", "files": ["cart.py"]}
PLANNED = {"rationale": WHY, "tasks": [TASK], "confidence": 90}


class Scripted:
    """A model behind a server that ignores the schema: it says what is written for it, the last of it for ever."""

    name = "scripted"

    def __init__(self, *replies: Any) -> None:
        self._replies = [reply if isinstance(reply, str) else orjson.dumps(reply).decode() for reply in replies]
        self.seeds: list[int] = []

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.seeds.append(request.seed)
        return ModelReply(
            text=self._replies.pop(0) if len(self._replies) > 1 else self._replies[0],
            finish_reason="stop",
            input_tokens=1,
            output_tokens=1,
            duration_ms=1.0,
            time_to_first_token_ms=0.0,
            model=self.name,
        )


def agent(bus: InMemoryBus, model: Model) -> Agent:
    log = AgentLog(bus, run_id=RUN, role="coder", agent_name="coder-1")
    return Agent(name="coder-1", run_id=RUN, log=log, model=model)


def question(schema: dict[str, Any]) -> Question:
    options = tuple(option.name for option in OPTIONS)
    return Question(trigger="t", messages=(Message(role="user", content="?"),), schema=schema, options=options)


def without(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != name}


async def kinds(bus: InMemoryBus) -> list[str]:
    return [kind_of(stored.event) for stored in await bus.read_run(RUN)]


MISFITS: dict[str, tuple[dict[str, Any], Any]] = {
    "no object": (FREE, [CHOSEN]),
    "no choice": (FREE, without(CHOSEN, "choice")),
    "an unknown choice": (FREE, CHOSEN | {"choice": "third"}),
    "a rationale that is no text": (FREE, CHOSEN | {"rationale": ["so"]}),
    "a confidence in words": (FREE, CHOSEN | {"confidence": "high"}),
    "a confidence that is a truth value": (FREE, CHOSEN | {"confidence": True}),
    "a confidence between two numbers": (FREE, CHOSEN | {"confidence": 0.9}),
    "a confidence beyond its bounds": (FREE, CHOSEN | {"confidence": 101}),
    "a negative confidence": (FREE, CHOSEN | {"confidence": -1}),
    "the reason of another option": (GUIDED, PICKED | {"rationale": "it comes later"}),
    "a plan without tasks": (PLAN, without(PLANNED, "tasks")),
    "an empty plan": (PLAN, PLANNED | {"tasks": []}),
    "a plan of too many tasks": (PLAN, PLANNED | {"tasks": [TASK] * 9}),
    "a plan that is no list": (PLAN, PLANNED | {"tasks": TASK}),
    "a task without a title": (PLAN, PLANNED | {"tasks": [TASK, without(TASK, "title")]}),
    "a task of unknown files": (PLAN, PLANNED | {"tasks": [TASK | {"files": ["gone.py"]}]}),
    "a lone surrogate": (FREE, '{"choice":"first","rationale":"because of \\ud800","confidence":9}'),
}


@pytest.mark.parametrize("misfit", MISFITS)
async def test_an_answer_in_another_form_is_asked_again_and_then_unusable(misfit: str) -> None:
    schema, answer = MISFITS[misfit]
    bus, model = InMemoryBus(), Scripted(answer)
    with pytest.raises(AnswerUnusable, match=rf"scripted gave no usable JSON in {TRIES} tries"):
        await agent(bus, model).decide(question(schema), Place())
    assert await kinds(bus) == ["model_call"] * TRIES
    assert len(set(model.seeds)) == TRIES


async def test_an_answer_in_the_right_form_is_taken_though_one_in_another_came_first() -> None:
    bus = InMemoryBus()
    decision = await agent(bus, Scripted(CHOSEN | {"choice": "third"}, CHOSEN)).decide(question(FREE), Place())
    assert (decision.choice, decision.rationale) == ("first", WHY)
    assert await kinds(bus) == ["model_call", "model_call", "decision"]


FITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an option with one of its reasons": (GUIDED, PICKED),
    "a choice in words of one's own": (FREE, CHOSEN),
    "a confidence with a point": (FREE, CHOSEN | {"confidence": 90.0}),
    "a choice with few words": (FREE, CHOSEN | {"rationale": "good"}),
    "a choice with many words": (FREE, CHOSEN | {"rationale": WHY * 50}),
    "an edit": (EDIT, CHOSEN | {"path": "cart.py", "search": "import os\n", "replace": ""}),
    "an edit that names nothing": (EDIT, CHOSEN),
    "a plan": (PLAN, PLANNED),
    "a plan of many tasks": (PLAN, PLANNED | {"tasks": [TASK, TASK | {"files": list(FILES)}] * 4}),
    "anything where nothing is asked for": ({}, {"whatever": [1, None]}),
}


TRIMMED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a member nobody asked for": (FREE, CHOSEN | {"thought": [[[]]]}, CHOSEN),
    "a confidence nobody asked for": (GUIDED, PICKED | {"confidence": "high"}, PICKED),
    "an edit of a file that is not offered": (EDIT, CHOSEN | {"path": "/etc/passwd"}, CHOSEN),
    "an edit of nothing": (EDIT, CHOSEN | {"path": "", "search": None, "replace": ""}, CHOSEN | {"replace": ""}),
}


@pytest.mark.parametrize("more", TRIMMED)
async def test_of_an_answer_with_more_than_was_asked_for_the_rest_is_taken(more: str) -> None:
    schema, answer, taken = TRIMMED[more]
    bus = InMemoryBus()
    assert (await agent(bus, Scripted(answer)).decide(question(schema), Place())).answer == taken
    assert await kinds(bus) == ["model_call", "decision"]


@pytest.mark.parametrize("fit", FITS)
async def test_an_answer_in_the_form_asked_for_is_taken_at_once(fit: str) -> None:
    schema, answer = FITS[fit]
    bus = InMemoryBus()
    decision = await agent(bus, Scripted(answer)).decide(question(schema), Place())
    assert decision.answer == answer
    assert await kinds(bus) == ["model_call", "decision"]


def _preferences() -> Iterable[tuple[str, ...]]:
    return ((), ("first",), ("second", "edit"), ("yes",))


@pytest.mark.parametrize("schema", [GUIDED, FREE, EDIT, PLAN], ids=["guided", "free", "edit", "plan"])
async def test_the_smallest_answer_always_has_the_form_asked_for(schema: dict[str, Any]) -> None:
    for preferred in _preferences():
        bus = InMemoryBus()
        one = agent(bus, MinimalModel(preferred))
        for _ in range(20):
            await one.decide(question(schema), Place())
        assert await kinds(bus) == ["model_call", "decision"] * 20


async def test_a_plan_that_ignores_its_form_ends_as_an_unusable_answer() -> None:
    architect = Architect(agent(InMemoryBus(), Scripted({"plan": "tidy up"})), guided=False)
    report = CheckReport(tree="", checks=())
    with pytest.raises(AnswerUnusable, match="a server that keeps to a JSON schema"):
        await architect.plan(PlanRequest(task="tidy up", report=report, files=FILES, carrier={}))
