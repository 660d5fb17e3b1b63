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
from collections.abc import Sequence

import torch
from reference import GOLDEN, demo_tokens, ids_sha256, load_model, load_tokenizer, write_golden

TOP = 32
DEMO_TOKENS = 2048
SMOLLM2_TOKENS = 512


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
    write_golden(folder / "smollm2_logits.json", "tools/make_goldens.py", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True, help="SmolLM2's GGUF file")
    parser.add_argument("--text", type=pathlib.Path, help="choose demo_tokens.json anew, from the start of this text")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=GOLDEN, help="folder")
    args = parser.parse_args()
    if args.text:
        make_demo_tokens(args.model, args.text, args.output)
    make_smollm2(args.model, args.output)


if __name__ == "__main__":
    main()
