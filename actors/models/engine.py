"""Engine: one model in one vLLM, on a CPU or on GPUs. vLLM is imported only when it starts."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from enchanted.actors.models.bundled import prepare_bundled_model
from enchanted.actors.models.errors import EngineDied, EngineUnusable, ModelError, ModelNotFound, ModelRefused
from enchanted.actors.models.model import BUNDLED, ModelReply, ModelRequest, ModelSource
from enchanted.schemas.canonical import canonical_json, sha256_hex

EXIT_AFTER_S = 0.3
"""Long enough for the error to reach the client before the process ends."""
WATCH_EVERY_S = 1.0
_CORE_GONE = "Engine core initialization failed"


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine is: equal specs share one engine."""

    model_source: ModelSource
    num_gpus: float = 0.0
    """0 runs on the CPU; above 1 the model is split over that many GPUs of one node."""
    num_cpus: float = 1.0
    """What Ray sets aside for it."""
    threads: int = 0
    """Threads of the CPU kernels; 0 is every core this process may use. Unused with GPUs."""
    label_selector: Mapping[str, str] = field(default_factory=dict)
    """Ray labels of the nodes it may run on."""
    dedicated_to: str = ""
    """The role that has this engine for itself; empty shares it."""
    max_model_len: int = 2048
    """Tokens of prompt and answer together."""
    max_num_seqs: int = 32
    """Requests computed at once; more wait."""
    kv_cache_gib: int = 1
    """Memory for the KV cache on a CPU, whole GiB. With GPUs, `gpu_memory_utilization` decides."""
    gpu_memory_utilization: float = 0.9
    """Share of each GPU's memory; a fractional `num_gpus` takes that fraction of it."""
    models_folder: str = ""
    """Where the bundled model is kept, the same path on every node; needed for ``bundled`` only."""
    nats_url: str = ""
    """The bus its system signals go to; empty sends none. No part of what it is."""

    @property
    def key(self) -> str:
        """Names the engine: the same for equal specs, in every process."""
        return sha256_hex(canonical_json(asdict(replace(self, nats_url=""))))[:16]

    @property
    def on_gpu(self) -> bool:
        return self.num_gpus > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStatistics:
    """Counts since the engine started."""

    key: str
    model: str
    dedicated_to: str
    pid: int
    ready: bool
    uptime_s: float
    running: int
    completed: int
    failed: int
    input_tokens: int
    cached_tokens: int
    """Of the input tokens, those the prefix cache already held."""
    output_tokens: int


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Variables that must be set before vLLM is imported in the engine's process."""
    common = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if spec.model_source.kind == BUNDLED or _is_path(spec.model_source.model):
        common["HF_HUB_OFFLINE"] = "1"
    if spec.on_gpu:
        return common
    return common | {
        "OMP_NUM_THREADS": str(spec.threads or len(os.sched_getaffinity(0))),
        "VLLM_CPU_KVCACHE_SPACE": str(spec.kv_cache_gib),
        # One process less, 12 s less to start, and no core left out.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


class Engine:
    """Answers requests with one model; concurrent requests are batched by vLLM.

    Starts on the first use. When vLLM's core process dies, this process ends itself, because a
    live actor around a dead engine would never be restarted by Ray.
    """

    def __init__(self, spec: EngineSpec, *, end_process: Callable[[int], object] = os._exit) -> None:
        self._spec = spec
        self._end_process = end_process
        self._llm: Any = None
        self._sampling_kinds: Any = None
        self._starting = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._closed = False
        self._started_at = 0.0
        self._running = self._completed = self._failed = 0
        self._input_tokens = self._cached_tokens = self._output_tokens = 0

    async def __aenter__(self) -> Self:
        await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ready(self) -> EngineStatistics:
        """Start if that has not happened (20 to 100 s on a CPU) and say what is running.

        Raises:
            ModelNotFound: there is no such model.
            EngineUnusable: vLLM does not start with it.
        """
        async with self._starting:
            if self._closed:
                raise EngineUnusable(self._spec.model_source.name, "it was closed", "ask for a new engine")
            if self._llm is None:
                self._llm = await self._loaded()
                self._started_at = time.monotonic()
                self._watch = asyncio.create_task(self._end_with_the_core())
        return await self.statistics()

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Answer one request.

        Raises:
            ModelRefused: the request is at fault.
            EngineDied: the core ended; so will this process.
            ModelNotFound, EngineUnusable: as `ready`.
        """
        await self.ready()
        self._running += 1
        try:
            reply = await self._generate(request)
        except ModelError:
            self._failed += 1
            raise
        finally:
            self._running -= 1
        self._completed += 1
        return reply

    async def statistics(self) -> EngineStatistics:
        """Counts since the start; answers while the model is loading too."""
        return EngineStatistics(
            key=self._spec.key,
            model=self._spec.model_source.name,
            dedicated_to=self._spec.dedicated_to,
            pid=os.getpid(),
            ready=self._llm is not None,
            uptime_s=time.monotonic() - self._started_at if self._started_at else 0.0,
            running=self._running,
            completed=self._completed,
            failed=self._failed,
            input_tokens=self._input_tokens,
            cached_tokens=self._cached_tokens,
            output_tokens=self._output_tokens,
        )

    async def close(self) -> None:
        """End the core process. May be called twice."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        if self._llm is not None:
            llm, self._llm = self._llm, None
            # In this thread: vLLM's reader in the event loop must not see its core go, or it reports a crash.
            llm.shutdown()

    async def _loaded(self) -> Any:
        try:
            return await asyncio.to_thread(self._load)
        except EngineDied:
            # Killed, or not able to start: vLLM says the same of both, so the second try decides.
            try:
                return await asyncio.to_thread(self._load)
            except EngineDied as error:
                name = self._spec.model_source.name
                raise EngineUnusable(name, error.why, "see the actor's log for vLLM's own words") from error

    def _load(self) -> Any:
        name = self._spec.model_source.name
        model = self._locate()
        try:
            from vllm import AsyncEngineArgs, sampling_params
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineUnusable(name, str(error), "install enchanted-swarm[cpu], or [gpu]") from error
        self._sampling_kinds = sampling_params
        try:
            llm = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **_engine_arguments(self._spec)))
        except Exception as error:
            # The boundary to vLLM: its errors must not travel, since un-pickling one imports vLLM in each client.
            raise _start_error(name, model, error) from None
        if not getattr(llm.get_tokenizer(), "chat_template", None):
            llm.shutdown()
            raise EngineUnusable(name, "it has no chat template", "choose an instruction-tuned model")
        return llm

    def _locate(self) -> str:
        source = self._spec.model_source
        if source.kind == BUNDLED:
            return str(prepare_bundled_model(Path(self._spec.models_folder)))
        if not _is_path(source.model):
            return source.model
        folder = Path(source.model).expanduser()
        if not (folder / "config.json").is_file():
            why = "the folder has no config.json" if folder.is_dir() else "there is no such folder"
            raise ModelNotFound(
                source.model, f"{folder} ({why})", "give a Hugging Face model folder that this node can read"
            )
        return str(folder)

    async def _generate(self, request: ModelRequest) -> ModelReply:
        prompt = self._prompt(request)
        started = time.perf_counter()
        first = 0.0
        pieces: list[str] = []
        output_tokens = 0
        finish_reason = ""
        log_probability = 0.0
        try:
            async for part in self._llm.generate(prompt, self._sampling(request), uuid4().hex):
                first = first or time.perf_counter()
                output = part.outputs[0]
                pieces.append(output.text)
                output_tokens += len(output.token_ids)
                finish_reason = output.finish_reason or finish_reason
                log_probability = output.cumulative_logprob or log_probability
                cached_tokens = part.num_cached_tokens or 0
        except Exception as error:
            # The boundary to vLLM, as above.
            raise self._request_error(error) from None
        ended = time.perf_counter()
        input_tokens = len(prompt["prompt_token_ids"])
        self._input_tokens += input_tokens
        self._cached_tokens += cached_tokens
        self._output_tokens += output_tokens
        return ModelReply(
            text=_escape_controls("".join(pieces)) if request.schema else "".join(pieces),
            finish_reason=finish_reason or "stop",
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            duration_ms=(ended - started) * 1000,
            time_to_first_token_ms=(first - started) * 1000,
            model=self._spec.model_source.name,
            probability=math.exp(log_probability),
        )

    def _prompt(self, request: ModelRequest) -> dict[str, list[int]]:
        tokenizer = self._llm.get_tokenizer()
        text = tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in request.messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        tokens = tokenizer.encode(text, add_special_tokens=False)
        if len(tokens) >= self._spec.max_model_len:
            raise ModelRefused(
                self._spec.model_source.name,
                f"its {len(tokens)} tokens of prompt leave no room in a context of {self._spec.max_model_len}",
                "shorten the messages or raise max_model_len",
            )
        return {"prompt_token_ids": tokens}

    def _sampling(self, request: ModelRequest) -> Any:
        kinds = self._sampling_kinds
        return kinds.SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            output_kind=kinds.RequestOutputKind.DELTA,
            logprobs=0,
            structured_outputs=None if request.schema is None else kinds.StructuredOutputsParams(json=request.schema),
        )

    def _request_error(self, error: Exception) -> ModelError:
        name = self._spec.model_source.name
        if self._llm is None or self._llm.errored:
            self._end_soon()
            return EngineDied(name, type(error).__name__)
        why = f"{error.__cause__ or error}"
        return ModelRefused(name, why.splitlines()[0][:300] if why else type(error).__name__)

    async def _end_with_the_core(self) -> None:
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if self._llm.errored:
                self._end_soon()
                return

    def _end_soon(self) -> None:
        asyncio.get_running_loop().call_later(EXIT_AFTER_S, self._end_process, 1)


def _engine_arguments(spec: EngineSpec) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_num_seqs,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        # After the schema's mask: what is forced counts as certain.
        "logprobs_mode": "processed_logprobs",
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "served_model_name": spec.model_source.name,
    }
    if spec.on_gpu:
        return arguments | {
            "tensor_parallel_size": max(1, int(spec.num_gpus)),
            "gpu_memory_utilization": spec.gpu_memory_utilization * min(1.0, spec.num_gpus),
        }
    # bfloat16, which "auto" would choose, is 3 times slower without AVX512; compiling costs 100 s at each start.
    return arguments | {"dtype": "float32", "enforce_eager": True}


def _start_error(name: str, model: str, error: Exception) -> ModelError:
    why = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    if _CORE_GONE in why:
        return EngineDied(name, why)
    if isinstance(error, OSError) or "is not a valid model identifier" in str(error) or "Repository Not Found" in why:
        return ModelNotFound(name, f"{model} ({why})", "check the name, or give a folder that this node can read")
    return EngineUnusable(name, why, "see the actor's log for vLLM's own words; lower max_model_len if memory is short")


def _escape_controls(compact_json: str) -> str:
    """xgrammar lets raw control characters into strings, which JSON forbids; elsewhere compact JSON has none."""
    return compact_json.translate({number: f"\\u{number:04x}" for number in range(0x20)})


def _is_path(model: str) -> bool:
    return model.startswith(("/", "~", ".")) or Path(model).is_dir()
