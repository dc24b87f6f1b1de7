"""`enchanted bench query` takes no refusal and no empty page for a fast answer."""

from __future__ import annotations

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from enchanted.benchmarks import query
from enchanted.benchmarks.asked import get


@pytest.mark.parametrize(("status", "why"), [(503, "refused with 503"), (200, "found nothing")])
async def test_a_refused_and_an_empty_answer_end_the_measurement(status: int, why: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"data": []}, status=status)

    app = web.Application()
    app.router.add_get("/api/v1/events", answer)
    async with TestServer(app) as server, ClientSession(server.make_url("/")) as http:
        with pytest.raises(RuntimeError, match=why):
            await query._answered(http, get("events"), refused={}, name="a page", searches=False)
