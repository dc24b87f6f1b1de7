"""Everything that can be set, its defaults, and what a value may be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from enchanted.actors.models.errors import BadModelUrl
from enchanted.actors.models.model import parse_model_url
from enchanted.ingest.batch import SHORTEST_RETENTION

DEFAULT_HOME = Path(".enchanted")
NATS_SCHEMES = ("nats", "tls", "ws", "wss")
HTTP_SCHEMES = ("http", "https")


def _absolute_path(path: Path | None) -> Path | None:
    try:
        return path.expanduser().absolute() if path is not None else None
    except RuntimeError as error:  # ~name, and nobody has this name
        raise ValueError(str(error)) from error


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # passwords stay out of logs
    )


class ModelSettings(_Section):
    """One role's model and where its engine is placed. Written as a bare URL when only that matters."""

    url: str = "bundled"
    """``bundled``, ``vllm:<hub id or folder>`` or ``openai:<base url>#<model>``."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs of the engine; 0 runs it on the CPU."""
    num_cpus: float = Field(default=1, ge=0)
    """CPUs Ray reserves for the engine."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Ray node labels the engine needs."""
    dedicated: bool = False
    """An engine of its own beside the role's actor instead of one shared by all roles that name this model."""
    max_model_len: int | None = Field(default=None, gt=0)
    """Longest context in tokens; None is 2,048, whatever the model could take."""
    key_file: Path | None = None
    """File holding the API key of an ``openai:`` server."""
    guided: bool | None = None
    """The model only chooses among what tools found; None: yes for the bundled model, no for others."""
    temperature: float = Field(default=0.3, ge=0, le=2)

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _model_url(cls, value: str) -> str:
        try:
            parse_model_url(value)
        except BadModelUrl as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("key_file")
    @classmethod
    def _absolute_key(cls, value: Path | None) -> Path | None:
        # It is opened by a worker of Ray, in another folder. An empty one is no path of the user's.
        return value if value == Path() else _absolute_path(value)


class RoleModels(_Section):
    """A model per role; a role without one uses ``model``."""

    architect: ModelSettings | None = None
    coder: ModelSettings | None = None
    reviewer: ModelSettings | None = None


class BudgetSettings(_Section):
    """What a run may spend before it is ended."""

    model_calls_per_task: int = Field(default=24, ge=0)
    """Model calls one task may make; 0 is no limit, here and below."""
    reworks_per_task: int = Field(default=2, ge=0)
    """How often the Reviewer may send a task back."""
    seconds: float = Field(default=1800, ge=0)
    """Wall time of one run."""


class PlacementSettings(_Section):
    """Where runs may be in a Ray cluster, and what is reserved for their agents."""

    cpus_per_agent: float = Field(default=0, ge=0)
    """CPUs of each agent of a run, reserved together in one placement group before it starts; 0 reserves nothing."""
    label_selector: dict[str, str] = Field(default_factory=dict)
    """Ray labels of the nodes a run may be on; its agents share one node."""
    wait_seconds: float = Field(default=300, gt=0)
    """How long a run waits for room before it fails."""


class SandboxSettings(_Section):
    """Limits of one tool call."""

    seconds: float = Field(default=60, gt=0)
    memory_mb: int = Field(default=2048, gt=0)
    processes: int = Field(default=256, gt=0)
    output_kb: int = Field(default=256, gt=0)
    """Output kept; the rest is cut and said to be."""
    file_mb: int = Field(default=256, gt=0)
    """Largest file a tool may write."""


class IngestSettings(_Section):
    """How events travel from the bus into the store."""

    workers: int = Field(default=1, ge=1, le=64)
    """Ingest actors; the embedded store wants one, and `up` and `status` say so where there are more."""
    batch_rows: int = Field(default=10_000, gt=0)
    batch_seconds: float = Field(default=1.0, gt=0)
    retention_days: int = Field(default=0, ge=0)
    """Days the tables keep events and spans; 0 for ever, otherwise at least 31: the stream keeps 30.

    What is older goes as whole parts, so events stay for up to a month longer.
    """

    @field_validator("retention_days")
    @classmethod
    def _longer_than_the_stream(cls, days: int) -> int:
        if 0 < days < SHORTEST_RETENTION:
            raise ValueError(f"must be 0 (for ever) or at least {SHORTEST_RETENTION}: the stream keeps 30 days")
        return days


class StreamSettings(_Section):
    """The event stream and the embedded server's way of writing it."""

    max_bytes: int = Field(default=8 * 1024**3, gt=0)
    """Size at which publishing is refused."""
    replicas: int = Field(default=1, ge=1, le=5)
    """Servers of a cluster that hold each stream; 3 survives the loss of any one of them."""
    sync: Literal["always", "default"] = "always"
    """``always`` acknowledges after fsync; ``default`` does not, and a power cut loses what was acknowledged."""


class ApiSettings(_Section):
    """Who may use the HTTP API beside programs on this machine that know the token, and how often."""

    hosts: tuple[str, ...] = ()
    """Host names it is reached by, without ports; from the environment with commas between them."""
    origins: tuple[str, ...] = ()
    """Origins (https://host:port) of pages of others that may use it."""
    requests_per_second: float = Field(default=50, ge=0)
    """What one address that is not this machine's may ask for in the long run; 0 is no limit."""
    burst: int = Field(default=200, ge=1)
    """What it may ask for at once."""
    max_days: float = Field(default=400, ge=0, le=100_000)
    """Time that one question may be about, from `since` to `until`; 0 is no limit."""

    @field_validator("hosts", "origins", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value

    @field_validator("hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if urlsplit(f"//{name}").netloc != name or urlsplit(f"//{name}").port or "*" in name:
                raise ValueError(f"{name} is no host name; write it as clients do, without scheme and port")
        return value

    @field_validator("origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            _check_url(origin, HTTP_SCHEMES)
            if urlsplit(origin).path:
                raise ValueError(f"{origin} has a path; write http(s)://host:port as browsers send it")
        return value


class Settings(_Section):
    """Everything that can be set."""

    home: Path = DEFAULT_HOME
    """All state of the embedded services."""
    nats_url: str | None = None
    """A NATS server to use instead of the embedded one; of a cluster several, with commas between them."""
    clickhouse_url: str | None = None
    """``http(s)://user:password@host:port/database`` to use instead of the embedded store."""
    clickhouse_reader_url: str | None = None
    """The same server and database for a login that can only read; `POST /api/v1/sql` asks with it."""
    ray_address: str | None = None
    """A Ray cluster to join instead of a local one."""
    api_port: int = Field(default=8000, ge=0, le=65535)
    nats_port: int = Field(default=4222, ge=0, le=65535)
    clickhouse_port: int = Field(default=8123, ge=0, le=65535)
    ray_port: int = Field(default=0, ge=0, le=65535)
    ray_dashboard_port: int = Field(default=8265, ge=0, le=65535)
    token_file: Path | None = None
    """Bearer token of the API; default ``<home>/token``."""
    api: ApiSettings = ApiSettings()
    model: ModelSettings = ModelSettings()
    """The model of every role that names none."""
    models: RoleModels = RoleModels()
    coders: int = Field(default=2, ge=1, le=64)
    """Coder actors of a run."""
    budget: BudgetSettings = BudgetSettings()
    placement: PlacementSettings = PlacementSettings()
    sandbox: SandboxSettings = SandboxSettings()
    unsafe_no_sandbox: bool = False
    """Run tools without a sandbox where none works; each run records it."""
    ingest: IngestSettings = IngestSettings()
    stream: StreamSettings = StreamSettings()
    ray_object_store_mb: int = Field(default=200, ge=80)
    ray_num_cpus: int | None = Field(default=None, ge=1)
    """CPUs the local Ray offers; None counts the machine's."""
    start_seconds: float = Field(default=180, gt=0)
    """How long `up` waits for healthy services."""

    @field_validator("home", "token_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return _absolute_path(value)

    @field_validator("nats_url")
    @classmethod
    def _nats(cls, value: str | None) -> str | None:
        urls = [url.strip() for url in value.split(",")] if value is not None else []
        for url in urls:
            _check_url(url, NATS_SCHEMES)
        if len({url.startswith("ws") for url in urls}) > 1:
            raise ValueError("ws:// and wss:// do not mix with nats:// and tls://; name servers of one kind")
        return value

    @field_validator("stream")
    @classmethod
    def _stream(cls, value: StreamSettings, info: ValidationInfo) -> StreamSettings:
        if value.replicas > 1 and not info.data.get("nats_url"):
            raise ValueError("replicas need a NATS cluster; set nats_url to its servers")
        return value

    @field_validator("clickhouse_url", "clickhouse_reader_url")
    @classmethod
    def _clickhouse(cls, value: str | None) -> str | None:
        if value is not None:
            _check_url(value, HTTP_SCHEMES)
        return value

    @field_validator("ray_address")
    @classmethod
    def _ray(cls, value: str | None) -> str | None:
        if value is None or value == "auto":
            return value
        if value.startswith("ray://"):
            _check_url(value, ("ray",))
        elif not _is_host_and_port(value):
            raise ValueError("write host:port, auto, or ray://host:port")
        return value

    def role_model(self, role: Literal["architect", "coder", "reviewer"]) -> ModelSettings:
        """The model ``role`` uses."""
        own: ModelSettings | None = getattr(self.models, role)
        return own or self.model


def _check_url(url: str, schemes: Sequence[str]) -> None:
    """Raise ValueError unless ``url`` has one of ``schemes``, a host, and a port that is one."""
    form = f"write {schemes[0]}://host:port"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        # Its words quote what it takes for the port, which may be the end of a password.
        why = "it has no host" if "port" not in str(error).lower() else "its port is none"
        raise ValueError(f"{why}; {form}") from None
    if parts.scheme not in schemes:
        raise ValueError(f"it does not start with {' or '.join(f'{scheme}://' for scheme in schemes)}; {form}")
    if not host or port == 0 or any(char.isspace() for char in url):
        raise ValueError(f"it names no host and port; {form}")


def _is_host_and_port(text: str) -> bool:
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname and parts.port and parts.netloc == text and not any(map(str.isspace, text)))
    except ValueError:
        return False
