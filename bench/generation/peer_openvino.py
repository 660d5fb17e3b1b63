#!/usr/bin/env python3
"""OpenVINO GenAI on the GGUF file itself: its own reader turns the packed weights into its own packed weights."""

import argparse

import numpy
import openvino
import openvino_genai
from worker import serve

ARMS = {"f16": "f16", "u8": "u8", "u4": "u4"}  # KV_CACHE_PRECISION


class OpenVino:
    def __init__(self, model: str, kv: str, threads: int):
        self.pipeline = openvino_genai.LLMPipeline(
            model, "CPU", KV_CACHE_PRECISION=ARMS[kv], INFERENCE_NUM_THREADS=threads
        )

    def about(self) -> dict:
        return {"version": f"openvino-genai {openvino_genai.__version__}", "build": "GGUF read by openvino-genai"}

    def _generate(self, prompt: list[int], count: int):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = count
        config.do_sample = False
        config.ignore_eos = True
        ids = numpy.array([prompt], dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(numpy.ones_like(ids)))
        return self.pipeline.generate(inputs, config)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        return [int(token) for token in self._generate(prompt, count).tokens[0]]

    def measure(self, prompt: list[int], generate: int, fresh: bool) -> dict:
        """Seconds: to the first token, then between it and the `generate` tokens after it (greedy). The prompt is
        computed in any case: prompts differ, so nothing of an earlier one can be reused."""
        del fresh
        metrics = self._generate(prompt, generate + 1).perf_metrics
        times = metrics.raw_metrics.m_new_token_times  # milliseconds
        if len(times) != generate + 1:
            raise RuntimeError(f"{len(times)} tokens where {generate + 1} were asked for")
        return {"prompt_s": metrics.get_ttft().mean / 1e3, "generate_s": (times[-1] - times[0]) / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--kv", choices=ARMS, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)  # grows by itself
    arguments = parser.parse_args()
    serve(lambda: OpenVino(arguments.model, arguments.kv, arguments.threads))


if __name__ == "__main__":
    main()
