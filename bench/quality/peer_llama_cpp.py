#!/usr/bin/env python3
"""llama.cpp through llama-cpp-python's C bindings: how far quantized keys and values move its predictions from those of
its own f16 cache. One process for all types; a window's f16 logits stay here while the types are compared with them."""

import argparse

import llama_cpp
import numpy as np
from worker import serve

# Types of a side of the cache: the constant's name, and bytes per block of 32 numbers.
TYPES = {
    "f16": ("F16", 64),
    "q8_0": ("Q8_0", 34),
    "q5_1": ("Q5_1", 24),
    "q5_0": ("Q5_0", 22),
    "q4_1": ("Q4_1", 20),
    "q4_0": ("Q4_0", 18),
    "iq4_nl": ("IQ4_NL", 18),
}
MICRO_BATCH = 512  # llama.cpp's default
ROWS = 64  # positions whose logits are compared at a time: 25 MB in double


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class LlamaCpp:
    def __init__(self, model: str, threads: int, context: int):
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"{model}: llama.cpp does not load it")
        self.threads, self.context_length = threads, context
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.batch = llama_cpp.llama_batch_init(MICRO_BATCH, 0, 1)
        self.tokens: list[int] = []
        self.f16 = np.empty((0, 0), np.float32)  # log p of the window's next tokens

    def about(self) -> dict:
        return {
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "build": llama_cpp.llama_print_system_info().decode().strip(" |"),
            "bos": llama_cpp.llama_vocab_bos(self.vocab) if llama_cpp.llama_vocab_get_add_bos(self.vocab) else None,
        }

    def tokenize(self, text: str) -> list[int]:
        """The text as it is: no control tokens in it, none around it."""
        data = text.encode()
        tokens = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), False, False)
        if count < 0:
            raise RuntimeError(f"llama_tokenize: {count}")
        return list(tokens[:count])

    def _logits(self, kv: str) -> np.ndarray:
        """[tokens, vocabulary] from an empty cache of this type, "K/V" where they differ."""
        sides = kv.split("/")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self.context_length
        params.n_batch = params.n_ubatch = MICRO_BATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k, params.type_v = (getattr(llama_cpp, f"GGML_TYPE_{TYPES[side][0]}") for side in (sides * 2)[:2])
        params.flash_attn_type = 1  # a quantized V needs it; so does a fair f16
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError(f"no context with {kv} keys and values")
        try:
            pieces = [
                self._step(context, first, self.tokens[first : first + MICRO_BATCH])
                for first in range(0, len(self.tokens), MICRO_BATCH)
            ]
        finally:
            llama_cpp.llama_free(context)
        return np.concatenate(pieces)

    def _step(self, context, first: int, tokens: list[int]) -> np.ndarray:
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i] = token
            self.batch.pos[i] = first + i
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = 0
            self.batch.logits[i] = 1
        status = llama_cpp.llama_decode(context, self.batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(tokens), self.vocab_size))
        return logits.copy()

    def reference(self, tokens: list[int]) -> None:
        """Sets the window, and computes what its f16 cache predicts."""
        self.tokens = tokens
        logits = self._logits("f16")[:-1]  # what follows the last token is not known
        for first in range(0, len(logits), ROWS):
            logits[first : first + ROWS] = log_softmax(logits[first : first + ROWS])
        self.f16 = logits

    def measure(self, kv: str) -> dict:
        """Of each token but the first: -log p, KL from f16's prediction (nats), whether both rank the same token
        first. And bits per stored number, scales included."""
        logits = self.f16 if kv == "f16" else self._logits(kv)
        targets = np.array(self.tokens[1:])
        result: dict = {"nll": [], "kl": [], "same_top": []}
        for first in range(0, len(targets), ROWS):
            rows = slice(first, min(first + ROWS, len(targets)))
            f16 = self.f16[rows].astype(np.float64)
            ours = f16 if kv == "f16" else log_softmax(logits[rows])
            result["nll"] += (-ours[np.arange(len(ours)), targets[rows]]).tolist()
            result["kl"] += (np.exp(f16) * (f16 - ours)).sum(axis=-1).tolist()
            result["same_top"] += (ours.argmax(axis=-1) == f16.argmax(axis=-1)).tolist()
        sides = (kv.split("/") * 2)[:2]
        result["stored_bits"] = sum(TYPES[side][1] for side in sides) * 8 / 32 / 2
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    arguments = parser.parse_args()
    serve(lambda: LlamaCpp(arguments.model, arguments.threads, arguments.context))


if __name__ == "__main__":
    main()
