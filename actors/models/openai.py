"""A model behind any server that speaks the OpenAI chat completions protocol."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from enchanted.actors.models.errors import ModelNotFound, ModelRefused, ModelUnavailable
from enchanted.actors.models.model import ModelReply, ModelRequest

DEADLINE_S = 240.0
FIRST_CONNECTION_S = 15.0
"""How long a server nobody has reached yet may refuse connections: it is rather misspelt than restarting."""
CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0
UNREADABLE_TRIES = 3
"""A server that answers this often in another form is not a chat completions server."""
_KEY = re.compile(rb"[ -~]+")
_SECRET_CHARS = 4
"""A key of fewer characters is a placeholder, as servers without keys are given one."""
_MOST_TOKENS = 2**32 - 1
"""What an event can say."""


class _Passing(Exception):
    """Why an attempt failed, where asking again may help."""

    def __init__(
        self, why: str, remedy: str, *, wait_s: float = 0.0, unreadable: bool = False, down: bool = False
    ) -> None:
        super().__init__(why)
        self.remedy = remedy
        self.wait_s = wait_s
        self.unreadable = unreadable
        self.down = down


class OpenAIModel:
    """One model of one server. What may pass (429, 5xx, no connection) is asked again until `deadline_s`.

    A server that was never reached is given up after `first_connection_s`.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_file: Path | None = None,
        deadline_s: float = DEADLINE_S,
        first_connection_s: float = FIRST_CONNECTION_S,
        request_timeout_s: float = 120.0,
    ) -> None:
        """`base_url` usually ends in /v1. `key_file` holds the API key; it is read again for each attempt."""
        self.name = model
        self._base_url = base_url.rstrip("/")
        self._key_file = key_file
        self._deadline_s = deadline_s
        self._first_connection_s = min(first_connection_s, deadline_s)
        self._reached = False
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(request_timeout_s, connect=CONNECT_TIMEOUT_S))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connections. May be called twice."""
        await self._client.aclose()

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Answer once; see `Model.complete` for what it raises."""
        begun = time.monotonic()
        give_up = begun + self._deadline_s
        pause, unreadable = FIRST_PAUSE_S, 0
        while True:
            try:
                async with asyncio.timeout(give_up - time.monotonic()):
                    return await self._attempt(request)
            except TimeoutError:
                failure = _Passing("it was still working on the answer", "raise the deadline or use a faster model")
            except _Passing as error:
                failure = error
            unreadable += failure.unreadable
            if unreadable >= UNREADABLE_TRIES:
                raise ModelRefused(self.name, f"{failure}", failure.remedy) from failure
            wait = max(pause * random.uniform(0.5, 1.0), failure.wait_s)
            patience = self._first_connection_s if failure.down and not self._reached else self._deadline_s
            if time.monotonic() + wait >= begun + patience:
                raise ModelUnavailable(self.name, patience, f"{failure}", failure.remedy) from failure
            await asyncio.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _attempt(self, request: ModelRequest) -> ModelReply:
        started = time.perf_counter()
        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            response = await self._client.post(
                f"{self._base_url}/chat/completions", json=_body(self.name, request), headers=headers
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Passing(
                f"model server down: no connection to {self._base_url}: {_without(key, error)}",
                "start it, or correct its base url",
                down=True,
            ) from error
        except httpx.TimeoutException as error:
            raise _Passing(f"{self._base_url} did not answer in time", "raise the timeout, or look at it") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            # The place that a redirect names is looked at too, though nobody goes there.
            raise ModelRefused(self.name, _without(key, error), f"correct its base url {self._base_url}") from error
        except httpx.LocalProtocolError:
            # Its words quote the header it objects to, and so the key: neither message nor traceback may have them.
            self._reached = True
            raise _Passing(
                f"the request to {self._base_url} could not be written", "correct its base url or its key file"
            ) from None
        except httpx.TransportError as error:
            self._reached = True
            raise _Passing(
                f"{self._base_url} broke the connection off: {_without(key, error)}", "look at its log"
            ) from error
        except httpx.DecodingError as error:
            self._reached = True
            raise _Passing(
                f"{self._base_url} answered with bytes of another encoding than it says: {_without(key, error)}",
                "look at the proxy before it",
                unreadable=True,
            ) from error
        self._reached = True
        self._check(response, key)
        return _read(response, self._base_url, self.name, key, (time.perf_counter() - started) * 1000)

    def _key(self) -> str:
        if self._key_file is None:
            return ""
        try:
            key = self._key_file.read_bytes().strip()
        except OSError as error:
            raise ModelRefused(
                self.name, f"its key file cannot be read: {error}", "correct the path or its permissions"
            ) from error
        # Found here, since whoever objects to the header later quotes the key.
        if not _KEY.fullmatch(key):
            raise ModelRefused(
                self.name,
                f"its key file {self._key_file} is not one line of printable ASCII",
                "write nothing but the key into it",
            )
        return key.decode()

    def _check(self, response: httpx.Response, key: str) -> None:
        status = response.status_code
        if response.is_success:
            return
        words = _server_words(response, key)
        why = f"{self._base_url} answered {status}: {words}"
        if status in (408, 409, 425, 429) or status >= 500:
            raise _Passing(why, "look at its log or lower the load", wait_s=_retry_after_s(response))
        if status == 404:
            raise ModelNotFound(
                self.name,
                f"{self._base_url} ({words})",
                f"GET {self._base_url}/models lists what it has; a base url usually ends in /v1",
            )
        remedy = "give a valid key in a file" if status in (401, 403) else "change the request or the model"
        raise ModelRefused(self.name, why, remedy)


def _body(model: str, request: ModelRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
    }
    if request.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": request.schema, "strict": True},
        }
    return body


def _read(response: httpx.Response, base_url: str, model: str, key: str, duration_ms: float) -> ModelReply:
    try:
        body = response.json()
        choice = body["choices"][0]
        usage = body.get("usage") or {}
        return ModelReply(
            text=_without(key, choice["message"]["content"] or ""),
            finish_reason=_storable(choice.get("finish_reason") or "stop"),
            input_tokens=_count(usage.get("prompt_tokens")),
            output_tokens=_count(usage.get("completion_tokens")),
            duration_ms=duration_ms,
            time_to_first_token_ms=0.0,
            model=_storable(body.get("model") or model),
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _Passing(
            f"{base_url} answered with something else than a chat completion: {_without(key, _text(response))[:80]!r}",
            "check the base url; it usually ends in /v1",
            unreadable=True,
        ) from error


def _count(tokens: Any) -> int:
    count = int(tokens or 0)
    if not 0 <= count <= _MOST_TOKENS:
        raise ValueError(f"{count} tokens")
    return count


def _server_words(response: httpx.Response, key: str) -> str:
    try:
        error = response.json()["error"]
        words = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError, RecursionError):
        words = _text(response)
    return _without(key, words).strip()[:200] or _without(key, response.reason_phrase)


def _text(response: httpx.Response) -> str:
    """The body, whatever it says that it is written in."""
    return response.content.decode("utf-8", "replace")


def _without(key: str, said: object) -> str:
    """What was said, as the log can hold it, without the key that the server was asked with."""
    words = _storable(said)
    if len(key) >= _SECRET_CHARS:
        quoted = json.dumps(key)[1:-1]
        for form in (key, quoted, quoted.replace("/", "\\/")):
            words = words.replace(form, "***")
    return words


def _storable(said: object) -> str:
    """As text with U+FFFD for each lone surrogate, which JSON can escape and the log, being UTF-8, cannot hold."""
    return str(said).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
