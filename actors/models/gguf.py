"""Turn a llama-style GGUF file into the folder vLLM loads: config, float32 weights, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enchanted.actors.models.errors import EngineUnusable

Progress = Callable[[str, float], None]
"""Told what is being done, and the fraction done so far."""

CONTROL_TOKEN = 3
"""GGUF's token type of special tokens such as <|im_start|>."""

_TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


def convert_gguf(source: Path, folder: Path, progress: Progress) -> None:
    """Write the model in `source` into the existing, empty `folder`. Takes about 10 s for 135M parameters.

    Raises:
        EngineUnusable: the `cpu` extra is not installed, or the file holds another architecture.
    """
    try:
        from gguf import GGUFReader
        from safetensors.numpy import save_file
    except ImportError as error:
        raise EngineUnusable(source.name, str(error), "install enchanted-swarm[cpu]") from error
    progress("reading the GGUF file", 0.0)
    reader = GGUFReader(source)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    architecture = str(metadata.get("general.architecture", "unknown"))
    if architecture != "llama":
        raise EngineUnusable(
            source.name, f"its architecture is {architecture!r}", "give a llama-style GGUF, or a Hugging Face folder"
        )
    config = _config(metadata, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    weights = dict(_weights(reader.tensors, config, progress))
    progress("writing the weights", 0.9)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    progress("writing the tokenizer", 0.95)
    _write_tokenizer(metadata, folder)
    progress("done", 1.0)


def _config(metadata: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    def value(key: str) -> Any:
        return metadata[f"llama.{key}"]

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": metadata.get(
            "llama.attention.key_length", value("embedding_length") // value("attention.head_count")
        ),
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.get("llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": tied,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "float32",
    }


def _weights(
    tensors: list[Any], config: dict[str, Any], progress: Progress
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    from gguf.quants import dequantize

    heads = {"attn_q.weight": config["num_attention_heads"], "attn_k.weight": config["num_key_value_heads"]}
    for done, tensor in enumerate(tensors):
        progress(f"unpacking {tensor.name}", 0.1 + 0.8 * done / len(tensors))
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        head_count = heads.get(tensor.name.partition(".")[2].partition(".")[2])
        if head_count is not None:
            values = _undo_rotary_permutation(values, head_count)
        yield _huggingface_name(tensor.name), np.ascontiguousarray(values)


def _undo_rotary_permutation(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp interleaves the two halves of each rotary head; Hugging Face keeps them apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _huggingface_name(name: str) -> str:
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    _, layer, part = name.split(".", 2)
    return f"model.layers.{layer}.{_IN_LAYER[part]}"


def _write_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges", [])]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_tokenizer_config(
        folder,
        chat_template=metadata.get("tokenizer.chat_template", ""),
        bos=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        eos=tokens[metadata["tokenizer.ggml.eos_token_id"]],
    )


def write_tokenizer_config(folder: Path, *, chat_template: str, bos: str, eos: str) -> None:
    """Write what Transformers wants beside tokenizer.json."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, default=lambda number: number.item()))
