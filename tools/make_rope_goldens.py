#!/usr/bin/env python3
"""Write tests/golden/rope.json: the rotary frequencies and angles of transformers' Llama, per kind of scaling."""

import argparse
import pathlib

import torch
from reference import GOLDEN, write_golden
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # Llama 3.2
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}  # Qwen2.5's
CASES = [
    {"head_dim": 64, "base": 100000.0, "scaling": {"rope_type": "default"}},
    {"head_dim": 8, "base": 10000.0, "scaling": {"rope_type": "default"}},
    {"head_dim": 128, "base": 10000.0, "scaling": {"rope_type": "linear", "factor": 4.0}},
    {"head_dim": 64, "base": 500000.0, "scaling": LLAMA3},
    {"head_dim": 128, "base": 500000.0, "scaling": {**LLAMA3, "factor": 8.0}},
    {"head_dim": 128, "base": 1000000.0, "scaling": YARN},
    {"head_dim": 64, "base": 10000.0, "scaling": {**YARN, "factor": 16.0, "beta_fast": 8.0, "beta_slow": 2.0}},
    {"head_dim": 64, "base": 10000.0, "scaling": {**YARN, "attention_factor": 0.75}},
    # A ramp that begins before the first frequency and ends behind the last, in few channels.
    {"head_dim": 8, "base": 10000.0, "scaling": {**YARN, "original_max_position_embeddings": 64}},
    {"head_dim": 80, "base": 10000.0, "scaling": {"rope_type": "default", "partial_rotary_factor": 0.4}},
    {"head_dim": 96, "base": 10000.0, "scaling": {**YARN, "partial_rotary_factor": 0.75}},
]
POSITIONS = [0, 1, 2, 100, 8191, 131071]


def angles(case: dict) -> dict:
    config = LlamaConfig(
        head_dim=case["head_dim"],
        hidden_size=case["head_dim"],
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=131072,
        rope_parameters={"rope_theta": case["base"], **case["scaling"]},
    )
    rope = LlamaRotaryEmbedding(config)
    cos, sin = rope(torch.zeros(1), torch.tensor([POSITIONS]))
    half = len(rope.inv_freq)
    return {
        **case,
        "dim": 2 * half,
        "attention_factor": rope.attention_scaling,
        "inverse": rope.inv_freq.tolist(),
        "cos": cos[0, :, :half].tolist(),
        "sin": sin[0, :, :half].tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=pathlib.Path, default=GOLDEN, help="folder")
    args = parser.parse_args()
    content = {"positions": POSITIONS, **{f"case_{i}": angles(case) for i, case in enumerate(CASES)}}
    write_golden(args.output / "rope.json", "tools/make_rope_goldens.py", content)


if __name__ == "__main__":
    main()
