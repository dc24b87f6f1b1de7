from __future__ import annotations

import json
import math
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from enchanted.actors.models.errors import ModelNotFound, ModelRefused, ModelUnavailable
from enchanted.actors.models.model import Message, ModelRequest
from enchanted.actors.models.openai import OpenAIModel

Answer = tuple[int, str, dict[str, str]]
SCHEMA = {"type": "object", "properties": {"choice": {"enum": ["yes", "no"]}}, "required": ["choice"]}
REQUEST = ModelRequest(messages=(Message(role="user", content="Good?"),), schema=SCHEMA, max_tokens=9, seed=4)
COMPLETION = {
    "model": "served-name",
    "choices": [{"message": {"role": "assistant", "content": '{"choice":"yes"}'}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 5},
}


class Server:
    """A chat completions server whose next answers are given; after the last one it answers properly."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> Answer:
        self.bodies.append(body)
        self.keys.append(key)
        if path != "/v1/chat/completions":
            return 404, "no such page", {}
        if self.answers:
            return self.answers.pop(0)
        if body["model"] != "served-name":
            return 404, json.dumps({"error": {"message": f"The model `{body['model']}` does not exist."}}), {}
        return 200, json.dumps(COMPLETION), {}


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, text, headers = server.answer(self.path, body, self.headers["authorization"])
            self.send_response(status)
            for name, value in (headers | {"content-length": str(len(text.encode()))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def closed_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


async def test_a_reply_carries_text_reason_and_token_counts(server: Server) -> None:
    async with OpenAIModel(server.url, "served-name") as model:
        reply = await model.complete(REQUEST)
    assert (reply.text, reply.finish_reason) == ('{"choice":"yes"}', "length")
    assert (reply.input_tokens, reply.output_tokens, reply.model) == (11, 5, "served-name")
    assert reply.duration_ms > 0


async def test_schema_seed_and_limits_reach_the_server(server: Server) -> None:
    async with OpenAIModel(server.url + "/", "served-name") as model:
        await model.complete(REQUEST)
    body = server.bodies[0]
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert (body["seed"], body["max_tokens"], body["temperature"]) == (4, 9, 0.0)
    assert body["messages"] == [{"role": "user", "content": "Good?"}]


async def test_the_key_is_read_from_its_file_for_each_attempt(server: Server, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    async with OpenAIModel(server.url, "served-name", key_file=key_file) as model:
        with pytest.raises(ModelRefused, match="key file cannot be read"):
            await model.complete(REQUEST)
        key_file.write_text("first\n")
        await model.complete(REQUEST)
        key_file.write_text("second\n")
        await model.complete(REQUEST)
    assert server.keys == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"sk-hidden\nsk-hidden-too\n", b"sk-hidden\x01", b"sk-hidden-\xff", "sk-hidden-ü".encode(),
     b"\xef\xbb\xbfsk-hidden", "sk-hidden".encode("utf-16")],
    ids=["nothing", "an empty line", "two lines", "a control character", "no UTF-8", "no ASCII", "a mark", "UTF-16"],
)  # fmt: skip
async def test_a_key_file_of_another_form_is_named_at_once_and_never_quoted(
    server: Server, tmp_path: Path, content: bytes
) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(content)
    async with OpenAIModel(server.url, "served-name", key_file=key_file, deadline_s=1) as model:
        with pytest.raises(ModelRefused, match="write nothing but the key into it") as caught:
            await model.complete(REQUEST)
    assert str(key_file) in str(caught.value)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))
    assert server.bodies == []


async def test_the_space_around_a_key_is_no_part_of_it(server: Server, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(b"\n sk-key \r\n\n")
    async with OpenAIModel(server.url, "served-name", key_file=key_file) as model:
        await model.complete(REQUEST)
    assert server.keys == ["Bearer sk-key"]


async def test_what_the_http_library_will_not_send_is_never_quoted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> httpx.Response:
        raise httpx.LocalProtocolError("Illegal header value b'Bearer sk-hidden'")

    monkeypatch.setattr(httpx.AsyncClient, "post", refuse)
    async with OpenAIModel(server.url, "served-name", deadline_s=0.2) as model:
        with pytest.raises(ModelUnavailable, match=f"the request to {server.url} could not be written") as caught:
            await model.complete(REQUEST)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_in_trouble_is_asked_again(server: Server, status: int) -> None:
    server.answers = [(status, "try later", {"retry-after": "0"})]
    async with OpenAIModel(server.url, "served-name") as model:
        assert (await model.complete(REQUEST)).text == '{"choice":"yes"}'
    assert len(server.bodies) == 2


async def test_trouble_past_the_deadline_says_what_the_server_said(server: Server) -> None:
    server.answers = [(500, json.dumps({"error": {"message": "out of memory"}}), {})] * 200
    # Not at the edge of a try: the waits before the fifth one are 3.75 s or more together.
    async with OpenAIModel(server.url, "served-name", deadline_s=3.7) as model:
        with pytest.raises(ModelUnavailable, match=r"answered 500: out of memory"):
            await model.complete(REQUEST)


async def test_a_wait_asked_for_beyond_the_deadline_is_not_sat_out(server: Server) -> None:
    server.answers = [(429, "slow down", {"retry-after": "3600"})]
    async with OpenAIModel(server.url, "served-name", deadline_s=30) as model:
        with pytest.raises(ModelUnavailable, match="429"):
            await model.complete(REQUEST)
    assert len(server.bodies) == 1


async def test_a_server_that_is_down_is_named_with_its_address(closed_port: Callable[[], int]) -> None:
    port = closed_port()
    async with OpenAIModel(f"http://127.0.0.1:{port}/v1", "served-name", deadline_s=0.8) as model:
        with pytest.raises(ModelUnavailable, match=rf"model server down: no connection to http://127.0.0.1:{port}/v1"):
            await model.complete(REQUEST)


async def test_a_server_that_was_never_reached_is_given_up_before_the_deadline(closed_port: Callable[[], int]) -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    async with OpenAIModel(url, "served-name", first_connection_s=0.8) as model:
        with pytest.raises(ModelUnavailable, match=r"no answer within 0\.8 s \(model server down"):
            await model.complete(REQUEST)


async def test_a_server_that_was_reached_may_be_away_until_the_deadline(server: Server) -> None:
    async with OpenAIModel(server.url, "served-name", first_connection_s=0) as model:
        await model.complete(REQUEST)
        server.stop()
        model._deadline_s = 1.2
        with pytest.raises(ModelUnavailable, match=r"no answer within 1\.2 s"):
            await model.complete(REQUEST)


async def test_a_server_that_never_answers_does_not_hang_the_agent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        async with OpenAIModel(url, "served-name", deadline_s=0.5) as model:
            with pytest.raises(ModelUnavailable, match="still working"):
                await model.complete(REQUEST)


async def test_a_model_the_server_lacks_is_named_at_once(server: Server) -> None:
    async with OpenAIModel(server.url, "other") as model:
        with pytest.raises(ModelNotFound, match="The model `other` does not exist") as caught:
            await model.complete(REQUEST)
    assert f"GET {server.url}/models" in str(caught.value)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(("status", "remedy"), [(400, "change the request"), (401, "give a valid key in a file")])
async def test_a_refused_request_is_not_repeated(server: Server, status: int, remedy: str) -> None:
    server.answers = [(status, json.dumps({"error": {"message": "no"}}), {})]
    async with OpenAIModel(server.url, "served-name") as model:
        with pytest.raises(ModelRefused, match=remedy):
            await model.complete(REQUEST)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<html>hello</html>", "{", "[]", "[" * 100_000, '{"choices": []}', '{"choices": [{"message": null}]}',
        *(json.dumps(COMPLETION | {"usage": {"prompt_tokens": tokens}}) for tokens in (math.inf, math.nan, -1, 2**32)),
    ],
    ids=lambda text: text[-60:],
)  # fmt: skip
async def test_something_else_than_a_chat_completion_is_reported_after_three_tries(server: Server, text: str) -> None:
    server.answers = [(200, text, {})] * 3
    async with OpenAIModel(server.url, "served-name") as model:
        with pytest.raises(ModelRefused, match="something else than a chat completion"):
            await model.complete(REQUEST)
    assert len(server.bodies) == 3


async def test_bytes_of_another_encoding_than_said_are_reported_after_three_tries(server: Server) -> None:
    server.answers = [(200, json.dumps(COMPLETION), {"content-encoding": "gzip"})] * 3
    async with OpenAIModel(server.url, "served-name") as model:
        with pytest.raises(ModelRefused, match="bytes of another encoding than it says"):
            await model.complete(REQUEST)
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, json.dumps({"error": {"message": "Incorrect API key provided: sk-hidden-key."}})),
        (404, json.dumps({"error": "sk-hidden-key may not use it"})),
        (400, f"{'x' * 190} sk-hidden-key"),
        (200, f"{'x' * 70} sk-hidden-key"),
        (400, '{"detail": "sk-hidden\\/key"}'),
    ],
    ids=["in a message", "not found", "at the cut", "no completion", "escaped"],
)
async def test_a_key_that_the_server_says_again_is_not_repeated(
    server: Server, tmp_path: Path, status: int, text: str
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-hidden/key" if "/key" in text else "sk-hidden-key")
    server.answers = [(status, text, {})] * 3
    async with OpenAIModel(server.url, "served-name", key_file=key_file) as model:
        with pytest.raises((ModelRefused, ModelNotFound)) as caught:
            await model.complete(REQUEST)
    assert "***" in str(caught.value)
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("charset", ["utf-16", "base64", "rot13", "undefined"])
async def test_words_in_a_charset_that_is_of_no_use_are_quoted_all_the_same(server: Server, charset: str) -> None:
    server.answers = [(400, "it is the temperature", {"content-type": f"text/plain; charset={charset}"})]
    async with OpenAIModel(server.url, "served-name") as model:
        with pytest.raises(ModelRefused, match="answered 400: it is the temperature"):
            await model.complete(REQUEST)


async def test_a_redirect_to_a_place_that_is_none_is_a_refusal(server: Server) -> None:
    server.answers = [(302, "", {"location": "https://xn--a/login"})]
    async with OpenAIModel(server.url, "served-name") as model:
        with pytest.raises(ModelRefused, match=f"correct its base url {server.url}"):
            await model.complete(REQUEST)


async def test_a_key_in_an_answer_is_not_repeated(server: Server, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-hidden-key")
    choice = {"message": {"content": "Invalid key sk-hidden-key"}}
    server.answers = [(200, json.dumps({"choices": [choice]}), {})]
    async with OpenAIModel(server.url, "served-name", key_file=tmp_path / "key") as model:
        assert (await model.complete(REQUEST)).text == "Invalid key ***"


async def test_one_garbled_answer_is_asked_again(server: Server) -> None:
    server.answers = [(200, '{"choices": [{"mess', {})]
    async with OpenAIModel(server.url, "served-name") as model:
        assert (await model.complete(REQUEST)).output_tokens == 5


async def test_a_base_url_that_is_none_is_refused_at_once() -> None:
    async with OpenAIModel("nonsense", "served-name") as model:
        with pytest.raises(ModelRefused, match="correct its base url"):
            await model.complete(REQUEST)


async def test_what_a_server_says_that_is_no_text_is_replaced(server: Server) -> None:
    choice = {"message": {"content": "half \ud83d, whole \U0001f600"}, "finish_reason": "\udc00stop"}
    server.answers = [(200, json.dumps({"model": "served\ud800", "choices": [choice]}), {})]
    async with OpenAIModel(server.url, "served-name") as model:
        reply = await model.complete(REQUEST)
    assert (reply.text, reply.finish_reason, reply.model) == (
        "half \ufffd, whole \U0001f600", "\ufffdstop", "served\ufffd",
    )  # fmt: skip


async def test_what_a_server_objects_that_is_no_text_is_replaced(server: Server) -> None:
    server.answers = [(400, json.dumps({"error": {"message": "half \ud83d"}}), {})]
    async with OpenAIModel(server.url, "served-name") as model:
        with pytest.raises(ModelRefused, match="answered 400: half \ufffd"):
            await model.complete(REQUEST)
