"""The context window of an agent at a sequence: the messages of its last model call up to there, as they were sent."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import AfterValidator
from starlette.responses import Response

from enchanted.schemas.canonical import sha256_hex
from enchanted.schemas.events import StoredEvent
from enchanted.schemas.fold import AgentState, RunState
from enchanted.schemas.gen.events_pb2 import FieldBlob
from enchanted.serve.documents.answer import NOT_MODIFIED, JsonResponse, described, tagged
from enchanted.serve.documents.state import ContextDocument
from enchanted.serve.errors import (
    AgentNotFound,
    ContentUnavailable,
    ContextNotFound,
    ContextTooLarge,
    ContextUnavailable,
)
from enchanted.serve.moments.seek import Seeker, events_between
from enchanted.serve.queries.runs import parsed
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.sources.parameters import MAX_SEQ, RunId, Sequence, printable

router = APIRouter(prefix="/api/v1", tags=["history"])

MESSAGES = "model_call.messages"
"""The field's path among what was moved to the object store."""
LARGEST = 32 << 20
"""Bytes of messages that are shown; a prompt of a million tokens has about four million."""
AgentPath = Annotated[str, Path(min_length=1, max_length=256), AfterValidator(printable)]


@router.get(
    "/runs/{run}/agents/{agent:path}/context",
    response_model=None,
    responses=described(ContextDocument) | NOT_MODIFIED,
)
async def read_context(run: RunId, agent: AgentPath, request: Request, deps: Deps, seq: Sequence = MAX_SEQ) -> Response:
    """What an agent's model was given last, up to ``seq`` (by default the latest), and whether its hash is right.

    The agent is named by its id, or by its name: of several with that name, the one whose model was asked last.
    """
    seeker: Seeker = request.app.state.seeker
    state = (await seeker.seek(run, seq)).state
    found = agent_named(state, agent, seq)
    call = await _call_of(deps, run, found)
    content = await _messages(deps, call)
    stated = call.event.model_call.context_hash
    digest, messages = await asyncio.to_thread(_read, content)
    document: dict[str, Any] = {
        "run_id": run,
        "at": state.seq,
        "agent_id": found.agent_id,
        "name": found.name,
        "role": found.role,
        "seq": call.seq,
        "event_id": call.event.event_id,
        "task_id": call.event.task_id,
        "model": call.event.model_call.model,
        "context_hash": stated,
        "sha256": digest,
        "matches": digest == stated if stated else None,
        "messages": messages,
    }
    return await asyncio.to_thread(lambda: tagged(request, JsonResponse(document)))


def _read(content: bytes) -> tuple[str, Any]:
    """The hash of the messages, and what they say."""
    return sha256_hex(content), parsed(content.decode("utf-8", "backslashreplace"))


def agent_named(state: RunState, agent: str, asked: int) -> AgentState:
    """The agent of a state with this id, or of those with this name the one whose model was asked last.

    Raises:
        AgentNotFound: nobody is called so up to there.
        ContextNotFound: it has not asked a model up to there.
    """
    named = [one for one in state.agents.values() if one.name == agent]
    known = state.agents.get(agent) or max(named, key=lambda one: one.context_seq, default=None)
    if known is None:
        raise AgentNotFound(agent, None if asked == MAX_SEQ else asked)
    if not known.context_seq:
        raise ContextNotFound(f"{agent!r} had asked no model at sequence {state.seq}")
    return known


async def _call_of(deps: Dependencies, run: str, agent: AgentState) -> StoredEvent:
    for stored in await events_between(deps, run, agent.context_seq - 1, agent.context_seq):
        if stored.event.event_id == agent.context_event_id:
            return stored
    raise ContextUnavailable(f"event {agent.context_event_id} (sequence {agent.context_seq}) is no longer in the table")


async def _fetched(deps: Dependencies, blob: FieldBlob) -> bytes:
    _check_size(blob.size)
    try:
        content = await deps.bus.blob(blob.sha256)
    except ContentUnavailable as error:
        raise ContextUnavailable(str(error.__cause__ or error)) from error
    # An event says what it likes.
    _check_size(len(content))
    return content


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise ContextTooLarge(size, LARGEST)


async def _messages(deps: Dependencies, call: StoredEvent) -> bytes:
    """The very bytes that the call's hash is of.

    Raises:
        ContextNotFound: who wrote the call left them out.
        ContextUnavailable: they are in the object store, which does not have them any more.
        ContextTooLarge: they are longer than any that are shown.
    """
    for blob in call.event.blobs:
        if blob.field == MESSAGES:
            return await _fetched(deps, blob)
    if not call.event.model_call.messages:
        raise ContextNotFound(
            f"the model call at sequence {call.seq} says no messages: its producer records no prompts"
        )
    return call.event.model_call.messages.encode()
