"""The log for agents: a read-only MCP server at `/mcp` whose tools are the API's own reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import ToolAnnotations
from pydantic import Field
from starlette.routing import Route

from enchanted.serve.guard.auth import LOOPBACK_NAMES, Access

PATH = "/mcp"
MOST = 200_000
"""Characters of an answer: a model's context is small."""
_READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
_INSTRUCTIONS = (
    "The durable log of a swarm of software-engineering agents. Begin with `runs`; `events` finds decisions (with "
    "rationale, confidence and rejected alternatives), model calls, tool calls and state changes; `state` and `diff` "
    "show a run's files at any sequence, `context` what an agent's model was given. Nothing here changes anything."
)

Run = Annotated[str, Field(description="Run id, or the trace id of a producer without runs")]
Limit = Annotated[int, Field(ge=1, le=200)]
At = Annotated[int | None, Field(description="Stream sequence; the latest by default")]


def make_mcp(app: FastAPI, access: Access) -> MCPServer[None]:
    """The server, with its route in ``app``; its session manager has to run while the app does."""
    with _logging_left_alone():
        server: MCPServer[None] = MCPServer("enchanted", instructions=_INSTRUCTIONS)
    _add_event_tools(server, _Api(app, access))
    _add_run_tools(server, _Api(app, access))
    server.streamable_http_app(
        stateless_http=True,
        json_response=True,
        # Host and Origin are the guard's, for every path.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    app.router.routes.append(Route(PATH, endpoint=server.session_manager.asgi_app, methods=["GET", "POST", "DELETE"]))
    return server


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """MCPServer gives the root logger a handler and a level, which are the process's own affair."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


class _Api:
    """The app itself, asked as any client asks it."""

    def __init__(self, app: FastAPI, access: Access) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url=f"http://{LOOPBACK_NAMES[0]}/api/v1",
            headers={"Authorization": f"Bearer {access.token}"},
        )

    async def get(self, *path: str, **parameters: object) -> str:
        """The text of an answer, cut where it is long.

        Raises:
            ToolError: the API has a problem with it, or a part of the path would name another resource.
        """
        if wrong := [part for part in path if not part.strip() or "/" in part or part in (".", "..")]:
            raise ToolError(f"{wrong[0]!r} is no id; `runs` lists runs, `events` lists events and their traces")
        given = {name: str(value) for name, value in parameters.items() if value not in (None, "")}
        resource = "/".join(quote(part, safe="") for part in path)
        answer = await self._client.get(resource, params=given)
        if answer.is_error:
            problem: dict[str, Any] = answer.json()
            raise ToolError(f"{problem['title']}: {problem['detail']}")
        if len(answer.text) <= MOST:
            return answer.text
        return f"{answer.text[:MOST]}\n[cut: {len(answer.text)} characters; ask for less, by limit, fields or path]"


def _add_event_tools(server: MCPServer[None], api: _Api) -> None:
    @server.tool(annotations=_READS)
    async def runs(limit: Limit = 20, cursor: str | None = None) -> str:
        """List runs, the newest first, with task, verdict, counts and tokens."""
        return await api.get("runs", limit=limit, cursor=cursor)

    @server.tool(annotations=_READS)
    async def run(run: Run) -> str:
        """Where one run stands."""
        return await api.get("runs", run)

    @server.tool(annotations=_READS)
    async def events(
        run: str = "",
        kind: str = "",
        agent: str = "",
        q: Annotated[str, Field(description="Text that the event must hold")] = "",
        after: int | None = None,
        limit: Limit = 50,
        fields: Annotated[str, Field(description="Comma-separated, e.g. seq,kind,decision.rationale")] = "",
    ) -> str:
        """Find events in stream order: decision, state_change, system_signal, model_call, tool_call, run_transition."""
        return await api.get("events", run=run, kind=kind, agent=agent, q=q, after=after, limit=limit, fields=fields)

    @server.tool(annotations=_READS)
    async def event(event_id: str) -> str:
        """One event, whole."""
        return await api.get("events", event_id)

    @server.tool(annotations=_READS)
    async def facets(run: str = "", agent: str = "", kind: str = "", q: str = "") -> str:
        """Which tools, outcomes, models, agents and so on the events of a filter have, and how many events each."""
        return await api.get("facets", run=run, agent=agent, kind=kind, q=q)

    @server.tool(annotations=_READS)
    async def trace(trace_id: str) -> str:
        """The spans of a trace and the events in each."""
        return await api.get("traces", trace_id)


def _add_run_tools(server: MCPServer[None], api: _Api) -> None:
    @server.tool(annotations=_READS)
    async def state(
        run: Run,
        at: At = None,
        path: str = "",
        path_hex: Annotated[str, Field(description="Instead of path: the name's bytes, where it is not UTF-8")] = "",
        workspace: str = "",
    ) -> str:
        """A run's files, tasks and agents at a sequence; with ``path`` or ``path_hex`` the content of one file."""
        return await api.get("runs", run, "state", at=at, path=path, path_hex=path_hex, workspace=workspace)

    @server.tool(annotations=_READS)
    async def context(
        run: Run, agent: Annotated[str, Field(description="Agent id or agent name")], at: At = None
    ) -> str:
        """What an agent's model was given last, up to a sequence: the messages, and whether their hash is right."""
        return await api.get("runs", run, "agents", agent, "context", seq=at)

    @server.tool(annotations=_READS)
    async def diff(run: Run, start: int, end: int | None = None, workspace: str = "") -> str:
        """What changed in a run's files from one sequence to another (the way back where it is earlier), as a diff."""
        return await api.get("runs", run, "diff", workspace=workspace, to=end, **{"from": start})

    @server.tool(annotations=_READS)
    async def agent_statistics(agent: str = "", since: str = "", until: str = "", bucket: str = "") -> str:
        """Decisions, changes, reverts, errors, confidence, tokens and latency of agents; bucket: hour, day or whole."""
        return await api.get("agents", "stats", agent=agent, since=since, until=until, bucket=bucket)

    @server.tool(annotations=_READS)
    async def verify(run: Run) -> str:
        """Whether any event of a run is altered (intact) or missing (complete)."""
        return await api.get("runs", run, "verify")
