#!/usr/bin/env python3
"""Prompt and generation speed of lowkey and of other engines: the same GGUF file, the same number of threads,
side by side. Called by ./dev bench generation, which makes the Python environment.

Each engine runs in a process of its own, and each repetition goes through all of them before the next begins. Before
anything is timed, the greedy continuations of a few prompts are compared with lowkey's over its 16-bit cache; an
engine that says something else from the start is not timed. Tests are llama-bench's: ppP is a prompt of P tokens,
tgN @ dP the N tokens after it.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time

from rows import add_output_arguments, machine, progress, report, warn_if_busy
from worker import PeerError, Worker, module

PEERS = {
    "llama.cpp": ("generation.peer_llama_cpp", ["f16", "f16-nofa", "q8_0", "q4_0"]),
    "openvino": ("generation.peer_openvino", ["f16", "u8", "u4"]),
}
RECIPES = ["16", "8", "kivi-4:r32", "kivi-2:r32"]
SHORT_RECIPES = ["16", "kivi-4:r32"]

# Continuations that do not hang on a thread, so that engines which round differently still agree.
PROMPTS = [
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
    "The days of the week are Monday, Tuesday, Wednesday,",
    "The capital of France is Paris. The capital of Germany is Berlin. The capital of Italy is",
]
COMPARED_TOKENS = 32
# An engine whose weights and activations are quantized another way may part at a near tie, but not at once.
MIN_EQUAL_TOKENS = 6

LONG_PROMPT = 512
WARM_UP_PROMPT = 64
FIRST_TOKEN, LAST_TOKEN = 100, 40000  # random prompts: ids that every vocabulary of this size has


class Lowkey:
    """The program, called anew for each repetition: `lowkey bench -r 1` measures all recipes side by side."""

    def __init__(self, program: str, model: str, recipes: list[str], threads: int):
        self.program, self.model, self.recipes, self.threads = program, model, recipes, threads

    def _call(self, *arguments: str) -> str:
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerError((done.stderr.strip() or "failed").splitlines()[-1])
        return done.stdout

    def greedy(self, prompt: str) -> dict:
        arguments = ["--raw", "--greedy", "-n", str(COMPARED_TOKENS), "-t", str(self.threads), "--json"]
        return json.loads(self._call("run", self.model, "-p", prompt, *arguments))

    def measure(self, prompts: list[int], depths: list[int], generate: int) -> list[dict]:
        """Rows of one repetition: prompts of some lengths, and `generate` tokens at some depths."""
        shared = [arg for recipe in self.recipes for arg in ("--kv", recipe)]
        shared += ["-r", "1", "-t", str(self.threads), "--json", "-"]
        rows = []
        if prompts:
            lengths = ",".join(map(str, prompts))
            rows += json.loads(self._call("bench", self.model, "-p", lengths, "-n", "0", *shared))
        lengths = ",".join(map(str, depths))
        return rows + json.loads(
            self._call("bench", self.model, "-p", "0", "-n", str(generate), "-d", lengths, *shared)
        )


class Arm:
    """A peer with one type of keys and values."""

    def __init__(self, engine: str, kv: str, arguments: argparse.Namespace, context: int):
        self.engine, self.kv = engine, kv
        options = ["--kv", kv, "--threads", str(arguments.threads), "--context", str(context)]
        self._command = module(PEERS[engine][0], arguments.model, *options)
        self.worker = Worker(*self._command)
        self.about = self.worker.call("about")

    @property
    def name(self) -> str:
        return f"{self.engine} {self.kv}"

    def measure(self, **request) -> dict:
        """Once more in a new process if the peer crashes: one of OpenVINO's types does so now and then."""
        try:
            return self.worker.call("measure", **request)
        except PeerError as error:
            progress(f"{self.name}: {error}; started anew")
            self.worker = Worker(*self._command)
            self.worker.call("measure", prompt=request["prompt"][:128], generate=4, fresh=True)
            return self.worker.call("measure", **request)


def equal_tokens(ours: list[int], theirs: list[int]) -> int:
    """How many tokens from the start are the same."""
    for index, (a, b) in enumerate(zip(ours, theirs)):
        if a != b:
            return index
    return min(len(ours), len(theirs))


def check_outputs(arm: Arm, tokenizer: Arm, ours: list[dict]) -> int:
    """Equal tokens at the start of the middling continuation. Raises PeerError if they are too few, unless the peer's
    keys and values are quantized: that alone may change the text."""
    equal = []
    for prompt, answer in zip(PROMPTS, ours):
        ids = tokenizer.worker.call("tokenize", text=prompt)
        if len(ids) != answer["prompt_tokens"]:
            raise PeerError(f"'{prompt}' is {len(ids)} tokens to it and {answer['prompt_tokens']} to lowkey")
        equal.append(equal_tokens(answer["tokens"], arm.worker.call("greedy", prompt=ids, count=COMPARED_TOKENS)))
    progress(f"{arm.name}: first of {COMPARED_TOKENS} tokens that differs from lowkey's, 16 bits: {equal}")
    middle = statistics.median_low(equal)
    if middle < MIN_EQUAL_TOKENS and arm.kv.startswith("f16"):
        raise PeerError(f"its greedy text parts from lowkey's at token {middle}: not timed")
    return middle


def start_peers(arguments: argparse.Namespace, context: int) -> list[Arm]:
    arms = []
    for engine, (_, kinds) in PEERS.items():
        for kv in kinds:
            if arguments.engines and engine not in arguments.engines:
                continue
            try:
                arms.append(Arm(engine, kv, arguments, context))
            except PeerError as error:
                progress(f"{engine} {kv}: left out: {error}")
    return arms


def row(engine: str, kv: str, threads: int, test: str, depth: int, samples: list[float], **more) -> dict:
    return {
        "engine": engine,
        "kv": kv,
        "threads": threads,
        "test": test,
        "n_depth": depth,
        "avg_ts": statistics.mean(samples),
        "stddev_ts": statistics.stdev(samples) if len(samples) > 1 else 0.0,
        "median_ts": statistics.median(samples),
        "best_ts": max(samples),
        "samples_ts": samples,
        **more,
    }


def measure(arguments: argparse.Namespace, lowkey: Lowkey, arms: list[Arm]) -> list[dict]:
    samples: dict[tuple, list[float]] = {}
    bytes_per_token: dict[tuple, float] = {}
    alive = list(arms)
    generate = arguments.generate
    for repetition in range(-1, arguments.repetitions):
        warm_up = repetition < 0
        started = time.monotonic()
        # Some peers take a minute for a long prompt: those are repeated less often than generation after them.
        prompts = [n for n in arguments.depths if n <= LONG_PROMPT or repetition < arguments.long_repetitions]
        if not warm_up:
            for result in lowkey.measure(prompts, arguments.depths, generate):
                key = ("lowkey", result["kv"], result["test"], result["n_depth"])
                samples.setdefault(key, []).append(result["avg_ts"])
                bytes_per_token[key] = result["kv_bytes_per_token"]
        for depth in arguments.depths if not warm_up else [WARM_UP_PROMPT]:
            for arm in list(alive):
                prompt = [random.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(depth)]
                try:
                    took = arm.measure(prompt=prompt, generate=4 if warm_up else generate, fresh=depth in prompts)
                except PeerError as error:
                    progress(f"{arm.name}: dropped: {error}")
                    alive.remove(arm)
                    continue
                if warm_up:
                    continue
                base = (arm.engine, arm.kv)
                if took["prompt_s"]:
                    samples.setdefault((*base, f"pp{depth}", 0), []).append(depth / took["prompt_s"])
                samples.setdefault((*base, f"tg{generate}", depth), []).append(generate / took["generate_s"])
        what = "warm-up" if warm_up else f"repetition {repetition + 1} of {arguments.repetitions}"
        progress(f"{what}: {time.monotonic() - started:.0f} s")
    about = {arm.name: arm.about for arm in arms}
    rows = []
    for (engine, kv, test, depth), values in samples.items():
        more = dict(about.get(f"{engine} {kv}", {}))
        if engine == "lowkey":
            more["kv_bytes_per_token"] = bytes_per_token[engine, kv, test, depth]
        rows.append(row(engine, kv, arguments.threads, test, depth, values, **more))
    rows.sort(key=lambda r: (r["test"][:2], r["n_depth"], len(r["test"]), r["test"]))
    return rows


def ratios(rows: list[dict]) -> list[str]:
    """lowkey's recipes against the best peer of each test, by the best repetition of each: what else runs on the
    machine only ever makes one slower, and not all of them equally."""
    lines = []
    for test, depth in dict.fromkeys((r["test"], r["n_depth"]) for r in rows):
        same = [r for r in rows if (r["test"], r["n_depth"]) == (test, depth)]
        peers = [r for r in same if r["engine"] != "lowkey"]
        if not peers:
            continue
        best = max(peers, key=lambda r: r["best_ts"])
        q4 = next((r for r in peers if (r["engine"], r["kv"]) == ("llama.cpp", "q4_0")), None)
        for ours in (r for r in same if r["engine"] == "lowkey"):
            line = f"{test} @ d{depth}: {ours['kv']} is {ours['best_ts'] / best['best_ts']:.2f}x"
            line += f" the best peer ({best['engine']} {best['kv']}, {best['best_ts']:.0f} tok/s)"
            if q4 is not None:
                line += f", {ours['best_ts'] / q4['best_ts']:.2f}x llama.cpp q4_0"
            lines.append(line)
    return lines


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev bench generation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lowkey", required=True, help="the program")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--depths", type=lambda text: [int(n) for n in text.split(",")], default=[128, 4096])
    parser.add_argument("--generate", type=int, default=128, help="tokens after each prompt")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--long-repetitions", type=int, default=2, help=f"of prompts beyond {LONG_PROMPT} tokens")
    parser.add_argument("--kv", action="append", help="lowkey's recipes; may be given again")
    parser.add_argument(
        "--engines", type=lambda text: text.split(","), help=f"of {', '.join(PEERS)}; none; default: all"
    )
    parser.add_argument("--short", action="store_true", help="fewer recipes, tokens and repetitions")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    if arguments.short:
        arguments.generate, arguments.repetitions, arguments.long_repetitions = 32, 2, 1
        arguments.depths = [128, 1024]
    if unknown := set(arguments.engines or []) - {*PEERS, "none"}:
        parser.error(f"no such engine: {', '.join(sorted(unknown))}")
    if not pathlib.Path(arguments.model).is_file():
        parser.error(f"no such file: {arguments.model}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    where = machine()  # before our own load
    warn_if_busy()
    recipes = arguments.kv or (SHORT_RECIPES if arguments.short else RECIPES)
    lowkey = Lowkey(arguments.lowkey, arguments.model, recipes, arguments.threads)
    # llama.cpp counts in blocks of 256.
    arms = start_peers(arguments, -(-(max(arguments.depths) + arguments.generate + 1) // 256) * 256)
    ours = [lowkey.greedy(prompt) for prompt in PROMPTS] if arms else []
    tokenizer = next((arm for arm in arms if arm.engine == "llama.cpp"), None)
    agreed = []
    for arm in arms:
        try:
            if tokenizer is None:
                raise PeerError("llama.cpp, whose tokenizer gives every engine its prompts, is not there")
            arm.about["equal_tokens"] = check_outputs(arm, tokenizer, ours)
            agreed.append(arm)
        except PeerError as error:
            progress(f"{arm.name}: left out: {error}")
    rows = measure(arguments, lowkey, agreed)
    for arm in arms:
        arm.worker.close()
    columns = {"engine": "", "kv": "", "threads": "d", "test": "", "n_depth": "d"}
    columns |= {"avg_ts": ".1f", "stddev_ts": ".1f", "median_ts": ".1f", "best_ts": ".1f"}
    report(rows, columns, arguments, where, "\n".join(ratios(rows)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (PeerError, OSError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(1)
