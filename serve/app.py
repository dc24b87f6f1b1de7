"""The ASGI app: routers put together behind the guard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import Response

from enchanted.serve import pages, sessions
from enchanted.serve.acts import recovery, reruns, verbs
from enchanted.serve.description import ERRORS, describe
from enchanted.serve.documents.answer import Health, JsonResponse, Readiness, described
from enchanted.serve.errors import ServeError
from enchanted.serve.export import data, html
from enchanted.serve.guard.auth import Guard
from enchanted.serve.guard.body import BodyLimit
from enchanted.serve.guard.codes import Codes
from enchanted.serve.guard.problem import install, problem
from enchanted.serve.guard.rate import RateLimit
from enchanted.serve.live import play, socket, stream
from enchanted.serve.mcp import make_mcp
from enchanted.serve.moments import compare, context, file_history, history, outline
from enchanted.serve.moments.contents import Contents
from enchanted.serve.moments.patches import PatchChecks
from enchanted.serve.moments.seek import Seeker
from enchanted.serve.proof import receipts
from enchanted.serve.queries import agents, cluster, events, facets, ledger, pipeline, query, runs, runs_list
from enchanted.serve.sources.dependencies import Dependencies, Deps
from enchanted.serve.traces import jaeger_reads, otlp, trace

API_VERSION = "1.0.0"
READY_DEADLINE = 4.0
MAX_BODY = 1 << 20
"""Bytes of a request."""

_PARTS = (
    *(runs_list, runs, events, trace, jaeger_reads, history, outline, file_history, compare, receipts, recovery),
    *(agents, context, ledger, facets, query, data, html, stream, socket, play, verbs, reruns, pipeline, cluster),
    *(otlp, sessions, pages),
)

health = APIRouter(tags=["health"])


@health.get("/healthz", response_model=None, responses=described(Health))
async def healthz() -> JsonResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


@health.get("/readyz", response_model=None, responses=described(Readiness))
async def readyz(deps: Deps) -> Response:
    """Whether everything the API leans on answers; 503 when something does not."""
    store, bus = await asyncio.gather(_asked(deps.store.ping()), _asked(deps.bus.stream_info()))
    states = {"store": store, "bus": bus, "runs": {"ok": deps.starter is not None, "detail": "", "milliseconds": 0.0}}
    if store["ok"] and bus["ok"]:
        return JsonResponse({"ready": True, "dependencies": states})
    failing = ", ".join(name for name in ("store", "bus") if not states[name]["ok"])
    detail = f"not answering: {failing}; `enchanted status` shows the services, `enchanted up` starts them"
    headers = {"Retry-After": "2"}
    return problem(503, "not-ready", "Not ready", detail, headers=headers, ready=False, dependencies=states)


async def _asked(question: Awaitable[object]) -> dict[str, Any]:
    begun = time.perf_counter()
    detail = ""
    try:
        async with asyncio.timeout(READY_DEADLINE):
            await question
    except TimeoutError:
        detail = f"no answer within {READY_DEADLINE:g} s"
    except ServeError as error:
        detail = str(error)
    return {"ok": not detail, "detail": detail, "milliseconds": round((time.perf_counter() - begun) * 1000, 1)}


def create_app(dependencies: Dependencies) -> FastAPI:
    """The API over ``dependencies``, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        reader = dependencies.reader or nullcontext()
        async with dependencies.store, reader, dependencies.bus, app.state.streams, mcp.session_manager.run():
            yield

    app = FastAPI(
        title="Enchanted",
        summary="What a swarm of software-engineering agents thought and changed",
        version=API_VERSION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses=ERRORS,
    )
    app.state.dependencies = dependencies
    app.state.codes = Codes(dependencies.access.token, since=time.time())
    app.state.starts = runs.Starts(dependencies)
    app.state.seeker = Seeker(dependencies)
    app.state.contents = Contents(dependencies, app.state.seeker.stops)
    app.state.patch_checks = PatchChecks(dependencies)
    app.state.reruns = reruns.Reruns(dependencies)
    app.state.streams = stream.Streams(dependencies)
    install(app)
    app.include_router(health)
    for part in _PARTS:
        app.include_router(part.router)
    mcp = make_mcp(app, dependencies.access)
    app.add_middleware(BodyLimit, most=MAX_BODY, paths={otlp.PATH: otlp.MAX_EXPORT}, spans={otlp.PATH})
    app.add_middleware(Guard, access=dependencies.access)
    app.add_middleware(RateLimit, rate=dependencies.rate)
    describe(app)
    return app
