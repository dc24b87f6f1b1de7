"""What takes the place of the world outside in a rerun: the model, the tools, the files, the user's repository.

None of them asks whether the question is the recorded one. The answer goes with the recorded event; what the agent
says of question and answer is compared when it says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enchanted.actors.agent import Agent, Place
from enchanted.actors.desk import Desk
from enchanted.actors.errors import ActorError, BadPatch, CannotApply, MissingContent, NotARepository, UnsupportedFile
from enchanted.actors.fork import fork_repository
from enchanted.actors.models.errors import ModelError
from enchanted.actors.models.model import ModelReply, ModelRequest
from enchanted.actors.repository.gitstore import Base, ShadowRepository
from enchanted.actors.repository.user_repository import RepositoryFacts
from enchanted.actors.rerun.errors import CannotRerun
from enchanted.actors.rerun.recording import Recording, details_of
from enchanted.actors.rerun.script import Cursor, Script
from enchanted.actors.tools import values
from enchanted.actors.tools.results import ToolResult
from enchanted.bus.memory import InMemoryBus
from enchanted.schemas.events import SwarmEvent, ToolOutcome, kind_of

_OUTCOMES: dict[str, ToolOutcome] = {"OK": "OK", "FAILED": "FAILED", "DENIED": "DENIED", "TIMED_OUT": "TIMED_OUT"}
_NOT_APPLIED, _NO_BRANCH, _AFTER = ", not applied: ", "; no branch: ", "; given up: "
"""What the closing reason has around an obstacle's own words."""


class RecordedModelError(ModelError):
    """A model's failure, as it was recorded."""


class RecordedFailure(ActorError):
    """Somebody else's failure, as it was recorded."""


class RecordedRefusal(UnsupportedFile):
    """Files that could not be recorded, as the log says."""

    def __init__(self, text: str) -> None:
        ActorError.__init__(self, text)


class RecordedObstacle(CannotApply):
    """Why a branch was not applied, as it was recorded."""

    def __init__(self, text: str) -> None:
        ActorError.__init__(self, text)


class RecordedAbsence(NotARepository):
    """Why there was no branch, as it was recorded."""

    def __init__(self, text: str) -> None:
        ActorError.__init__(self, text)


class RecordedModel:
    """Answers what the recorded model answered."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    @property
    def name(self) -> str:
        """The recorded model's."""
        return self._cursor.peek().model_call.model

    async def complete(self, request: ModelRequest) -> ModelReply:
        """The recorded answer; an empty one where none was recorded.

        Raises:
            RecordedModelError: the recorded model failed.
        """
        call = self._cursor.peek().model_call
        # A server may end a good answer with this word.
        if call.finish_reason == "error" and call.error:
            raise RecordedModelError(call.error)
        return ModelReply(
            text=call.completion,
            finish_reason=call.finish_reason,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            duration_ms=call.duration_ms,
            time_to_first_token_ms=call.time_to_first_token_ms,
            model=call.model,
            probability=call.probability,
        )


class RecordedTools:
    """Gives back what the recorded tool gave back."""

    def __init__(self, script: Script, cursor: Cursor) -> None:
        self._script = script
        self._cursor = cursor

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        """The recorded result; FAILED where none was recorded."""
        call = self._cursor.peek().tool_call
        try:
            data = values.from_json(call.data)
        except (ValueError, TypeError, KeyError) as error:
            why = f"what the tool found cannot be read: {type(error).__name__}: {error}"
            await self._script.diverge(self._cursor, why, self._cursor.remaining[0])
            raise
        return ToolResult(
            outcome=_OUTCOMES.get(call.outcome, "FAILED"),
            output=call.output,
            exit_code=call.exit_code,
            reason=call.reason,
            duration_ms=call.duration_ms,
            sandboxed=call.sandboxed,
            data=data,
        )


class RecordedFiles:
    """The files after each recorded change: git applies the recorded patch to the tree before it."""

    def __init__(self, repository: ShadowRepository, script: Script, cursor: Cursor, tree: str) -> None:
        self._repository = repository
        self._script = script
        self._cursor = cursor
        self._tree = tree

    async def snapshot(self) -> str:
        """The tree as the recorded tool left it.

        Raises:
            RecordedRefusal: the recorded files could not be a tree.
        """
        event = self._cursor.peek()
        if kind_of(event) == "decision" and event.decision.rationale.startswith("undone: "):
            raise RecordedRefusal(event.decision.rationale.removeprefix("undone: "))
        if kind_of(event) == "state_change":
            try:
                self._tree = await self._repository.apply(self._tree, event.state_change.diff_patch)
            except (BadPatch, MissingContent) as error:
                why = f"the recorded patch does not apply: {error}"
                await self._script.diverge(self._cursor, why, self._cursor.remaining[0])
        return self._tree

    async def reset(self, tree: str) -> None:
        """Back to a tree."""
        self._tree = tree

    async def close(self) -> None:
        """Nothing lies anywhere."""


class RecordedSite:
    """Desks whose tools and files are the recording's."""

    def __init__(self, repository: ShadowRepository, script: Script, cursor: Cursor) -> None:
        self._repository = repository
        self._script = script
        self._cursor = cursor

    async def desk(self, agent: Agent, place: Place, tree: str, *, records: bool = True) -> Desk:
        """A desk at a tree; nothing is checked out."""
        return Desk(
            agent=agent,
            repository=self._repository,
            files=RecordedFiles(self._repository, self._script, self._cursor, tree),
            tools=RecordedTools(self._script, self._cursor),
            place=place,
            tree=tree,
            records=records,
        )


class RecordedRepository(ShadowRepository):
    """A scratch repository made of the recorded base; the user's own is not looked at, nor written."""

    def __init__(self, scratch: ShadowRepository, base: Base, bundle: bytes) -> None:
        super().__init__(scratch.store, base)
        self._bundle_bytes = bundle
        self.orchestrator: Cursor | None = None
        """Whose next event says how the user's repository took what it was given."""

    @classmethod
    async def of(cls, recording: Recording, folder: Path, bus: InMemoryBus, after: int) -> RecordedRepository:
        """Build it in an empty folder, with every tree up to a sequence.

        ``bus`` has the recorded content, and the events that a fork began with.

        Raises:
            CannotRerun: the recorded bundle is not of the recorded tree.
            MissingContent: the bundle is damaged.
            CannotFork, CannotRebuild: the events do not lead to what a fork began with.
            BadPatch: a patch does not apply.
        """
        change, request = recording.base.state_change, recording.request
        bundle, place = recording.blobs[change.content_sha256], folder / "repo.git"
        if request.forked_from:
            scratch = await fork_repository(place, bus, request)
        else:
            scratch = await ShadowRepository.from_bundle(place, bundle)
        if scratch.base_tree != change.new_state_hash:
            raise CannotRerun(recording.run_id, "its base is not the tree that the log names")
        for change in recording.changes(after):
            await scratch.apply(change.previous_state_hash, change.diff_patch)
        return cls(scratch, _base_of(recording, scratch.base_tree), bundle)

    async def bundle(self, tree: str) -> bytes:
        """The recorded bundle of the base."""
        return self._bundle_bytes if tree == self.base_tree else await super().bundle(tree)

    async def export_branch(
        self, user_repository: Path | str, branch: str, tree: str, message: str, *, base_commit: str = ""
    ) -> str:
        """Write nothing.

        Raises:
            RecordedFailure, RecordedAbsence: the recorded attempt failed.
        """
        step = self._next.run_transition
        if step.to_state == "failed":
            raise RecordedFailure(step.reason)
        if why := _words(step.reason, _NO_BRANCH):
            raise RecordedAbsence(why)
        return ""

    async def apply_to_working_tree(self, user_repository: Path | str, branch: str) -> None:
        """Write nothing.

        Raises:
            RecordedObstacle: the recorded attempt found one.
        """
        if why := _words(self._next.run_transition.reason, _NOT_APPLIED):
            raise RecordedObstacle(why)

    @property
    def _next(self) -> SwarmEvent:
        return self.orchestrator.peek() if self.orchestrator is not None else SwarmEvent()


def _words(reason: str, before: str) -> str:
    return reason.partition(before)[2].rpartition(_AFTER)[0] or reason.partition(before)[2]


def _base_of(recording: Recording, tree: str) -> Base:
    """What the log says of the user's repository as the run found it."""
    stored = next((s.event for s in recording.events if s.event.run_transition.to_state == "prepared"), SwarmEvent())
    details = details_of(stored)
    commit = str(details.get("base_commit", ""))
    if "uncommitted" not in details:
        return Base(tree=tree, commit=commit, source=None)
    changed = tuple(details["uncommitted"])
    facts = RepositoryFacts(
        folder=recording.request.repo,
        commit=commit,
        branch="",
        bare=False,
        dirty=bool(changed),
        changed=changed,
        submodules=tuple(details["submodules"]),
    )
    return Base(tree=tree, commit=commit, source=facts)
