#!/usr/bin/env python3
"""The tiny random Llama model of tests/support/tiny_model.h, in Python: same seed, same bytes.

    python tools/tiny_model.py FOLDER [--layers 2 --hidden 64 ...]   write a Hugging Face folder
    python tools/tiny_model.py --golden > tests/golden/tiny_model.json   make the golden anew

As a module: TinyModel(TinyModelOptions(...)).tensors() gives the weights as float32 arrays under
lowkey's names, .hugging_face_names() what they are called there, .write_hugging_face(folder) the
files. Needs numpy. The rule by which values come about is in tests/support/tiny_model.h.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import pathlib
import struct
import sys
import tempfile

import numpy as np

END_OF_TEXT, IM_START, IM_END = 288, 289, 290
MERGES = (
    "Ġ t|Ġ a|h e|i n|r e|o n|Ġt he|e r|Ġ s|a t|Ġ w|Ġ o|e n|Ġ c|i t|i s|a n|o r|e s|Ġ b|e d|Ġ f|"
    "in g|Ġ p|o u|Ġa n|a l|a r|Ġt o|Ġ m|Ġo f|Ġ in"
).split("|")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% endif %}"
)
ROPE_SCALING = {
    "none": None,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LINEARS = {  # lowkey's name: (Hugging Face's, rows, columns, which option gives it a bias)
    "q": ("self_attn.q_proj", "q", "hidden", "attention_bias"),
    "k": ("self_attn.k_proj", "kv", "hidden", "attention_bias"),
    "v": ("self_attn.v_proj", "kv", "hidden", "attention_bias"),
    "o": ("self_attn.o_proj", "hidden", "q", "attention_bias"),
    "gate": ("mlp.gate_proj", "ffn", "hidden", "mlp_bias"),
    "up": ("mlp.up_proj", "ffn", "hidden", "mlp_bias"),
    "down": ("mlp.down_proj", "hidden", "ffn", "mlp_bias"),
}


@dataclasses.dataclass
class TinyModelOptions:
    seed: int = 1
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    ffn: int = 128
    vocab: int = 320
    max_context: int = 512
    tied: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    rope_scaling: str = "none"
    dtype: str = "F32"
    shards: int = 1


class SplitMix64:
    """core/rng.h, many numbers at a time."""

    def __init__(self, seed):
        self.state = np.uint64(seed)

    def uniform(self, count):
        with np.errstate(over="ignore"):
            gamma = np.uint64(0x9E3779B97F4A7C15)
            z = self.state + np.arange(1, count + 1, dtype=np.uint64) * gamma
            self.state = self.state + np.uint64(count) * gamma
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def to_bfloat16_bits(values):
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def encode(values, dtype):
    """Little-endian bytes of float32 values in F32, F16 or BF16."""
    if dtype == "BF16":
        return to_bfloat16_bits(values).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def rounded(values, dtype):
    if dtype == "BF16":
        return (to_bfloat16_bits(values).astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float16).astype(np.float32) if dtype == "F16" else values


def byte_tokens():
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def vocabulary(size):
    assert size > IM_END
    tokens = byte_tokens() + [merge.replace(" ", "") for merge in MERGES]
    tokens += ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return tokens + [f"<|unused_{i}|>" for i in range(IM_END + 1, size)]


def write_json(path, value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def safetensors_bytes(tensors, dtype):
    """A whole file of float32 arrays by name, in their order."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        raw = encode(values, dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


class TinyModel:
    def __init__(self, options=None):
        self.options = options or TinyModelOptions()
        self._tensors, self._names = {}, {}
        self._rng = SplitMix64(self.options.seed)
        o = self.options
        sizes = {"hidden": o.hidden, "ffn": o.ffn, "q": o.heads * o.head_dim, "kv": o.kv_heads * o.head_dim}
        self._add("embed.weight", "model.embed_tokens.weight", (o.vocab, o.hidden), 0.0, 1.0)
        for layer in range(o.layers):
            ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."

            def norm(name, hf_name, ours=ours, theirs=theirs):
                self._add(f"{ours}{name}.weight", f"{theirs}{hf_name}.weight", (o.hidden,), 1.0, 0.1)

            def linear(name, ours=ours, theirs=theirs):
                hf_name, rows, columns, bias = LINEARS[name]
                rows, columns = sizes[rows], sizes[columns]
                self._add(
                    f"{ours}{name}.weight", f"{theirs}{hf_name}.weight", (rows, columns), 0.0, math.sqrt(3.0 / columns)
                )
                if getattr(o, bias):
                    self._add(f"{ours}{name}.bias", f"{theirs}{hf_name}.bias", (rows,), 0.0, 0.1)

            norm("attn_norm", "input_layernorm")
            for name in ("q", "k", "v", "o"):
                linear(name)
            norm("mlp_norm", "post_attention_layernorm")
            for name in ("gate", "up", "down"):
                linear(name)
        self._add("final_norm.weight", "model.norm.weight", (o.hidden,), 1.0, 0.1)
        if not o.tied:
            self._add("head.weight", "lm_head.weight", (o.vocab, o.hidden), 0.0, 1.0)

    def _add(self, name, hf_name, shape, offset, amplitude):
        x = self._rng.uniform(math.prod(shape)) * 2.0 - 1.0
        values = (offset + amplitude * x).astype(np.float32).reshape(shape)
        self._tensors[name] = rounded(values, self.options.dtype)
        self._names[name] = hf_name

    def tensors(self):
        """lowkey's names -> float32 arrays, rounded to the dtype."""
        return dict(self._tensors)

    def hugging_face_names(self):
        """lowkey's names -> Hugging Face's."""
        return dict(self._names)

    def config(self):
        o = self.options
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": o.attention_bias,
            "bos_token_id": END_OF_TEXT,
            "eos_token_id": IM_END,
            "head_dim": o.head_dim,
            "hidden_act": "silu",
            "hidden_size": o.hidden,
            "intermediate_size": o.ffn,
            "max_position_embeddings": o.max_context,
            "mlp_bias": o.mlp_bias,
            "model_type": "llama",
            "num_attention_heads": o.heads,
            "num_hidden_layers": o.layers,
            "num_key_value_heads": o.kv_heads,
            "rms_norm_eps": o.norm_eps,
            "rope_scaling": ROPE_SCALING[o.rope_scaling],
            "rope_theta": o.rope_base,
            "tie_word_embeddings": o.tied,
            "torch_dtype": TORCH_DTYPES[o.dtype],
            "vocab_size": o.vocab,
        }

    def tokenizer(self):
        tokens = vocabulary(self.options.vocab)
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        added = [
            {
                "id": i,
                "content": tokens[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i in (END_OF_TEXT, IM_START, IM_END)
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": MERGES,
            },
        }

    def write_hugging_face(self, folder):
        o = self.options
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.config())
        write_json(
            folder / "generation_config.json",
            {
                "bos_token_id": END_OF_TEXT,
                "do_sample": True,
                "eos_token_id": [IM_END, END_OF_TEXT],
                "pad_token_id": IM_END,
                "temperature": 0.75,
                "top_k": 40,
                "top_p": 0.9,
            },
        )
        write_json(folder / "tokenizer.json", self.tokenizer())
        write_json(
            folder / "tokenizer_config.json",
            {
                "add_bos_token": False,
                "bos_token": "<|endoftext|>",
                "chat_template": CHAT_TEMPLATE,
                "clean_up_tokenization_spaces": False,
                "eos_token": "<|im_end|>",
                "model_max_length": o.max_context,
                "pad_token": "<|im_end|>",
                "tokenizer_class": "PreTrainedTokenizerFast",
            },
        )
        names = list(self._tensors)
        weight_map, total = {}, 0
        for shard in range(o.shards):
            file = "model.safetensors" if o.shards == 1 else f"model-{shard + 1:05}-of-{o.shards:05}.safetensors"
            ours = {self._names[name]: self._tensors[name] for name in names[shard :: o.shards]}
            raw, size = safetensors_bytes(ours, o.dtype), sum(x.size for x in ours.values()) * DTYPE_BYTES[o.dtype]
            weight_map.update(dict.fromkeys(ours, file))
            (folder / file).write_bytes(raw)
            total += size
        if o.shards > 1:
            write_json(
                folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
            )


GOLDEN_OPTIONS = [
    {},
    {
        "seed": 2,
        "tied": False,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_scaling": "llama3",
        "dtype": "BF16",
        "shards": 3,
        "vocab": 300,
    },
    {
        "seed": 18446744073709551615,
        "layers": 1,
        "hidden": 48,
        "heads": 3,
        "kv_heads": 3,
        "head_dim": 32,
        "ffn": 80,
        "rope_scaling": "linear",
        "dtype": "F16",
        "rope_base": 500000.0,
        "norm_eps": 1e-6,
        "max_context": 1024,
    },
]


def golden():
    cases = []
    for options in GOLDEN_OPTIONS:
        with tempfile.TemporaryDirectory() as folder:
            TinyModel(TinyModelOptions(**options)).write_hugging_face(folder)
            files = {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(pathlib.Path(folder).iterdir())
            }
        cases.append({"options": options, "sha256": files})
    return {
        "command": "python tools/tiny_model.py --golden > tests/golden/tiny_model.json",
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__},
        "cases": cases,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--golden", action="store_true")
    for field in dataclasses.fields(TinyModelOptions):
        name = "--" + field.name.replace("_", "-")
        if field.type is bool or field.type == "bool":
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    args = vars(parser.parse_args())
    folder, wants_golden = args.pop("folder"), args.pop("golden")
    if wants_golden:
        json.dump(golden(), sys.stdout, indent=1)
        print()
    elif folder:
        TinyModel(TinyModelOptions(**args)).write_hugging_face(folder)
    else:
        parser.error("name a folder, or --golden")


if __name__ == "__main__":
    main()
