from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enchanted.actors.models import errors as model_errors
from enchanted.actors.models.bundled import convert_once
from enchanted.actors.models.engine import Engine, EngineSpec, engine_environment
from enchanted.actors.models.errors import BadModelUrl, EngineUnusable, ModelNotFound
from enchanted.actors.models.gguf import convert_gguf
from enchanted.actors.models.model import ModelSource, parse_model_url
from enchanted.actors.models.tiny import HEAD_SIZE, HEADS, KV_HEADS, make_tiny_model


def test_the_three_kinds_of_model_url_are_read() -> None:
    assert parse_model_url("bundled") == ModelSource(kind="bundled", model="")
    assert parse_model_url("vllm:Qwen/Qwen3-8B") == ModelSource(kind="vllm", model="Qwen/Qwen3-8B")
    assert parse_model_url("openai:http://127.0.0.1:8001/v1/#big:7b") == ModelSource(
        kind="openai", base_url="http://127.0.0.1:8001/v1", model="big:7b"
    )


@pytest.mark.parametrize("url", ["bundled", "vllm:/models/one", "openai:https://host/v1#a#b"])
def test_a_model_url_is_what_its_source_writes(url: str) -> None:
    assert parse_model_url(url).url == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "neither vllm: nor openai:"),
        ("gpt-4", "neither vllm: nor openai:"),
        ("ollama:phi", "neither vllm: nor openai:"),
        ("vllm:", "nothing follows vllm:"),
        ("openai:localhost:8000#m", "neither http:// nor https://"),
        ("openai:http://localhost:8000/v1", "name of the model is missing"),
        ("openai:http://:8000/v1#m", "names no host"),
        ("openai:http://host:port/v1#m", "no host or port"),
        ("openai:http://[::1/v1#m", "no host or port"),
        ("openai:https://me:hidden@host/v1#m", "write the key into a file"),
        ("openai:https://me:hidden/too@host/v1#m", "no host or port"),
        ("openai:https://me:hidden?too@host/v1#m", "no host or port"),
        ("openai:me:hidden@host/v1#m", "neither http:// nor https://"),
        ("openai:https://host/v1?key=hidden#m", "write the key into a file"),
        ("openai:https://host/v1?#m", "write the key into a file"),
    ],
)
def test_a_url_of_no_model_says_what_is_wrong_and_what_to_write(url: str, why: str) -> None:
    with pytest.raises(BadModelUrl) as caught:
        parse_model_url(url)
    assert why in str(caught.value)
    assert "vllm:<hub id or folder>" in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("vllm:/models/Small-1B", "Small-1B"),
        ("vllm:org/Small-1B", "org/Small-1B"),
        ("openai:http://h/v1#gpt", "gpt"),
        ("bundled", "SmolLM2-135M-Instruct"),
    ],
)
def test_a_model_is_called_by_its_hub_id_or_by_the_last_part_of_its_folder(url: str, name: str) -> None:
    assert parse_model_url(url).name == name


def test_model_errors_survive_the_way_between_processes() -> None:
    errors = [
        BadModelUrl("x", "why"),
        ModelNotFound("m", "there", "fix it"),
        model_errors.ModelUnavailable("m", 3.0, "why", "fix it"),
        model_errors.ModelRefused("m", "why"),
        EngineUnusable("m", "why", "fix it"),
        model_errors.EngineDied("m", "why"),
    ]
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)


def test_equal_specs_share_a_key_and_any_difference_makes_another() -> None:
    source = parse_model_url("vllm:org/model")
    spec = EngineSpec(model_source=source, label_selector={"a": "1", "b": "2"})
    assert spec.key == EngineSpec(model_source=source, label_selector={"b": "2", "a": "1"}).key
    others = [
        EngineSpec(model_source=source),
        EngineSpec(model_source=source, dedicated_to="reviewer"),
        EngineSpec(model_source=source, num_gpus=1),
        EngineSpec(model_source=parse_model_url("vllm:org/other")),
    ]
    assert len({spec.key, *(other.key for other in others)}) == 5


def test_an_engine_on_gpus_gets_none_of_the_cpu_variables() -> None:
    source = parse_model_url("vllm:org/model")
    on_cpu = engine_environment(EngineSpec(model_source=source, threads=3))
    assert on_cpu["OMP_NUM_THREADS"] == "3"
    assert on_cpu["VLLM_CPU_KVCACHE_SPACE"] == "1"
    on_gpu = engine_environment(EngineSpec(model_source=source, num_gpus=1))
    assert {"OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE", "VLLM_ENABLE_V1_MULTIPROCESSING"}.isdisjoint(on_gpu)


def test_the_hub_is_asked_only_for_hub_ids(tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE" not in engine_environment(EngineSpec(model_source=parse_model_url("vllm:org/model")))
    for url in ("bundled", f"vllm:{tmp_path}"):
        assert engine_environment(EngineSpec(model_source=parse_model_url(url)))["HF_HUB_OFFLINE"] == "1"


async def test_a_folder_that_holds_no_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    for folder, why in ((tmp_path / "gone", "there is no such folder"), (tmp_path, "the folder has no config.json")):
        engine = Engine(EngineSpec(model_source=ModelSource(kind="vllm", model=str(folder))))
        with pytest.raises(ModelNotFound, match=why) as caught:
            await engine.ready()
        assert str(folder) in str(caught.value)
        await engine.close()
        await engine.close()


def test_the_tiny_model_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, second = make_tiny_model(tmp_path / "a"), make_tiny_model(tmp_path / "b")
    other = make_tiny_model(tmp_path / "c", seed=1)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (first, second, other)]
    assert weights[0] == weights[1] != weights[2]


def test_a_gguf_file_becomes_the_model_it_was_made_from(tmp_path: Path) -> None:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    original = make_tiny_model(tmp_path / "original")
    gguf = _write_gguf(original, tmp_path / "tiny.gguf")
    converted = tmp_path / "converted"
    converted.mkdir()
    steps: list[float] = []
    convert_gguf(gguf, converted, lambda _doing, fraction: steps.append(fraction))
    expected, weights = load_file(original / "model.safetensors"), load_file(converted / "model.safetensors")
    assert expected.keys() == weights.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(weights[name], values, err_msg=name)
    assert json.loads((converted / "config.json").read_text())["head_dim"] == HEAD_SIZE
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    before, after = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (original, converted))
    text = "<|im_start|>user\nnaïve 42 = x<|im_end|>"
    assert before.encode(text).ids == after.encode(text).ids
    assert after.decode(after.encode("naïve 42").ids) == "naïve 42"


def test_a_gguf_of_another_architecture_is_refused(tmp_path: Path) -> None:
    gguf = _write_gguf(make_tiny_model(tmp_path / "original"), tmp_path / "tiny.gguf", architecture="mamba")
    with pytest.raises(EngineUnusable, match="'mamba'"):
        convert_gguf(gguf, tmp_path, lambda _doing, _fraction: None)


def test_a_model_wanted_by_many_at_once_is_converted_once(tmp_path: Path) -> None:
    gguf = _write_gguf(make_tiny_model(tmp_path / "original"), tmp_path / "tiny.gguf")
    folder = tmp_path / "models" / "tiny"
    starts: list[str] = []

    def progress(doing: str, fraction: float) -> None:
        if fraction == 0.0:
            starts.append(doing)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: convert_once(gguf, folder, progress), range(4))) == {folder}
    assert len(starts) == 1
    assert (folder / "config.json").is_file()


def test_a_conversion_that_fails_leaves_no_half_model_behind(tmp_path: Path) -> None:
    gguf = _write_gguf(make_tiny_model(tmp_path / "original"), tmp_path / "bad.gguf", architecture="mamba")
    folder = tmp_path / "models" / "tiny"
    with pytest.raises(EngineUnusable):
        convert_once(gguf, folder, lambda _doing, _fraction: None)
    assert [path.name for path in folder.parent.iterdir()] == [".tiny.lock"]


def _write_gguf(model: Path, path: Path, *, architecture: str = "llama") -> Path:
    """What llama.cpp would make of a Hugging Face folder, rotary permutation included."""
    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    vocabulary: dict[str, int] = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer = GGUFWriter(path, architecture)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_key_length(config["head_dim"])
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    for name, values in load_file(model / "model.safetensors").items():
        writer.add_tensor(_gguf_name(name), _permuted(name, values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(name: str, values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
    if not heads:
        return values
    rows, columns = values.shape
    return np.ascontiguousarray(
        values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def _gguf_name(name: str) -> str:
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers": "blk",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for huggingface, gguf in names.items():
        name = name.replace(huggingface, gguf)
    return name
