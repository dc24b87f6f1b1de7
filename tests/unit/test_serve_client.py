"""The client of the API: how long it waits, what it takes for an answer, and how it reads a live stream."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchanted.serve import client
from enchanted.serve.client_errors import ApiSlow, ApiUnreachable, NothingFound, RequestRefused
from enchanted.serve.live.frames import Frame, lines_of, parse_frames
from enchanted.serve.live.shared import Piece

LIVE = {"Content-Type": "text/event-stream"}


def test_whoever_asks_for_a_state_waits_as_long_as_it_may_take_to_rebuild() -> None:
    waited: dict[str, float] = {}

    def never(request: httpx.Request) -> httpx.Response:
        waited[request.url.path.rpartition("/")[2]] = request.extensions["timeout"]["read"]
        raise httpx.ReadTimeout("timed out", request=request)

    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(never)) as api:
        for ask in (
            lambda: api.state("r"),
            lambda: api.diff("r", 0, 1),
            lambda: api.blame("r", "a.py"),
            lambda: api.restore("r", {}),
            lambda: api.undo("r", "e"),
            lambda: api.fork("r", {}),
        ):
            with pytest.raises(ApiSlow, match="did not answer within 150 s and may still be at work; see"):
                ask()
        with pytest.raises(ApiSlow, match="within 60 s"):
            api.run("r")
    assert waited == dict.fromkeys(("state", "diff", "blame", "restores", "undos", "forks"), 150.0) | {"r": 60.0}


def test_an_api_that_is_not_there_is_no_slow_one() -> None:
    def refused(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused", request=request)

    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(refused)) as api:
        with pytest.raises(ApiUnreachable, match=r"does not answer .*`enchanted up` starts it") as caught:
            api.state("r")
        assert not isinstance(caught.value, ApiSlow)


def test_who_follows_a_run_goes_on_though_something_else_answers_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        [
            httpx.Response(404, text="Path '/api/v1/stream' not found. Ping http://.../-/routes for available routes."),
            httpx.Response(500, text="Internal Server Error"),
            httpx.Response(200, text='id: 7\ndata: {"seq": 7}\n\n', headers=LIVE),
            httpx.Response(404, json={"title": "Not found", "detail": "there is no such run"}),
        ]
    )
    monkeypatch.setattr(client, "RESUME_PAUSE", 0.0)
    said, transport = list[str](), httpx.MockTransport(lambda _: next(answers))
    with client.ApiClient("http://api", "token", transport=transport, lost=lambda why: said.append(str(why))) as api:
        following = api.follow(run="r")
        assert next(following) == {"seq": 7}
        assert said == ["the API answered 404; is this address Enchanted's?"]
        with pytest.raises(NothingFound, match="there is no such run"):
            next(following)


def test_who_waits_until_a_run_can_be_queried_waits_for_the_api_too() -> None:
    answers = iter([httpx.Response(503, text="starting"), httpx.Response(200, json={"data": [{"seq": 7}]})])
    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(lambda _: next(answers))) as api:
        assert api.wait_queryable("r", 7)
    away = httpx.MockTransport(lambda _: httpx.Response(503, text="away"))
    with client.ApiClient("http://api", "token", transport=away) as api:
        assert not api.wait_queryable("r", 7, seconds=0)
        assert not api.wait_closed("r", seconds=0)


@given(
    texts=st.lists(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\u0085\u2028\u2029\v\f\x1c\r\n")))),
    cut=st.integers(1, 40),
)
def test_a_live_stream_is_read_as_it_was_sent_whatever_the_texts_hold(texts: list[str], cut: int) -> None:
    said = [text.encode("utf-8", "replace").decode() for text in texts]
    sent = b"".join(Piece(((seq, orjson.dumps({"said": text})),)).frames for seq, text in enumerate(said))
    pieces = [sent[at : at + cut] for at in range(0, len(sent), cut)]
    assert list(parse_frames(lines_of(pieces))) == [Frame(seq, {"said": text}, "") for seq, text in enumerate(said)]


def test_a_text_can_neither_move_the_place_in_a_live_stream_nor_end_it() -> None:
    said = ["\u2028id: 999999\u2028data: ", "a\u2029event: end\u2029b", "abc\u0085hidden\u0085data: def"]
    body = b"".join(b"id: %d\ndata: %b\n\n" % (n, orjson.dumps({"said": text})) for n, text in enumerate(said, 1))
    answers = iter([httpx.Response(200, content=body, headers=LIVE)])
    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(lambda _: next(answers))) as api:
        following = api.follow(run="r")
        assert [next(following)["said"] for _ in said] == said


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(301, headers={"Location": "https://api/"}, text="<html>moved</html>"),
        httpx.Response(200, text="<html>hello</html>", headers={"Content-Type": "text/html"}),
        httpx.Response(200, json=["a list"]),
    ],
    ids=["sent elsewhere", "another page", "another document"],
)
def test_what_is_no_answer_of_ours_is_no_success(answer: httpx.Response, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RESUME_PAUSE", 0.0)
    monkeypatch.setattr(client, "GONE", 0.0)
    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(lambda _: answer)) as api:
        for ask in (lambda: api.run("r"), lambda: next(api.follow()), api.ready):
            with pytest.raises(ApiUnreachable, match="is this address Enchanted's"):
                ask()


def test_who_is_sent_elsewhere_is_told_where_and_gets_no_page_for_a_file() -> None:
    moved = httpx.Response(301, headers={"Location": "https://api/"}, text="<html>moved</html>")
    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(lambda _: moved)) as api:
        asks: tuple[Callable[[], Iterable[object]], ...] = (
            api.export, lambda: api.export_html("r"), lambda: api.raw("e"), lambda: api.diff("r", 0, 1),
        )  # fmt: skip
        for ask in asks:
            with pytest.raises(ApiUnreachable, match="answered 301 and sent us to https://api/; is this"):
                list(ask())
    other = httpx.Response(200, text="<html>hello</html>", headers={"Content-Type": "text/html"})
    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(lambda _: other)) as api:
        asks = (api.export, lambda: api.export_html("r"), lambda: api.raw("e"), lambda: api.diff("r", 0, 1))
        for ask in asks:
            with pytest.raises(ApiUnreachable, match="answered 200; is this address Enchanted's"):
                list(ask())


def test_an_export_that_a_proxy_compressed_is_written_as_it_was_made() -> None:
    headers = {"Content-Encoding": "gzip", "Content-Disposition": 'attachment; filename="r.ndjson"'}
    packed = httpx.Response(200, content=gzip.compress(b"a row\n"), headers=headers)
    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(lambda _: packed)) as api:
        assert b"".join(api.export()) == b"a row\n"


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str]]]:
    """A proxy of the environment, and what it was given."""
    given_to_it: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given_to_it.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_error(403)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", given_to_it
        finally:
            server.shutdown()
            thread.join()


def test_the_token_of_an_api_on_this_machine_goes_to_no_proxy(
    stranger: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, given_to_it = stranger
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for here in ("127.0.0.1:9", "localhost:9", "[::1]:9"):
        with (
            client.ApiClient(f"http://{here}", "secret") as api,
            pytest.raises(ApiUnreachable, match="does not answer"),
        ):
            api.run("r")
    assert given_to_it == []
    with client.ApiClient("http://api.example", "secret") as api, pytest.raises(ApiUnreachable, match="403"):
        api.run("r")
    assert given_to_it == ["http://api.example/api/v1/runs/r Bearer secret"]


def test_what_no_request_can_say_is_refused_before_it_is_sent() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    with client.ApiClient("http://api", "token", transport=httpx.MockTransport(answer)) as api:
        asks: tuple[Callable[[], object], ...] = (
            lambda: api.start({"task": "t"}, key="schlüssel"),
            lambda: api.start({"task": "\udc80"}),
            lambda: api.start({"seed": float("nan")}),
            lambda: api.fork("r", {"at": float("inf")}),
            lambda: api.run("\udc80"),
            lambda: api.run("r" * 70_000),
            lambda: api.page("\udc80"),
            lambda: api.events(q="x" * 70_000),
            lambda: api.events(q="\udc80"),
            lambda: api.sql("\udc80"),
            lambda: next(api.follow(run="\udc80")),
            lambda: next(api.export(run="\udc80")),
            lambda: next(api.export_html("\udc80")),
        )
        for ask in asks:
            with pytest.raises(RequestRefused, match=r"this request cannot be sent .*; keys must be ASCII"):
                ask()
    assert sent == []
