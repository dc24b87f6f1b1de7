"""What `status` says where something does not answer as it should."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from enchanted.cluster.services import _actors, _figures
from enchanted.cluster.state import Endpoints


def endpoints(url: str, token_file: Path) -> Endpoints:
    return Endpoints(
        nats_url="",
        clickhouse_url="",
        api_url=url,
        ray_address="",
        ray_dashboard_url=url,
        token_file=token_file,
        ray_token_file=token_file,
        home=token_file.parent,
    )


async def test_a_token_that_cannot_be_read_costs_the_figures_and_no_more(tmp_path: Path) -> None:
    where = endpoints("http://127.0.0.1:1", tmp_path)
    assert (await _figures(where), await _actors(where)) == ({}, ())


BODIES = (
    b"<html>",
    b"\xff\xff",
    b"[]",
    b'"ok"',
    b'{"workers": 3, "data": 3}',
    b'{"workers": [{}], "data": {"result": {"result": [{}]}}}',
    b'{"workers": [{"name": "a", "events": {"rows": 1}}], "data": {"result": {"result": [{"name": "ingest-0"}]}}}',
)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:20])
async def test_an_answer_that_is_none_of_ours_costs_the_figures_and_no_more(tmp_path: Path, body: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        writer.close()

    (tmp_path / "token").write_text("secret")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        where = endpoints(f"http://127.0.0.1:{port}", tmp_path / "token")
        assert (await _figures(where), await _actors(where)) == ({}, ())
