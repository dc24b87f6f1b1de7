"""A desk: one workspace with its tools, where whatever is done is recorded, change by change.

`Tools` and `Files` are all that a role has of the world outside: live they are a sandbox and a folder, in a rerun the
recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from enchanted.actors.agent import Agent, Place, of_task
from enchanted.actors.errors import FileTooLarge, UnsupportedFile
from enchanted.actors.repository.gitstore import ShadowRepository
from enchanted.actors.repository.workspace import Workspace
from enchanted.actors.tools.mutations import Candidate
from enchanted.actors.tools.repair import find_repairs
from enchanted.actors.tools.results import ToolResult
from enchanted.actors.tools.sandbox import Sandbox
from enchanted.actors.tools.toolbox import ToolBox, ToolLimits
from enchanted.actors.tools.variables import SET_VARIABLE, Offers, to_json
from enchanted.schemas import events
from enchanted.schemas.canonical import sha256_hex

WRITING_TOOLS = frozenset({"edit", "write_file", "replace_lines", "apply_fix"})
FIND_REPAIRS = "find_repairs"


class Tools(Protocol):
    """What carries out a tool call."""

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Use a tool; whatever comes of it is a result."""


class Files(Protocol):
    """The files that the tools work on."""

    async def snapshot(self) -> str:
        """The tree of the files as they are now.

        Raises:
            FileTooLarge, UnsupportedFile: they cannot be recorded.
        """

    async def reset(self, tree: str) -> None:
        """Put the files of a tree back."""

    async def close(self) -> None:
        """Remove them."""


class Site(Protocol):
    """Where the desks of one run stand."""

    async def desk(self, agent: Agent, place: Place, tree: str, *, records: bool = True) -> Desk:
        """A desk with the files of ``tree``; with ``records`` what tools change there is the agent's work."""


class SandboxedTools:
    """The tool box of a workspace, and the search for repairs that is made of its tools."""

    def __init__(self, box: ToolBox) -> None:
        self._box = box

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Use a tool of the box, or search."""
        if tool == FIND_REPAIRS:
            return await find_repairs(self._box, arguments["command"], arguments["files"])
        return await self._box.call(tool, arguments)


class SandboxedSite:
    """The desks of a live run: its shadow repository, its folder, its sandbox."""

    def __init__(
        self,
        *,
        repository: ShadowRepository,
        folder: Path,
        sandbox: Sandbox,
        limits: ToolLimits,
        offers: Offers | None = None,
    ) -> None:
        self.repository = repository
        self._folder = folder
        self._sandbox = sandbox
        self._limits = limits
        self._offers = offers

    async def desk(self, agent: Agent, place: Place, tree: str, *, records: bool = True) -> Desk:
        """Check ``tree`` out into a workspace of its own."""
        folder = self._folder / f"{agent.log.agent_id}-{place.workspace_id}"
        workspace = await Workspace.checkout(self.repository, folder, tree)
        tools = SandboxedTools(ToolBox(workspace, self._sandbox, self._limits, self._offers))
        return Desk(
            agent=agent,
            repository=self.repository,
            files=workspace,
            tools=tools,
            place=place,
            tree=tree,
            records=records,
        )


class Desk:
    """Use tools here; each call and each change of the files becomes an event."""

    def __init__(
        self,
        *,
        agent: Agent,
        repository: ShadowRepository,
        files: Files,
        tools: Tools,
        place: Place,
        tree: str,
        records: bool,
    ) -> None:
        self._agent = agent
        self._repository = repository
        self._files = files
        self._tools = tools
        self._records = records
        self._last_change = 0
        self.variables: list[tuple[str, str]] = []
        """Names and values that were set here for checks, in that order."""
        self.unset: list[tuple[str, str]] = []
        """Those that were to be set and could not be."""
        self.place = place
        self.tree = tree

    async def __aenter__(self) -> Desk:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._files.close()

    async def use(self, tool: str, arguments: Mapping[str, Any], *, parent: str = "") -> ToolResult:
        """Call a tool, record the call and then what it changed."""
        place = of_task(self.place, parent or self.place.parent)
        call = self._tools.call(tool, dict(arguments))
        result, event_id = await self._agent.use(tool, dict(arguments), call, place, self.tree)
        if tool != SET_VARIABLE:
            await self._settle(tool, place, event_id)
        elif result.outcome != "OK":
            self.unset.append((arguments["name"], arguments["value"]))
        elif self._records:
            await self._variable_set(arguments["name"], arguments["value"], of_task(place, event_id))
        return result

    async def find_repairs(self, command: str, files: Sequence[str], *, parent: str = "") -> tuple[Candidate, ...]:
        """Small changes that make a failing check pass; the search is one recorded tool call."""
        place = of_task(self.place, parent or self.place.parent)
        arguments = {"command": command, "files": list(files)}
        search = self._tools.call(FIND_REPAIRS, arguments)
        result, _ = await self._agent.use(FIND_REPAIRS, arguments, search, place, self.tree)
        repairs: tuple[Candidate, ...] = result.data.get("repairs", ())
        return repairs

    async def _variable_set(self, name: str, value: str, place: Place) -> None:
        before, after = dict(self.variables).get(name), to_json(value)
        self.variables.append((name, value))
        if before == value:
            return
        change = events.variable_change(
            workspace_id=place.workspace_id,
            name=name,
            previous_hash="" if before is None else sha256_hex(to_json(before)),
            new_hash=sha256_hex(after),
            value=after,
            reason="edit",
            task_id=place.task_id,
            parent=place.parent,
        )
        self._last_change = (await self._agent.change(change, expected_last=self._last_change)).seq

    async def _settle(self, tool: str, place: Place, event_id: str) -> None:
        try:
            tree = await self._files.snapshot()
        except (FileTooLarge, UnsupportedFile) as error:
            await self._files.reset(self.tree)
            refusal = {"reason": str(error), "tool": tool}
            await self._agent.record(
                trigger=tool, rationale=f"undone: {error}", action=refusal, place=of_task(place, event_id)
            )
            return
        if tree == self.tree:
            return
        # What a check leaves behind is no work of the agent's.
        if not self._records or tool not in WRITING_TOOLS:
            await self._files.reset(self.tree)
            return
        patch = await self._repository.diff(self.tree, tree)
        change = events.state_change(
            workspace_id=place.workspace_id,
            previous_tree=self.tree,
            new_tree=tree,
            patch=patch.text,
            files=patch.files,
            reason="edit",
            resource=", ".join(entry.path for entry in patch.files[:3]) or tool,
            task_id=place.task_id,
            parent=event_id,
        )
        stored = await self._agent.change(change, expected_last=self._last_change)
        self._last_change, self.tree = stored.seq, tree
