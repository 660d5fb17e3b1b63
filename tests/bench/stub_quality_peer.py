#!/usr/bin/env python3
"""Stands for bench/quality's llama.cpp where that is not installed: the tiny model's tokens for a text in which nothing
merges, and made-up scores. --context is remembered; a text with an x is misread; q5_1 is a type it does not have."""

import argparse

from worker import serve


class Stub:
    def __init__(self, context: int):
        self.context = context
        self.tokens: list[int] = []

    def about(self) -> dict:
        return {"version": "stub", "context": self.context, "bos": None}

    def tokenize(self, text: str) -> list[int]:
        return [byte + (1 if byte == ord("x") else 0) for byte in text.encode()]

    def reference(self, tokens: list[int]) -> None:
        self.tokens = tokens

    def measure(self, kv: str) -> dict:
        scores = {"f16": (16.0, 2.0, 0.0), "q8_0": (8.5, 2.0, 0.001), "q4_0": (6.5, 2.5, 100.0)}
        if kv not in scores:
            raise RuntimeError(f"no context with {kv}")
        bits, nll, kl = scores[kv]
        count = len(self.tokens) - 1
        kls = [kl * (i + 1) for i in range(count)]
        return {"nll": [nll] * count, "kl": kls, "same_top": [kl < 1] * count, "stored_bits": bits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    arguments = parser.parse_args()
    serve(lambda: Stub(arguments.context))


if __name__ == "__main__":
    main()
