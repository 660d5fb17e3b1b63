"""The GGUF that llama.cpp's converter makes of a Hugging Face checkpoint, said as data.

describe() gives {"metadata": [[key, type, value]], "tensors": [[name, shape, how]]}. How a tensor comes about is a
small expression over the checkpoint's, which evaluate() here and tests/support/family_model.cc both work out:

    "NAME"                        the tensor of that Hugging Face name
    ["values", [1.0, 2.0]]        these numbers
    ["permute", heads, X]         each head's two halves of rows become alternating rows
    ["rows", [[first, end]], X]   those rows, one run after another
    ["plus", 1.0, X]
    ["stack", X, Y]               under a new outermost dimension

Names are those of the package gguf's own tables. Kept as the converter has it: Q and K of llama and smollm3 are
permuted, Gemma's norms hold 1 more, Falcon's fused matrix has all queries, then all keys, then all values.
"""

import math
import pathlib

import gguf
import numpy as np
from tiny_model import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START, MERGES, vocabulary

ARCHITECTURES = {
    **{"llama": "llama", "mistral": "llama", "mixtral": "llama", "falcon": "falcon", "qwen2": "qwen2"},
    **{"qwen3": "qwen3", "qwen3_moe": "qwen3moe", "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3"},
    **{"phi3": "phi3", "smollm3": "smollm3"},
}
EXPERT_PARTS = {  # of one layer; the names the converter merges them under
    "mixtral": {part: f"layers.{{}}.feed_forward.experts.{part}" for part in ("w1", "w2", "w3")},
    "qwen3_moe": {part: f"model.layers.{{}}.mlp.experts.{part}" for part in ("gate_proj", "up_proj", "down_proj")},
}


def head_dim(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def rope_of(config: dict) -> dict:
    rope = config["rope_parameters"]
    return rope.get("full_attention", rope)


def rotated_channels(config: dict) -> int:
    return int(head_dim(config) * rope_of(config).get("partial_rotary_factor", 1.0))


def llama3_divisors(config: dict) -> list[float]:
    rope, dim = rope_of(config), head_dim(config)
    divisors = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = (rope["original_max_position_embeddings"] / wavelength - low) / (high - low)
        smooth = min(max(smooth, 0.0), 1.0)
        divisors.append(float(np.float32(1 / ((1 - smooth) / rope["factor"] + smooth))))
    return divisors


def scaling_metadata(config: dict) -> list:
    rope = rope_of(config)
    kind, factor = rope["rope_type"], rope.get("factor")
    if kind == "linear":
        return [["rope.scaling.type", "string", "linear"], ["rope.scaling.factor", "f32", factor]]
    if kind == "yarn":
        return [
            ["rope.scaling.type", "string", "yarn"],
            ["rope.scaling.factor", "f32", factor],
            ["rope.scaling.original_context_length", "u32", rope["original_max_position_embeddings"]],
        ]
    if kind == "longrope":
        original = config["original_max_position_embeddings"]
        scale = config["max_position_embeddings"] / original
        attention = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        return [["rope.scaling.attn_factor", "f32", attention]]
    return []  # llama3: a tensor of divisors


def metadata(config: dict) -> list:
    family, heads = config["model_type"], config["num_attention_heads"]
    if family == "falcon":
        kv_heads = (config["num_kv_heads"] if config["new_decoder_architecture"] else 1) or 1
        return [
            ["context_length", "u32", 2048],  # whatever the configuration says
            ["tensor_data_layout", "string", "jploski"],
            ["embedding_length", "u32", config["hidden_size"]],
            ["feed_forward_length", "u32", 4 * config["hidden_size"]],
            ["block_count", "u32", config["num_hidden_layers"]],
            ["attention.head_count", "u32", heads],
            ["attention.head_count_kv", "u32", kv_heads],
            ["attention.layer_norm_epsilon", "f32", config["layer_norm_epsilon"]],
        ]
    rows = [
        ["block_count", "u32", config["num_hidden_layers"]],
        ["context_length", "u32", config["max_position_embeddings"]],
        ["embedding_length", "u32", config["hidden_size"]],
        ["feed_forward_length", "u32", config["intermediate_size"]],
        ["attention.head_count", "u32", heads],
        ["attention.head_count_kv", "u32", config["num_key_value_heads"]],
        ["attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"]],
        *scaling_metadata(config),
    ]
    if family not in ("gemma", "gemma2"):  # their base is what readers assume
        rows.append(["rope.freq_base", "f32", rope_of(config)["rope_theta"]])
    if config.get("num_local_experts"):
        rows.append(["expert_count", "u32", config["num_local_experts"]])
        rows.append(["expert_used_count", "u32", config["num_experts_per_tok"]])
    if config.get("moe_intermediate_size"):
        rows.append(["expert_feed_forward_length", "u32", config["moe_intermediate_size"]])
    if config.get("head_dim"):
        rows.append(["attention.key_length", "u32", config["head_dim"]])
        rows.append(["attention.value_length", "u32", config["head_dim"]])
    if ARCHITECTURES[family] in ("llama", "smollm3"):
        rows.append(["vocab_size", "u32", config["vocab_size"]])
        rows.append(["rope.dimension_count", "u32", head_dim(config)])
    if family == "phi3":
        rows.append(["rope.dimension_count", "u32", rotated_channels(config)])
        rows.append(["rope.scaling.original_context_length", "u32", config["original_max_position_embeddings"]])
        rows.append(["attention.sliding_window", "u32", config["sliding_window"] or 0])
    if family in ("gemma2", "gemma3_text"):
        rows.append(["attention.sliding_window", "u32", config["sliding_window"]])
    if family == "gemma2":
        rows.append(["attn_logit_softcapping", "f32", config["attn_logit_softcapping"]])
        rows.append(["final_logit_softcapping", "f32", config["final_logit_softcapping"]])
    return rows


def falcon_runs(config: dict, kv_heads: int) -> list[list[int]]:
    """Rows of the fused matrix, each group's queries, key and value, as runs: all queries, all keys, all values."""
    dim, group = head_dim(config), config["num_attention_heads"] // kv_heads
    first = [g * (group + 2) * dim for g in range(kv_heads)]
    queries = [[start, start + group * dim] for start in first]
    keys = [[start + group * dim, start + (group + 1) * dim] for start in first]
    values = [[start + (group + 1) * dim, start + (group + 2) * dim] for start in first]
    return queries + keys + values


def conversion(config: dict, name: str) -> object:
    family = config["model_type"]
    if ARCHITECTURES[family] in ("llama", "smollm3"):
        if name.endswith("q_proj.weight"):
            return ["permute", config["num_attention_heads"], name]
        if name.endswith("k_proj.weight"):
            return ["permute", config["num_key_value_heads"], name]
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return ["plus", 1.0, name]
    if name.endswith("query_key_value.weight"):
        kv_heads = config["num_kv_heads"] if config["new_decoder_architecture"] else 1
        return ["rows", falcon_runs(config, kv_heads), name]
    return name


def expert_stacks(config: dict, layer: int) -> list[tuple[str, list]]:
    theirs = {"mixtral": "model.layers.{}.block_sparse_moe", "qwen3_moe": "model.layers.{}.mlp"}
    stacks = []
    for part, merged in EXPERT_PARTS[config["model_type"]].items():
        names = [
            f"{theirs[config['model_type']].format(layer)}.experts.{expert}.{part}.weight"
            for expert in range(config["num_local_experts"])
        ]
        stacks.append((f"{merged.format(layer)}.weight", ["stack", *names]))
    return stacks


def tensor_expressions(config: dict, names: list[str]) -> list[tuple[str, object]]:
    """The names by which the converter looks them up in gguf's table, and what they are."""
    rows = [(name, conversion(config, name)) for name in names if ".experts." not in name]
    if config["model_type"] in EXPERT_PARTS:
        for layer in range(config["num_hidden_layers"]):
            rows += expert_stacks(config, layer)
    return rows


def describe(config: dict, tensors: dict[str, np.ndarray]) -> dict:
    architecture = ARCHITECTURES[config["model_type"]]
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    known = gguf.MODEL_TENSORS[number]
    table = []

    def add_constant(kind: gguf.MODEL_TENSOR, values: list[float]) -> None:
        assert kind in known
        table.append([f"{gguf.TENSOR_NAMES[kind]}.weight", [len(values)], ["values", values]])

    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        add_constant(gguf.MODEL_TENSOR.ROPE_FREQS, llama3_divisors(config))
    if rope["rope_type"] == "longrope":
        add_constant(gguf.MODEL_TENSOR.ROPE_FACTORS_LONG, rope["long_factor"])
        add_constant(gguf.MODEL_TENSOR.ROPE_FACTORS_SHORT, rope["short_factor"])
    for name, how in tensor_expressions(config, list(tensors)):
        kind, ours = names.get_type_and_name(name, try_suffixes=(".weight", ".bias"))
        assert kind in known, f"{architecture} has no {ours}"
        table.append([ours, list(evaluate(how, tensors).shape), how])
    general = [
        ["general.architecture", "string", architecture],
        ["general.name", "string", "tiny"],
        ["general.file_type", "u32", int(gguf.LlamaFileType.ALL_F32)],
    ]
    return {
        "metadata": general + [[f"{architecture}.{key}", *rest] for key, *rest in metadata(config)],
        "tensors": table,
    }


def evaluate(how: object, tensors: dict[str, np.ndarray]) -> np.ndarray:
    if isinstance(how, str):
        return tensors[how]
    operation, *arguments = how
    if operation == "values":
        return np.array(arguments[0], dtype=np.float32)
    if operation == "stack":
        return np.stack([evaluate(argument, tensors) for argument in arguments])
    x = evaluate(arguments[1], tensors)
    if operation == "permute":
        return x.reshape(arguments[0], 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)
    if operation == "rows":
        return np.concatenate([x[first:end] for first, end in arguments[0]])
    assert operation == "plus"
    return x + np.float32(arguments[0])


def write(description: dict, tensors: dict[str, np.ndarray], path: pathlib.Path, vocab: int) -> None:
    """The tokenizer as in tests/support/tiny_model.cc."""
    (_, _, architecture), *rest = description["metadata"]
    writer = gguf.GGUFWriter(path, architecture)
    for key, kind, value in rest:
        add = {"u32": writer.add_uint32, "f32": writer.add_float32, "string": writer.add_string}[kind]
        add(key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary(vocab))
    kinds = [1] * (IM_END + 1) + [5] * (vocab - IM_END - 1)  # normal; unused
    for special in (END_OF_TEXT, IM_START, IM_END):
        kinds[special] = 3  # control
    writer.add_token_types(kinds)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(IM_END)
    writer.add_pad_token_id(IM_END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, shape, how in description["tensors"]:
        values = np.ascontiguousarray(evaluate(how, tensors))
        assert list(values.shape) == shape
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
