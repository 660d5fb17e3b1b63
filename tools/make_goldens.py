#!/usr/bin/env python3
"""Write what transformers computes, small enough to commit: tests/golden/*.json.

  demo_tokens.json        token ids of English prose, made by HF tokenizers from the GGUF's vocabulary
  smollm2_logits.json     logits of SmolLM2's GGUF, dequantized, in float32
  logits_NAME.json        logits of small random Llama models, whose weights grow from a seed (tiny_model.py)

Per position: the 32 largest logits with their ids, in falling order, some logits at fixed ids, and the mean over
the vocabulary. The C++ tests read these files and nothing else, so that they need no Python.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import torch
import transformers
from reference import GOLDEN, demo_tokens, ids_sha256, load_model, load_tokenizer, write_golden
from tiny_model import TinyModel, TinyModelOptions

TOP = 32
DEMO_TOKENS = 2048
SMOLLM2_TOKENS = 512
TINY_TOKENS = 80  # past the 64 positions of the llama3 scaling's original context

# Each of Llama's variations at least once, by the options of tests/support/tiny_model.h.
TINY_MODELS = {
    "tied": {},
    "untied_biased_llama3": {
        **{"seed": 2, "tied": False, "attention_bias": True, "mlp_bias": True, "rope_scaling": "llama3"},
        **{"dtype": "BF16", "vocab": 300, "norm_eps": 1e-6, "rope_base": 500000.0},
    },
    "linear_three_groups": {
        **{"seed": 3, "layers": 3, "hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 32, "ffn": 160},
        **{"rope_scaling": "linear", "dtype": "F16"},
    },
    # Heads wider than hidden / heads, and as many for keys as for queries.
    "wide_heads": {"seed": 4, "layers": 1, "hidden": 48, "heads": 2, "kv_heads": 2, "head_dim": 64, "tied": False},
}


def describe_logits(logits: torch.Tensor, samples: int, digits: int) -> dict:
    """logits: [positions, vocabulary]."""
    top = logits.topk(TOP, dim=-1)
    # Evenly spread, with a stride that no power of two divides.
    sample_ids = [(i * logits.shape[1] // samples) | 1 for i in range(samples)]
    return {
        "sample_ids": sample_ids,
        "top_ids": top.indices.tolist(),
        "top_logits": rounded(top.values.tolist(), digits),
        "sample_logits": rounded(logits[:, sample_ids].tolist(), digits),
        "logit_means": [round(x, digits + 1) for x in logits.double().mean(-1).tolist()],
    }


def rounded(rows: Sequence[Sequence[float]], digits: int) -> list[list[float]]:
    return [[round(x, digits) for x in row] for row in rows]


@torch.inference_mode()
def logits_of(model, ids: Sequence[int]) -> torch.Tensor:
    return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def make_demo_tokens(gguf_file: pathlib.Path, text: pathlib.Path, folder: pathlib.Path) -> None:
    ids = load_tokenizer(gguf_file).encode(text.read_text()).ids[:DEMO_TOKENS]
    content = {"tokenizer": gguf_file.name, "ids_sha256": ids_sha256(ids), "ids": ids}
    write_golden(folder / "demo_tokens.json", "tools/make_goldens.py --text build/deps/text/pydoc_topics.txt", content)


def make_smollm2(gguf_file: pathlib.Path, folder: pathlib.Path) -> None:
    ids = demo_tokens()[:SMOLLM2_TOKENS]
    content = {
        "model": gguf_file.name,
        "tokens": "demo_tokens.json",
        "count": SMOLLM2_TOKENS,
        "ids_sha256": ids_sha256(ids),
        **describe_logits(logits_of(load_model(gguf_file), ids), samples=8, digits=4),
    }
    write_golden(folder / "smollm2_logits.json", "./dev parity --remake", content)


def tiny_golden_name(name: str) -> str:
    return f"logits_{name}.json"


def make_tiny(name: str, folder: pathlib.Path) -> None:
    options = TINY_MODELS[name]
    model = TinyModel(TinyModelOptions(**options))
    ids = [(37 * i * i + 11 * i + 5) % model.options.vocab for i in range(TINY_TOKENS)]
    with tempfile.TemporaryDirectory() as model_folder:
        model.write_hugging_face(model_folder)
        reference = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
        logits = logits_of(reference, ids)
    content = {"options": options, "ids_sha256": ids_sha256(ids), "ids": ids}
    described = describe_logits(logits, samples=16, digits=5)
    write_golden(folder / tiny_golden_name(name), "./dev parity --remake", {**content, **described})


def make_all(gguf_file: pathlib.Path, folder: pathlib.Path) -> None:
    for name in TINY_MODELS:
        make_tiny(name, folder)
    make_smollm2(gguf_file, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="SmolLM2's GGUF file")
    parser.add_argument("--text", type=pathlib.Path, help="choose demo_tokens.json anew, from the start of this text")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=GOLDEN, help="folder")
    args = parser.parse_args()
    if args.text:
        make_demo_tokens(args.model, args.text, args.output)
    make_all(args.model, args.output)


if __name__ == "__main__":
    main()
