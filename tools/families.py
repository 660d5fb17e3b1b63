#!/usr/bin/env python3
"""A tiny random model of every family lowkey runs, of transformers' own classes.

    python tools/families.py NAME... [-o tests/golden]   make tests/golden/family_NAME.json anew (all without NAME)

A golden holds all that C++ needs to write the same model again, as a Hugging Face folder and as a GGUF
(tests/support/family_model.h), and the logits transformers computes with it. So ./dev test needs no Python.

How weights come about, the contract with C++: SplitMix64(FNV-1a-64 of the tensor's Hugging Face name, xor the
seed), row by row, each value one uniform():  float(offset + amplitude * (uniform() * 2 - 1)), in double. The
golden's table says offset and amplitude of each tensor; rule_of() here chooses them.
"""

import argparse
import dataclasses
import fnmatch
import hashlib
import json
import math
import os
import pathlib
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import family_gguf
import family_packed
import numpy as np
import torch
import transformers
from make_goldens import describe_logits, logits_of
from reference import GOLDEN, ids_sha256, write_golden
from safetensors import safe_open
from tiny_model import END_OF_TEXT, IM_END, SplitMix64, TinyModel, TinyModelOptions, safetensors_bytes, write_json

VOCAB = 304
TOKENS = 96  # past every window and every original context below
LAST = 16  # positions of which all logits are held; of the others every fourth
WINDOW = 24  # no multiple of a page
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@dataclasses.dataclass(frozen=True)
class Family:
    model_type: str
    options: dict
    # Keys of config.json as checkpoints on the hub have it, written by transformers 4 or older.
    published: str
    # Prefixes of tensor names that hub checkpoints have otherwise: [ours, theirs].
    published_names: tuple = ()
    published_copies: dict = dataclasses.field(default_factory=dict)  # a tied head all the same in the file
    gguf: bool = True
    attention: str = "eager"


LLAMA_KEYS = (
    "architectures bos_token_id eos_token_id hidden_act hidden_size initializer_range intermediate_size "
    "max_position_embeddings model_type num_attention_heads num_hidden_layers num_key_value_heads rms_norm_eps "
    "rope_scaling rope_theta tie_word_embeddings torch_dtype use_cache vocab_size"
)
QWEN2_KEYS = (
    "architectures attention_dropout bos_token_id eos_token_id hidden_act hidden_size initializer_range "
    "intermediate_size max_position_embeddings max_window_layers model_type num_attention_heads num_hidden_layers "
    "num_key_value_heads rms_norm_eps rope_theta sliding_window tie_word_embeddings torch_dtype use_cache "
    "use_sliding_window vocab_size"
)
QWEN3_KEYS = f"{QWEN2_KEYS} attention_bias head_dim rope_scaling"
QWEN3_MOE_KEYS = (
    f"{QWEN3_KEYS} decoder_sparse_step mlp_only_layers moe_intermediate_size norm_topk_prob num_experts "
    "num_experts_per_tok output_router_logits router_aux_loss_coef"
)
GEMMA_KEYS = (
    "architectures attention_bias attention_dropout bos_token_id eos_token_id head_dim hidden_act hidden_size "
    "initializer_range intermediate_size max_position_embeddings model_type num_attention_heads num_hidden_layers "
    "num_key_value_heads pad_token_id rms_norm_eps rope_theta torch_dtype use_cache vocab_size"
)
GEMMA2_KEYS = (
    "architectures attention_bias attention_dropout attn_logit_softcapping bos_token_id eos_token_id "
    "final_logit_softcapping head_dim hidden_activation hidden_size initializer_range intermediate_size "
    "max_position_embeddings model_type num_attention_heads num_hidden_layers num_key_value_heads pad_token_id "
    "query_pre_attn_scalar rms_norm_eps rope_theta sliding_window torch_dtype use_cache vocab_size"
)
FALCON_KEYS = (
    "alibi architectures attention_dropout bias bos_token_id eos_token_id hidden_dropout hidden_size "
    "initializer_range layer_norm_epsilon model_type multi_query new_decoder_architecture num_attention_heads "
    "num_hidden_layers parallel_attn torch_dtype use_cache vocab_size"
)
PHI3_KEYS = (
    "architectures attention_dropout bos_token_id embd_pdrop eos_token_id hidden_act hidden_size initializer_range "
    "intermediate_size max_position_embeddings model_type num_attention_heads num_hidden_layers "
    "num_key_value_heads original_max_position_embeddings pad_token_id resid_pdrop rms_norm_eps rope_scaling "
    "rope_theta sliding_window tie_word_embeddings torch_dtype use_cache vocab_size"
)
SMOLLM3_KEYS = (
    "architectures attention_bias attention_dropout bos_token_id eos_token_id hidden_act hidden_size "
    "initializer_range intermediate_size layer_types max_position_embeddings max_window_layers mlp_bias model_type "
    "no_rope_layer_interval no_rope_layers num_attention_heads num_hidden_layers num_key_value_heads pad_token_id "
    "rms_norm_eps rope_scaling rope_theta sliding_window torch_dtype use_cache use_sliding_window vocab_size"
)

DECODER = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
}
GEMMA = {
    **DECODER,
    **{"hidden_size": 48, "head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16},
    # Low enough that scores and logits of a tiny model feel them.
    **{"attn_logit_softcapping": 4.0, "final_logit_softcapping": 8.0},
}
FALCON = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
QWEN3_MOE = {
    **DECODER,
    **{"hidden_size": 48, "head_dim": 16, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 3},
}

FAMILIES = {
    "llama": Family(
        "llama",
        {**DECODER, "num_key_value_heads": 4},
        # Llama 1's have neither.
        LLAMA_KEYS.replace("num_key_value_heads ", "").replace("rope_theta ", ""),
    ),
    "llama3": Family(
        "llama",
        {
            **DECODER,
            **{"head_dim": 32, "tie_word_embeddings": True},
            "rope_parameters": {
                **{"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0},
                **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
            },
        },
        f"{LLAMA_KEYS} head_dim attention_bias mlp_bias",
    ),
    "mistral": Family(
        "mistral",
        {**DECODER, "head_dim": 32, "sliding_window": None, "rope_parameters": {**PLAIN_ROPE, "rope_theta": 1e6}},
        f"{LLAMA_KEYS} head_dim sliding_window",
    ),
    # As Mistral 7B v0.1. llama.cpp's converter writes no window for it.
    "mistral_window": Family(
        "mistral",
        {**DECODER, "sliding_window": WINDOW, "rope_parameters": PLAIN_ROPE},
        f"{LLAMA_KEYS} sliding_window",
        gguf=False,
    ),
    "mixtral": Family(
        "mixtral",
        {
            **DECODER,
            **{"hidden_size": 48, "intermediate_size": 32, "num_attention_heads": 3, "num_key_value_heads": 1},
            **{"num_local_experts": 4, "num_experts_per_tok": 2},
            "rope_parameters": {**PLAIN_ROPE, "rope_theta": 1e6},
        },
        f"{LLAMA_KEYS} num_experts_per_tok num_local_experts output_router_logits router_aux_loss_coef sliding_window",
    ),
    "falcon_7b": Family(
        "falcon",
        {**FALCON, "multi_query": True},
        FALCON_KEYS,
        published_copies={"lm_head.weight": "transformer.word_embeddings.weight"},
    ),
    "falcon_40b": Family(
        "falcon",
        {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
        f"{FALCON_KEYS} num_kv_heads",
        published_copies={"lm_head.weight": "transformer.word_embeddings.weight"},
    ),
    # As Falcon 2's 11B: one norm for both.
    "falcon_11b": Family(
        "falcon",
        {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1},
        f"{FALCON_KEYS} num_kv_heads num_ln_in_parallel_attn ffn_hidden_size max_position_embeddings rope_theta",
    ),
    # Six heads: not a power of two, and slopes that bfloat16, in which transformers computes them, holds exactly.
    # Not eager attention, which adds ALiBi twice: to the scores, and with the mask (sdpa is everyone's default).
    "falcon_rw": Family(
        "falcon",
        {
            **FALCON,
            **{"hidden_size": 96, "num_attention_heads": 6, "alibi": True, "bias": True},
            **{"multi_query": False, "parallel_attn": False},
        },
        FALCON_KEYS,
        gguf=False,
        attention="sdpa",
    ),
    "qwen2": Family("qwen2", {**DECODER, "tie_word_embeddings": True}, QWEN2_KEYS),
    "qwen2_yarn": Family(
        "qwen2",
        {
            **DECODER,
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256},
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0},
                "original_max_position_embeddings": 64,
            },
        },
        f"{QWEN2_KEYS} rope_scaling",
    ),
    # Layers from the second on see a window.
    "qwen2_window": Family(
        "qwen2",
        {**DECODER, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        QWEN2_KEYS,
        gguf=False,
    ),
    "opt": Family(
        "opt",
        {
            **{"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 96, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "max_position_embeddings": 128},
        },
        "_remove_final_layer_norm activation_function architectures attention_dropout bos_token_id "
        "do_layer_norm_before dropout eos_token_id ffn_dim hidden_size init_std layerdrop max_position_embeddings "
        "model_type num_attention_heads num_hidden_layers pad_token_id torch_dtype use_cache vocab_size "
        "word_embed_proj_dim",
        published_names=(("model.decoder.", "decoder."),),
        gguf=False,
    ),
    "qwen3": Family(
        "qwen3", {**DECODER, "head_dim": 32, "rope_parameters": {**PLAIN_ROPE, "rope_theta": 1e6}}, QWEN3_KEYS
    ),
    "qwen3_moe": Family("qwen3_moe", {**QWEN3_MOE, "norm_topk_prob": True}, QWEN3_MOE_KEYS),
    # A layer without experts, and weights of the chosen ones as they are: llama.cpp knows neither here.
    "qwen3_moe_mixed": Family(
        "qwen3_moe", {**QWEN3_MOE, "mlp_only_layers": [0], "norm_topk_prob": False}, QWEN3_MOE_KEYS, gguf=False
    ),
    "gemma": Family(
        "gemma", {**DECODER, "hidden_size": 48, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh"}, GEMMA_KEYS
    ),
    "gemma2": Family("gemma2", GEMMA, GEMMA2_KEYS),
    # Scores scaled by another width than a head's, as the 27B: GGUF has no key for it.
    "gemma2_scale": Family("gemma2", {**GEMMA, "query_pre_attn_scalar": 12}, GEMMA2_KEYS, gguf=False),
    "gemma3": Family(
        "gemma3_text",
        {
            **DECODER,
            **{"num_key_value_heads": 1, "head_dim": 16, "num_hidden_layers": 6, "intermediate_size": 64},
            **{"sliding_window": WINDOW, "query_pre_attn_scalar": 16},
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": PLAIN_ROPE,
            },
        },
        f"{GEMMA2_KEYS} rope_local_base_freq rope_scaling sliding_window_pattern",
    ),
    "phi3": Family("phi3", {**DECODER, "sliding_window": 40, "original_max_position_embeddings": 512}, PHI3_KEYS),
    # As Phi-4-mini: part of each head is rotated, and tied. Texts end within the original context, where the short
    # factors hold: a cached key cannot change its factor, so lowkey leaves longer ones out.
    "phi3_longrope": Family(
        "phi3",
        {
            **DECODER,
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
            **{"original_max_position_embeddings": 256, "max_position_embeddings": 1024},
            "rope_parameters": {
                **{"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
                "long_factor": [round(1.0 + 0.35 * i, 2) for i in range(12)],
                "short_factor": [round(1.0 + 0.05 * i, 2) for i in range(12)],
            },
        },
        f"{PHI3_KEYS} partial_rotary_factor",
    ),
    "smollm3": Family(
        "smollm3",
        {
            **DECODER,
            **{"num_key_value_heads": 1, "num_hidden_layers": 5, "intermediate_size": 64},
            "rope_parameters": {**PLAIN_ROPE, "rope_theta": 5e6},
        },
        SMOLLM3_KEYS,
    ),
    # Another choice of layers than every fourth, which is all that llama.cpp knows.
    "smollm3_layers": Family(
        "smollm3", {**DECODER, "num_hidden_layers": 3, "no_rope_layers": [0, 1, 0]}, SMOLLM3_KEYS, gguf=False
    ),
}


def fnv1a_64(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def rule_of(model_type: str, name: str, shape: list[int]) -> tuple[float, float]:
    """offset, amplitude."""
    if name.endswith("bias"):
        return 0.0, 0.25
    if len(shape) == 1:  # a norm's, around where it does nothing
        return (0.0 if model_type.startswith("gemma") else 1.0), 0.25
    if "embed" in name or name.startswith("lm_head"):
        return 0.0, 0.5
    unit = math.sqrt(3.0 / shape[1])  # outputs of unit variance
    if name.endswith(("mlp.gate.weight", "block_sparse_moe.gate.weight")):
        return 0.0, 3.0 * unit  # routers that are not in doubt
    if any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "query_key_value")):
        return 0.0, 1.5 * unit  # attention that looks at something
    return 0.0, unit


def expand(seed: int, name: str, shape: list[int], offset: float, amplitude: float) -> np.ndarray:
    x = SplitMix64(fnv1a_64(name) ^ seed).uniform(math.prod(shape)) * 2.0 - 1.0
    return (offset + amplitude * x).astype(np.float32).reshape(shape)


def published_config(family: Family, config: dict) -> dict:
    """config.json as transformers 4 published it, of what transformers 5 writes."""
    known = {**config, "torch_dtype": config["dtype"]}
    known.setdefault("max_window_layers", 28)  # of no meaning without use_sliding_window
    rope = dict(config.get("rope_parameters") or PLAIN_ROPE)
    if "full_attention" in rope:
        known["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        known["sliding_window_pattern"] = 6
        rope = dict(rope["full_attention"])
    known["rope_theta"] = rope.pop("rope_theta")
    known["partial_rotary_factor"] = rope.pop("partial_rotary_factor", 1.0)
    known["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if rope["rope_type"] in ("yarn", "longrope"):  # the key's name before there was llama3
        rope["type"] = rope.pop("rope_type")
    if rope.get("type") == "longrope":
        rope.pop("original_max_position_embeddings", None)  # beside, not within
    known["num_experts"] = config.get("num_local_experts")
    return {key: known[key] for key in family.published.split()}


class FamilyModel:
    def __init__(self, name: str):
        self.name, self.family = name, FAMILIES[name]
        self.seed = fnv1a_64(name) >> 32
        transformers.utils.logging.disable_progress_bar()
        special = {"bos_token_id": END_OF_TEXT, "eos_token_id": IM_END, "pad_token_id": IM_END}
        config = transformers.AutoConfig.for_model(
            self.family.model_type, vocab_size=VOCAB, **special, **self.family.options
        )
        model = transformers.AutoModelForCausalLM.from_config(config)
        # What a checkpoint has is not what the model in memory has: experts, above all.
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            self.config = json.loads((pathlib.Path(folder) / "config.json").read_text())
            with safe_open(f"{folder}/model.safetensors", "np") as file:
                shapes = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        del self.config["transformers_version"]
        self.table = [
            [key, shape, *rule_of(self.family.model_type, key, shape)] for key, shape in sorted(shapes.items())
        ]
        self.tensors = {row[0]: expand(self.seed, *row) for row in self.table}

    def spellings(self) -> dict[str, dict]:
        """One model, as different versions of its software write it down."""
        return {
            "transformers 5": {"config": self.config, "names": [], "copies": {}},
            "published": {
                "config": published_config(self.family, self.config),
                "names": [list(pair) for pair in self.family.published_names],
                "copies": self.family.published_copies,
            },
        }

    def write_hugging_face(self, folder: pathlib.Path, spelling: str = "transformers 5") -> None:
        said = self.spellings()[spelling]
        TinyModel(TinyModelOptions(vocab=VOCAB, layers=0)).write_hugging_face(folder)  # for its tokenizer
        write_json(folder / "config.json", said["config"])
        tensors = {renamed(name, said["names"]): values for name, values in self.tensors.items()}
        tensors.update({copy: self.tensors[of] for copy, of in said["copies"].items()})
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, "F32"))

    def gguf(self) -> dict | None:
        return family_gguf.describe(self.config, self.tensors) if self.family.gguf else None

    def write_gguf(self, path: pathlib.Path) -> None:
        description = self.gguf()
        if description is None:
            raise SystemExit(f"{self.name}: llama.cpp has no GGUF of it")
        family_gguf.write(description, self.tensors, path, VOCAB)

    def transformers_model(self, spelling: str = "transformers 5") -> transformers.PreTrainedModel:
        """Read as any checkpoint is, and strictly so."""
        with tempfile.TemporaryDirectory() as folder:
            self.write_hugging_face(pathlib.Path(folder), spelling)
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation=self.family.attention, output_loading_info=True
            )
        wrong = {key: value for key, value in report.items() if value}
        if wrong:
            raise SystemExit(f"{self.name} ({spelling}): transformers reads it otherwise: {wrong}")
        return model.eval()

    def ids(self) -> list[int]:
        return [(37 * i * i + 11 * i + 5) % VOCAB for i in range(TOKENS)]


def renamed(name: str, prefixes: list) -> str:
    for ours, theirs in prefixes:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def check_routers(name: str, model: transformers.PreTrainedModel, ids: list[int]) -> None:
    """A choice of experts that rounding can turn would be no golden."""
    if not hasattr(model.config, "num_experts_per_tok"):
        return
    with torch.inference_mode():
        routers = model(torch.tensor([ids]), output_router_logits=True, use_cache=False).router_logits
    for logits in routers:
        ranked = logits.sort(-1, descending=True).values
        chosen = model.config.num_experts_per_tok
        margin = (ranked[:, chosen - 1] - ranked[:, chosen]).min().item()
        if margin < 1e-4:
            raise SystemExit(f"{name}: a router leaves a margin of only {margin:.1e}: choose another seed")


def sha256_of(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make(name: str, folder: pathlib.Path) -> None:
    family = FamilyModel(name)
    ids = family.ids()
    model = family.transformers_model()
    check_routers(name, model, ids)
    logits = logits_of(model, ids)
    for spelling in family.spellings():
        again = logits_of(family.transformers_model(spelling), ids)
        if not torch.equal(logits, again):
            raise SystemExit(f"{name}: as {spelling!r} transformers computes other logits")
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = pathlib.Path(scratch_name)
        family.write_hugging_face(scratch / "hf")
        sha256 = {"model.safetensors": sha256_of(scratch / "hf" / "model.safetensors")}
        if family.family.gguf:
            family.write_gguf(scratch / "model.gguf")
            sha256["model.gguf"] = sha256_of(scratch / "model.gguf")
    positions = sorted({*range(0, TOKENS, 4), *range(TOKENS - LAST, TOKENS)})
    content = {
        **{"name": name, "vocab": VOCAB, "seed": family.seed, "spellings": family.spellings()},
        **{"tensors": family.table, "gguf": family.gguf(), "sha256": sha256},
        **{"ids_sha256": ids_sha256(ids), "ids": ids, "positions": positions},
        **describe_logits(logits[positions], samples=16, digits=5),
        "packed": family_packed.measure(model, ids, positions),
    }
    write_golden(folder / golden_name(name), "tools/families.py", content)


def golden_name(name: str) -> str:
    return f"family_{name}.json"


def make_all(folder: pathlib.Path, patterns: tuple[str, ...] = ("*",)) -> None:
    torch.set_num_threads(1)  # nothing here is large enough for two
    transformers.utils.logging.set_verbosity_error()
    for name in FAMILIES:
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            make(name, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=("*",), help="patterns, as 'gemma*'")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=GOLDEN, help="folder")
    args = parser.parse_args()
    make_all(args.output, tuple(args.names))


if __name__ == "__main__":
    main()
