"""What every role shares: it asks a model, decides, uses tools, and writes all of it to its log."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson
from opentelemetry.trace import Span

from enchanted.actors import spans
from enchanted.actors.errors import ActorError
from enchanted.actors.models.errors import ModelError
from enchanted.actors.models.model import Message, Model, ModelReply, ModelRequest
from enchanted.actors.tools import values
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.work import Carrier
from enchanted.bus.agent_log import AgentLog
from enchanted.schemas import events
from enchanted.schemas.canonical import Json, canonical_json, sha256_hex
from enchanted.schemas.events import StoredEvent, SwarmEvent

TRIES = 3
"""A reply that is cut off, or not in the form asked for, is asked again with the next seed, this often in all."""


class AnswerUnusable(ActorError):
    """The model's replies are not in the form of the schema that was given."""

    def __init__(self, model: str, tries: int, text: str) -> None:
        super().__init__(
            f"model {model} gave no usable JSON in {tries} tries, last: {text[:80]!r}; "
            "try a larger model, or a server that keeps to a JSON schema"
        )


class BudgetSpent(ActorError):
    """The task used all the model calls it may."""

    def __init__(self, calls: int) -> None:
        super().__init__(
            f"the task's budget of {calls} model calls is spent; raise ENCHANTED_BUDGET__MODEL_CALLS_PER_TASK"
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """What an event is about."""

    task_id: str = ""
    workspace_id: str = ""
    parent: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A decision to be made: what prompted it, what the model sees, and the form of the answer."""

    trigger: str
    messages: tuple[Message, ...]
    schema: dict[str, Any]
    options: tuple[str, ...]
    """Every value ``choice`` may take, so that what was turned down is recorded."""
    max_tokens: int = 120


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision that is in the log."""

    answer: dict[str, Any]
    event_id: str

    @property
    def choice(self) -> str:
        """The option that was taken; empty where the schema has no ``choice``."""
        return str(self.answer.get("choice", ""))

    @property
    def rationale(self) -> str:
        """Why, in the model's words."""
        return str(self.answer.get("rationale", ""))


class Agent:
    """The part of a role that thinks and acts; a role composes it."""

    def __init__(
        self, *, name: str, run_id: str, log: AgentLog, model: Model, seed: int = 0, temperature: float = 0.0
    ) -> None:
        self.name = name
        self.run_id = run_id
        self.log = log
        self.model = model
        self._seed = seed
        self._temperature = temperature
        self._calls = 0

    def turn(self, carrier: Carrier) -> AbstractContextManager[Span]:
        """The span of one turn of this role, continuing its caller's trace."""
        return spans.agent_span(agent_id=self.log.agent_id, agent_name=self.name, run_id=self.run_id, headers=carrier)

    async def decide(self, question: Question, place: Place) -> Decision:
        """Ask the model and record the call and the decision as one batch.

        Raises:
            AnswerUnusable: no reply had the form asked for.
            ModelError: the model did not answer.
        """
        for _ in range(TRIES):
            request = self._request(question)
            with spans.chat_span(
                model=self.model.name, max_tokens=request.max_tokens, temperature=request.temperature, seed=request.seed
            ) as span:
                reply, call = await self._complete(request, place)
                span.set_attribute(spans.INPUT_TOKENS, reply.input_tokens)
                span.set_attribute(spans.OUTPUT_TOKENS, reply.output_tokens)
                span.set_attribute(spans.FINISH_REASONS, [reply.finish_reason])
                answer = _parse(reply.text, question.schema)
                if answer is not None:
                    stored = await self.log.emit(
                        call, self._decision(question, request, answer, reply.probability, place)
                    )
                    return Decision(answer=answer, event_id=stored[-1].event.event_id)
                await self.log.emit(call)
        raise AnswerUnusable(reply.model, TRIES, reply.text)

    async def record(self, *, trigger: str, rationale: str, action: Json, place: Place) -> str:
        """Record a decision that needed no model, because the facts left one option; returns its event id."""
        draft = events.decision(
            context_hash=sha256_hex(trigger),
            trigger=trigger,
            rationale=rationale,
            action=action,
            confidence=1.0,
            task_id=place.task_id,
            workspace_id=place.workspace_id,
            parent=place.parent,
        )
        return (await self.log.emit(draft))[0].event.event_id

    async def use(
        self, tool: str, arguments: Json, call: Awaitable[ToolResult], place: Place, tree: str
    ) -> tuple[ToolResult, str]:
        """Await a tool call and record it, whatever came of it; returns the result and its event id."""
        with spans.tool_span(tool) as span:
            result = await call
            if result.outcome != "OK":
                span.set_attribute(spans.ERROR_TYPE, result.outcome)
            stored = await self.log.emit(
                events.tool_call(
                    tool=tool,
                    arguments=arguments,
                    outcome=result.outcome,
                    output=result.output,
                    exit_code=result.exit_code,
                    duration_ms=result.duration_ms,
                    reason=result.reason,
                    sandboxed=result.sandboxed,
                    state_hash=tree,
                    data=values.to_json(result.data),
                    **asdict(place),
                )
            )
        return result, stored[0].event.event_id

    async def change(self, draft: SwarmEvent, *, expected_last: int) -> StoredEvent:
        """Record a change of a workspace, which nobody else may have changed since ``expected_last``."""
        return await self.log.emit_change(draft, expected_last=expected_last)

    def _request(self, question: Question) -> ModelRequest:
        self._calls += 1
        return ModelRequest(
            messages=question.messages,
            schema=question.schema,
            max_tokens=question.max_tokens,
            temperature=self._temperature,
            seed=self._seed * 1_000 + self._calls,
        )

    async def _complete(self, request: ModelRequest, place: Place) -> tuple[ModelReply, SwarmEvent]:
        parameters = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "schema": request.schema,
        }
        messages = [asdict(message) for message in request.messages]
        try:
            reply = await self.model.complete(request)
        except ModelError as error:
            await self.log.emit(
                events.model_call(
                    model=self.model.name,
                    messages=messages,
                    parameters=parameters,
                    completion="",
                    finish_reason="error",
                    error=str(error),
                    **asdict(place),
                )
            )
            raise
        return reply, events.model_call(
            model=reply.model,
            messages=messages,
            parameters=parameters,
            completion=reply.text,
            finish_reason=reply.finish_reason,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            duration_ms=reply.duration_ms,
            time_to_first_token_ms=reply.time_to_first_token_ms,
            probability=reply.probability,
            **asdict(place),
        )

    @staticmethod
    def _decision(
        question: Question, request: ModelRequest, answer: dict[str, Any], probability: float, place: Place
    ) -> SwarmEvent:
        return events.decision(
            context_hash=sha256_hex(canonical_json([asdict(message) for message in request.messages])),
            trigger=question.trigger,
            rationale=str(answer.get("rationale", "")),
            action=answer,
            rejected=[option for option in question.options if option != answer.get("choice")],
            confidence=float(answer["confidence"]) / 100 if "confidence" in answer else probability,
            task_id=place.task_id,
            workspace_id=place.workspace_id,
        )


def of_task(place: Place, event_id: str) -> Place:
    """The same place, caused by another event."""
    return replace(place, parent=event_id)


def _parse(text: str, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    answer = _trimmed(value, schema) if isinstance(value, dict) else None
    return answer if answer is not None and _fits(answer, schema) else None


def _trimmed(answer: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Without what nobody asked for, and without what may be left out and does not fit."""
    forms = schema.get("anyOf", [schema])
    known = {name: form for one in forms for name, form in one.get("properties", {}).items()}
    needed = {name for one in forms for name in one.get("required", ())}
    if not known:
        return answer
    return {
        name: value for name, value in answer.items() if name in needed or (name in known and _fits(value, known[name]))
    }


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value has the form of a schema, in the keywords that `prompts` uses: a server need not enforce them.

    The length of a text is left out: many servers ignore its bounds, and a longer rationale does no harm.
    """
    if "anyOf" in schema and not any(_fits(value, one) for one in schema["anyOf"]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    match schema.get("type"):
        case "object":
            return isinstance(value, dict) and _members_fit(value, schema)
        case "array":
            return isinstance(value, list) and _items_fit(value, schema)
        case "string":
            return isinstance(value, str)
        case "integer":
            return _is_integer(value) and _within(value, schema, "minimum", "maximum")
    return True


def _members_fit(value: dict[str, Any], schema: Mapping[str, Any]) -> bool:
    known: Mapping[str, Any] = schema.get("properties", {})
    if not value.keys() >= set(schema.get("required", ())):
        return False
    if schema.get("additionalProperties") is False and not value.keys() <= known.keys():
        return False
    return all(_fits(value[name], form) for name, form in known.items() if name in value)


def _items_fit(value: list[Any], schema: Mapping[str, Any]) -> bool:
    return _within(len(value), schema, "minItems", "maxItems") and all(
        _fits(item, schema.get("items", {})) for item in value
    )


def _is_integer(value: Any) -> bool:
    # To Python a truth value is an integer, and 90.0 is none; to JSON it is the other way round.
    return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0


def _within(number: float, schema: Mapping[str, Any], least: str, most: str) -> bool:
    return bool(schema.get(least, number) <= number <= schema.get(most, number))
