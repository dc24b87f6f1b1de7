"""The log as an agent reads it: a stock MCP client on the real API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client

from enchanted.bus.agent_log import AgentLog
from enchanted.schemas.events import model_call, system_signal
from enchanted.serve.testing import History, World


@pytest.fixture
async def session(world: World) -> AsyncIterator[ClientSession]:
    headers = {"Authorization": world.http.headers["authorization"]}
    async with (
        httpx.AsyncClient(headers=headers, timeout=30) as http,
        streamable_http_client(f"{world.url}/mcp", http_client=http) as streams,
        ClientSession(streams[0], streams[1]) as session,
    ):
        await session.initialize()
        yield session


async def test_an_agent_finds_what_happened_and_why(session: ClientSession, history: History) -> None:
    tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    assert {"runs", "events", "state", "diff", "verify"} <= tools.keys()
    assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools.values())
    found = await session.call_tool("events", {"run": history.run, "kind": "decision"})
    (decision,) = json.loads(found.content[0].text)["data"]
    assert decision["decision"]["rationale"] == "begin"
    counted = json.loads((await session.call_tool("agent_statistics", {"bucket": "whole"})).content[0].text)
    assert counted["data"]
    at = next(seq for seq, files in history.files.items() if "b c.py" in files)
    shown = await session.call_tool("state", {"run": history.run, "at": at, "path": "b c.py"})
    assert json.loads(shown.content[0].text)["content"].encode() == history.files[at]["b c.py"]


async def test_an_agent_reads_what_another_one_was_given(session: ClientSession, world: World) -> None:
    log = AgentLog(world.bus, run_id="run-asked-by-mcp", role="coder", agent_name="coder-1")
    messages = [{"role": "user", "content": "why?"}]
    call = model_call(model="m", messages=messages, parameters={}, completion="so", finish_reason="stop")
    signal, called = await log.emit(system_signal(status="HEALTHY"), call)
    await world.stored("run-asked-by-mcp", 2)
    asked = {"run": "run-asked-by-mcp", "agent": "coder-1"}
    found = json.loads((await session.call_tool("context", asked)).content[0].text)
    assert (found["messages"], found["seq"], found["matches"]) == (messages, called.seq, True)
    early = await session.call_tool("context", {**asked, "at": signal.seq})
    assert early.is_error
    assert "had asked no model" in early.content[0].text


async def test_what_is_not_there_is_said_and_nothing_can_be_changed(session: ClientSession, history: History) -> None:
    missing = await session.call_tool("run", {"run": "no body?x=1#y"})
    assert missing.is_error
    assert "no body?x=1#y" in missing.content[0].text
    names = {tool.name for tool in (await session.list_tools()).tools}
    assert not names & {"restore", "undo", "fork", "cancel", "start"}


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b"])
async def test_what_is_no_id_is_refused_by_name_and_names_no_other_resource(session: ClientSession, name: str) -> None:
    for tool, arguments in (
        ("run", {"run": name}),
        ("event", {"event_id": name}),
        ("trace", {"trace_id": name}),
        ("state", {"run": name}),
        ("context", {"run": name, "agent": "a"}),
        ("context", {"run": "r", "agent": name}),
        ("diff", {"run": name, "start": 0}),
        ("verify", {"run": name}),
    ):
        found = await session.call_tool(tool, arguments)
        assert found.is_error, tool
        assert f"{name!r} is no id; `runs` lists runs" in found.content[0].text


async def test_without_the_token_there_is_no_mcp(world: World) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.post(f"{world.url}/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert answer.status_code == 401
