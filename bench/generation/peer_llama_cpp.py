#!/usr/bin/env python3
"""llama.cpp through llama-cpp-python's C bindings: what llama-bench does, call for call."""

import argparse
import time

import llama_cpp
from worker import serve

# GGUF's types of K and V, and whether flash attention is on (a quantized V needs it).
ARMS = {
    "f16": (llama_cpp.GGML_TYPE_F16, True),
    "f16-nofa": (llama_cpp.GGML_TYPE_F16, False),
    "q8_0": (llama_cpp.GGML_TYPE_Q8_0, True),
    "q4_0": (llama_cpp.GGML_TYPE_Q4_0, True),
}
MICRO_BATCH = 512  # llama.cpp's defaults
BATCH = 2048


class LlamaCpp:
    def __init__(self, model: str, kv: str, threads: int, context: int):
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"{model}: llama.cpp does not load it")
        kv_type, flash = ARMS[kv]
        self.params = llama_cpp.llama_context_default_params()
        self.params.n_ctx = context
        self.params.n_batch = BATCH
        self.params.n_ubatch = MICRO_BATCH
        self.params.n_threads = self.params.n_threads_batch = threads
        self.params.type_k = self.params.type_v = kv_type
        self.params.flash_attn_type = 1 if flash else 0
        self.params.no_perf = True
        self.kv = kv
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.contexts: dict[int, object] = {}  # by length of prompt, so that one that is filled can stay so
        self._open(0)

    def _open(self, length: int) -> None:
        if length not in self.contexts:
            self.contexts[length] = llama_cpp.llama_init_from_model(self.model, self.params)
        self.context = self.contexts[length]
        if not self.context:
            raise RuntimeError(f"no context with {self.kv} keys and values")
        self.memory = llama_cpp.llama_get_memory(self.context)

    def about(self) -> dict:
        return {
            "version": f"llama-cpp-python {llama_cpp.__version__}",
            "build": llama_cpp.llama_print_system_info().decode().strip(" |"),
        }

    def _feed(self, tokens: list[int]) -> None:
        for first in range(0, len(tokens), BATCH):
            piece = tokens[first : first + BATCH]
            array = (llama_cpp.llama_token * len(piece))(*piece)
            status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(piece)))
            if status != 0:
                raise RuntimeError(f"llama_decode: {status}")
        llama_cpp.llama_synchronize(self.context)

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        self._open(0)
        self._clear()
        size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        answer: list[int] = []
        self._feed(prompt)
        while True:
            logits = llama_cpp.llama_get_logits_ith(self.context, -1)
            answer.append(max(range(size), key=logits.__getitem__))
            if len(answer) == count:
                return answer
            self._feed(answer[-1:])

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), False, True)
        return list(tokens[:count])

    def measure(self, prompt: list[int], generate: int, fresh: bool) -> dict:
        """Seconds: the prompt from an empty cache, then `generate` tokens one at a time. Nothing is sampled. Unless
        `fresh`, the cache may still hold an earlier prompt of the same length; then prompt_s is null."""
        filled = len(prompt) in self.contexts
        self._open(len(prompt))
        prompt_s = None
        if fresh or not filled:
            self._clear()
            start = time.perf_counter()
            self._feed(prompt)
            prompt_s = time.perf_counter() - start
        elif not llama_cpp.llama_memory_seq_rm(self.memory, 0, len(prompt), -1):
            raise RuntimeError("llama.cpp cannot go back to the end of the prompt")
        start = time.perf_counter()
        for step in range(generate):
            self._feed([prompt[step % len(prompt)]])
        return {"prompt_s": prompt_s, "generate_s": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--kv", choices=ARMS, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    arguments = parser.parse_args()
    serve(lambda: LlamaCpp(arguments.model, arguments.kv, arguments.threads, arguments.context))


if __name__ == "__main__":
    main()
