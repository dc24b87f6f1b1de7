"""The context window of an agent at every sequence: what its model was given last, byte for byte."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from enchanted.actors.agent import Agent, Place, Question
from enchanted.actors.models.errors import ModelRefused
from enchanted.actors.models.model import Message, ModelReply, ModelRequest
from enchanted.bus.agent_log import AgentLog
from enchanted.bus.batch import Outgoing
from enchanted.cluster.cli import execute
from enchanted.schemas.canonical import canonical_json, sha256_hex
from enchanted.schemas.events import StoredEvent, SwarmEvent, model_call, system_signal
from enchanted.serve.moments import context
from enchanted.serve.testing import World

LARGE = "x" * 300_000
"""Moves to the object store."""


class Asked:
    """A model that keeps what it was given, and once answers in no form, once not at all."""

    name = "asked"

    def __init__(self) -> None:
        self.given: list[list[dict[str, Any]]] = []

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.given.append([asdict(message) for message in request.messages])
        if any("refuse" in message.content for message in request.messages):
            raise ModelRefused("asked", "it will not")
        text = "no JSON" if len(self.given) == 2 else json.dumps({"rationale": "r", "choice": "a"})
        return ModelReply(
            text=text, finish_reason="stop", input_tokens=1, output_tokens=1, duration_ms=1.0,
            time_to_first_token_ms=0.0, model=self.name,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Told:
    """A run of two agents, and what each one's model had been given at each sequence."""

    run: str
    last: int
    contexts: dict[int, dict[str, list[dict[str, Any]]]]


def question(*contents: str) -> Question:
    messages = (
        Message(role="system", content="be exact \u00fc \x1b[2J"),
        *(Message(role="user", content=one) for one in contents),
    )
    return Question(trigger="t", messages=messages, schema={}, options=("a", "b"))


@pytest.fixture(scope="module")
async def told(world: World) -> Told:
    """Two agents in turn: short and very large prompts, one asked twice, one refused."""
    run, models = "run-context", {"coder-1": Asked(), "reviewer-1": Asked()}
    agents = {
        name: Agent(
            name=name, run_id=run, log=AgentLog(world.bus, run_id=run, role="coder", agent_name=name), model=model
        )
        for name, model in models.items()
    }
    for number, prompt in enumerate(("first", LARGE, "third", "please refuse")):
        for agent in agents.values():
            await agent.log.emit(system_signal(status="HEALTHY"))
            with suppress(ModelRefused):
                await agent.decide(question(prompt, f"number {number} for {agent.name}"), Place())
    events = await world.bus.read_run(run)
    await world.stored(run, len(events))
    return Told(run=run, last=events[-1].seq, contexts=_contexts(events, models))


def _contexts(events: list[StoredEvent], models: dict[str, Asked]) -> dict[int, dict[str, list[dict[str, Any]]]]:
    """By counting calls: the n-th call of an agent in the log is the n-th time its model was asked."""
    left, now, found = {name: iter(model.given) for name, model in models.items()}, {}, {}
    for stored in events:
        if stored.event.HasField("model_call"):
            name = stored.event.agent_name
            now = {**now, name: next(left[name])}
        found[stored.seq] = now
    assert not any(list(rest) for rest in left.values())
    return found


async def test_the_context_at_every_sequence_is_what_the_model_was_given_last(world: World, told: Told) -> None:
    assert len(told.contexts) > 16
    for seq, expected in told.contexts.items():
        state = await world.document(f"runs/{told.run}/state", at=seq)
        for agent in state["agents"]:
            name = agent["name"]
            response = await world.get(f"runs/{told.run}/agents/{name}/context", seq=seq)
            if name not in expected:
                assert (response.status_code, response.json()["code"]) == (404, "context-not-found")
                assert agent["context_seq"] == 0
                continue
            found = response.json()
            assert found["messages"] == expected[name], seq
            assert found["sha256"] == found["context_hash"] == sha256_hex(canonical_json(expected[name]))
            assert (found["matches"], found["at"], found["agent_id"]) == (True, seq, agent["agent_id"])
            named = (agent["context_seq"], agent["context_event_id"], agent["context_hash"])
            assert (found["seq"], found["event_id"], found["context_hash"]) == named


async def test_a_decision_was_made_in_the_context_that_its_agent_had(world: World, told: Told) -> None:
    decided = (await world.document("events", run=told.run, kind="decision"))["data"]
    assert len(decided) == 6
    for event in decided:
        found = await world.document(f"runs/{told.run}/agents/{event['agent_id']}/context", seq=event["seq"])
        assert found["sha256"] == event["decision"]["context_hash"]


async def test_a_context_comes_by_id_by_name_and_with_a_tag(world: World, told: Told) -> None:
    newest = await world.get(f"runs/{told.run}/agents/coder-1/context")
    assert newest.json()["messages"] == told.contexts[told.last]["coder-1"]
    by_id = await world.document(f"runs/{told.run}/agents/{newest.json()['agent_id']}/context")
    assert by_id == newest.json()
    url = f"/api/v1/runs/{told.run}/agents/coder-1/context"
    again = await world.http.get(url, headers={"If-None-Match": newest.headers["etag"]})
    assert again.status_code == 304


async def published(world: World, run: str, *events: SwarmEvent) -> None:
    """Events of a producer that is not ours."""
    for number, event in enumerate(events):
        event.event_id, event.run_id = f"{run}-{number}", run
        await world.bus.publisher.publish(
            Outgoing(
                subject="swarm.events.coder.model_call", payload=event.SerializeToString(), event_id=event.event_id
            )
        )
    await world.stored(run, len(events))


async def test_what_has_no_context_is_a_problem_that_says_why(world: World, told: Told) -> None:
    gone = {"field": "model_call.messages", "sha256": "0" * 64, "size": 9}
    await published(
        world, "run-prompts-kept-back",
        SwarmEvent(agent_id="team/silent", model_call={"model": "m", "completion": "c"}),
        SwarmEvent(agent_id="forgetful", model_call={"model": "m"}, blobs=[gone]),
        SwarmEvent(agent_id="quiet", tool_call={"tool": "t"}),
    )  # fmt: skip
    for agent, code, words in (
        ("team%2Fsilent", "context-not-found", "its producer records no prompts"),
        ("forgetful", "context-unavailable", "no blob 0000"),
        ("quiet", "context-not-found", "had asked no model"),
        ("nobody", "agent-not-found", "the state lists the agents"),
    ):
        response = await world.get(f"runs/run-prompts-kept-back/agents/{agent}/context")
        assert (response.status_code, response.json()["code"]) == (404, code), response.text
        assert words in response.json()["detail"]
    assert (await world.get("runs/nobody/agents/a/context")).json()["code"] == "run-not-found"
    before = await world.get(f"runs/{told.run}/agents/coder-1/context", seq=min(told.contexts) - 1)
    assert (before.status_code, before.json()["code"]) == (404, "agent-not-found")
    assert (await world.get(f"runs/{told.run}/agents/%00/context")).status_code == 422
    assert (await world.get(f"runs/{told.run}/agents/coder-1/context", seq=-1)).status_code == 422


async def test_messages_larger_than_any_that_are_shown_are_refused_whatever_size_their_event_states(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = await world.bus.blobs.put(json.dumps(["x" * 2_000]).encode())
    field = {"field": "model_call.messages", "sha256": sha256}
    gone = {"field": "model_call.messages", "sha256": "0" * 64, "size": context.LARGEST + 1}
    await published(
        world, "run-prompts-large",
        SwarmEvent(agent_id="honest", model_call={"model": "m"}, blobs=[gone]),
        SwarmEvent(agent_id="lying", model_call={"model": "m"}, blobs=[{**field, "size": 9}]),
    )  # fmt: skip
    assert (await world.document("runs/run-prompts-large/agents/lying/context"))["messages"] == ["x" * 2_000]
    monkeypatch.setattr(context, "LARGEST", 1_000)
    for agent, size in (("honest", 2**25 + 1), ("lying", 2_004)):
        response = await world.get(f"runs/run-prompts-large/agents/{agent}/context")
        assert (response.status_code, response.json()["code"]) == (422, "context-too-large")
        assert f"they have {size} bytes, at most 1000" in response.json()["detail"]


async def test_messages_that_are_not_what_their_call_says_are_told(world: World) -> None:
    bent = model_call(model="m", messages=["a"], parameters={}, completion="", finish_reason="stop")
    bent.model_call.messages = '["b"]'
    plain = SwarmEvent(model_call={"model": "m", "messages": "no JSON"})
    bent.agent_id, plain.agent_id = "bent", "plain"
    await published(world, "run-prompts-bent", bent, plain)
    found = await world.document("runs/run-prompts-bent/agents/bent/context")
    assert (found["matches"], found["messages"], found["context_hash"]) == (False, ["b"], sha256_hex('["a"]'))
    assert found["sha256"] == sha256_hex('["b"]')
    unsaid = await world.document("runs/run-prompts-bent/agents/plain/context")
    assert (unsaid["matches"], unsaid["messages"], unsaid["sha256"]) == (None, "no JSON", sha256_hex("no JSON"))


async def test_a_context_is_printed_by_the_command_line_without_control_characters(
    world: World, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    first = min(seq for seq, contexts in told.contexts.items() if "coder-1" in contexts)
    there = ["--url", world.url, "--token-file", str(world.token_file)]
    command = ["state", told.run, "--context", "coder-1", "--at", str(first), *there]
    assert await asyncio.to_thread(execute, command) == 0
    text = capsys.readouterr()
    assert text.out == "--- system\nbe exact \u00fc \ufffd[2J\n--- user\nfirst\n--- user\nnumber 0 for coder-1\n"
    assert "their hash is the recorded one" in text.err
    assert await asyncio.to_thread(execute, [*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["messages"] == told.contexts[first]["coder-1"]
    assert await asyncio.to_thread(execute, ["state", told.run, "--context", "nobody", *there]) == 3
    assert await asyncio.to_thread(execute, [*command, "--path", "a.py"]) == 2
