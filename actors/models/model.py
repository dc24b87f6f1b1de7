"""What an agent asks of a model and gets back, whichever server answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from enchanted.actors.models.errors import BadModelUrl

ModelKind = Literal["vllm", "openai", "bundled", "minimal"]

BUNDLED: Literal["bundled"] = "bundled"
MINIMAL: Literal["minimal"] = "minimal"
BUNDLED_NAME = "SmolLM2-135M-Instruct"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRequest:
    """One question, complete: the same request with the same seed may be asked again."""

    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    """JSON schema the answer must follow; None leaves the text free. Bound every string and array."""
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReply:
    """One answer. ``finish_reason`` "length" is normal: the text may then be cut off inside its JSON."""

    text: str
    finish_reason: str
    """"stop", "length", or another word of the server's."""
    input_tokens: int
    output_tokens: int
    duration_ms: float
    """From the moment the server had the request to the last token, retries left out."""
    time_to_first_token_ms: float
    """0 where the server does not say."""
    model: str
    probability: float = 0.0
    """Of this answer among all that the schema allows, as the model weighs them; 0 where the server does not say."""


class Model(Protocol):
    """Something that completes a conversation."""

    @property
    def name(self) -> str:
        """What spans and events call it."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Answer once, retrying what may pass, within the model's own deadline.

        Raises:
            ModelUnavailable: no answer before the deadline.
            ModelNotFound: the server has no such model.
            ModelRefused: the request itself is at fault.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """Where a model is: the parts of a model URL."""

    kind: ModelKind
    model: str
    """Hub id, folder, or the name the server knows it by; empty for the bundled one."""
    base_url: str = ""
    """Only for ``openai``: without a trailing slash, for instance http://127.0.0.1:8001/v1."""

    @property
    def name(self) -> str:
        """What people and spans call it: a hub id as it is, a folder by its last part."""
        if self.kind == BUNDLED:
            return BUNDLED_NAME
        if self.kind == MINIMAL:
            return MINIMAL
        return Path(self.model).name if self.model.startswith(("/", "~", ".")) else self.model

    @property
    def url(self) -> str:
        """The text this was read from, normalised."""
        if self.kind in (BUNDLED, MINIMAL):
            return self.kind
        return f"openai:{self.base_url}#{self.model}" if self.kind == "openai" else f"vllm:{self.model}"


def parse_model_url(url: str) -> ModelSource:
    """Read ``vllm:<hub id or folder>``, ``openai:<base url>#<model>``, ``bundled`` or ``minimal``.

    Raises:
        BadModelUrl: it is none of these, a part is missing, or there may be a secret in it.
    """
    text = url.strip()
    if text == BUNDLED:
        return ModelSource(kind="bundled", model="")
    if text == MINIMAL:
        return ModelSource(kind="minimal", model="")
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in ("vllm", "openai"):
        raise BadModelUrl(url, "it starts with neither vllm: nor openai:")
    if not rest:
        raise BadModelUrl(url, f"nothing follows {scheme}:")
    return ModelSource(kind="vllm", model=rest) if scheme == "vllm" else _openai_source(url, rest)


def _openai_source(url: str, rest: str) -> ModelSource:
    base_url, _, model = rest.partition("#")
    if not base_url.startswith(("http://", "https://")):
        raise BadModelUrl(url, "the base url of openai: starts with neither http:// nor https://")
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # Its words quote what it takes for the port, which may be the end of a password.
        raise BadModelUrl(url, "its base url has no host or port that could be one") from None
    if not host:
        raise BadModelUrl(url, "its base url names no host")
    # Every run's model is in its log for good.
    if "@" in parts.netloc or "?" in base_url:
        raise BadModelUrl(url, "its base url has a password or a query; write the key into a file, model.key_file")
    if not model:
        raise BadModelUrl(url, "the name of the model is missing after #")
    return ModelSource(kind="openai", model=model, base_url=base_url.rstrip("/"))
