#!/usr/bin/env python3
"""IntactKV's tables on a model of yours (arXiv 2403.01241): perplexity of quantized weights and caches without and with
the 16-bit keys and values of the first token [B] or of the chat's prefix [P], trained or not. Called by
./dev bench intact.

Every figure is `lowkey eval`'s, on windows of the text that begin with the prefix's tokens in all arms; what the prefix's
last token predicts is scored in none. Quantized models, prefixes and results are kept in --work: a run that was
interrupted, or is asked for more, does only what is missing.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

from intact.plot import draw
from rows import add_output_arguments, machine, progress, table, write_json

KV = ["16", "8", "4", "3", "2", "kivi-4:r32", "kivi-3:r32", "kivi-2:r32"]


class BenchError(Exception):
    pass


class Lowkey:
    """The program, and what it has made so far: kept by what was asked of it."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.work = pathlib.Path(arguments.work)
        self.work.mkdir(parents=True, exist_ok=True)
        self.contents: dict[str, str] = {}
        self.new: set[pathlib.Path] = set()
        self.program = self.content(arguments.lowkey)
        self.of_another_program = 0

    def run(self, *words: str) -> None:
        command = [self.arguments.lowkey, *words, "--threads", str(self.arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError((done.stderr.strip() or f"{words[0]} failed").splitlines()[-1])

    def content(self, word: str) -> str:
        """What a word of a command stands for: of a file its SHA-256, but the names of what was made here tell all."""
        if word not in self.contents:
            file = pathlib.Path(word)
            if f"{self.work}/" in word or not file.is_file():
                self.contents[word] = word.replace(f"{self.work}/", "")
            else:
                self.contents[word] = hashlib.sha256(file.read_bytes()).hexdigest()
        return self.contents[word]

    def kept(self, label: str, ending: str, words: list[str], about: str) -> pathlib.Path:
        """What the command writes with `{}` as its output file or folder, unless it is there from the last time."""
        identity = json.dumps([self.content(word) for word in words])
        target = self.work / f"{label}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}{ending}"
        by = target.with_name(target.name + ".by")
        if target.exists() and (target in self.new or not self.arguments.fresh):
            self.of_another_program += by.exists() and by.read_text() != self.program
            return target
        if target.is_dir():
            shutil.rmtree(target)
        progress(about)
        self.run(*[str(target) if word == "{}" else word for word in words])
        by.write_text(self.program)
        self.new.add(target)
        return target

    def made(self, label: str, ending: str, *words: str) -> str:
        return str(self.kept(label, ending, [*words, "-o", "{}"], f"{label}: {words[0]}"))

    def quantized(self, method: str, bits: int, group: int, *more: str) -> str:
        """A folder; `more` tells models of one method apart."""
        a = self.arguments
        words = ["quantize", a.model, "--method", method, "--bits", str(bits), "--group", str(group), *more]
        if method != "rtn" or more:
            # A sample's activations are looked at once by GPTQ, and again and again by the others.
            samples, tokens = (a.samples, 512) if method == "gptq" else (max(1, a.samples // 4), 256)
            words += ["--text", a.calibration_text, "--samples", str(samples), "--ctx", str(tokens)]
        if method == "omniquant":
            words += ["--epochs", str(a.epochs), "--lr", "0.01"]
        label = "-".join([f"{method}-w{bits}g{group}", *(word.lstrip("-") for word in more)])
        return self.made(label, "", *words)

    def prefix(self, kind: str, bits: int = 16) -> str:
        words = ["calibrate", self.arguments.model, "--prefix", kind, "--kv-bits", str(bits)]
        return self.made(kind if bits == 16 else f"{kind}-{bits}bits", ".safetensors", *words)

    def trained(self, student: str) -> str:
        a = self.arguments
        words = ["calibrate", a.model, "--prefix", "chat", "--student", student, "--text", a.calibration_text]
        label = f"chat-for-{pathlib.Path(student).name}"
        return self.made(label, ".safetensors", *words, *a.training.split())

    def evaluate(self, model: str, *words: str) -> list[dict]:
        """What `lowkey eval` writes."""
        name = pathlib.Path(model).name
        recipes = sum(word == "--kv" for word in words)
        about = f"{name}: eval, {recipes} cache{'s' if recipes != 1 else ''}"
        target = self.kept("eval", ".json", ["eval", model, *words, "--json", "{}"], about)
        return json.loads(target.read_text())

    def perplexity(self, model: str, begin: str, recipes: list[str]) -> dict[str, float]:
        """recipe -> perplexity, on windows that begin with the prefix `begin`."""
        a = self.arguments
        words = ["--text", a.text, "--ctx", str(a.ctx), "--chunks", str(a.chunks), "--decode-tokens", "0"]
        words += ["--begin-with", begin]
        rows = self.evaluate(model, *words, *[word for recipe in recipes for word in ("--kv", recipe)])
        ppl = {row["recipe"]: row["ppl"] for row in rows}
        return {recipe: ppl[recipe] for recipe in recipes}

    def choices(self, model: str, begin: str, task: str, recipes: list[str]) -> list[dict]:
        words = ["--choices", task, "--begin-with", begin, *[word for recipe in recipes for word in ("--kv", recipe)]]
        return self.evaluate(model, *words)


def change(before: float, after: float) -> float:
    return (after / before - 1) * 100


class Tables:
    """What each table shows: rows, and how its columns look."""

    COLUMNS = {
        "weights": {"weights": "", "none": ".2f", "[B]": ".2f", "change %": "+.2f"},
        "chat": {"weights": "", "none": ".2f", "1 token": ".2f", "[P]": ".2f", "[P]+Cal": ".2f"},
        "caches": {"weights": "", "kv": "", "none": ".2f", "[B]": ".2f", "change %": "+.2f"},
        "activations": {"weights": "", "kv": "", "none": ".2f", "[B]": ".2f", "[B] of 4 bits": ".2f"},
        "choices": {"task": "", "weights": "", "none": ".1%", "[B]": ".1%", "lost": "", "gained": ""},
    }

    def __init__(self, lowkey: Lowkey, arguments: argparse.Namespace):
        self.lowkey = lowkey
        self.arguments = arguments
        self.bos = lowkey.prefix("bos")

    def models(self, methods: list[str]) -> list[tuple[str, str]]:
        """Name for people -> model, the full one first."""
        a = self.arguments
        made = [("full", a.model)]
        for bits, group in a.weights:
            made += [(f"{method} W{bits}g{group}", self.lowkey.quantized(method, bits, group)) for method in methods]
        return made

    def weights(self) -> list[dict]:
        """Methods times bits."""
        rows = []
        for name, model in self.models(self.arguments.methods):
            none, intact = self.lowkey.perplexity(model, self.bos, ["16", f"16+i@{self.bos}"]).values()
            rows.append({"weights": name, "none": none, "[B]": intact, "change %": change(none, intact)})
        return rows

    def chat(self) -> list[dict]:
        """What the exact prefix's length is worth, on input that starts with the chat's prefix, and training."""
        chat = self.lowkey.prefix("chat")
        rows = []
        for name, model in self.models(self.arguments.methods):
            prefixes = {"1 token": self.bos, "[P]": chat}
            if model != self.arguments.model and name.split()[0] in self.arguments.trained:
                prefixes["[P]+Cal"] = self.lowkey.trained(model)
            recipes = {"none": "16", **{column: f"16+i@{file}" for column, file in prefixes.items()}}
            ppl = self.lowkey.perplexity(model, chat, list(recipes.values()))
            rows.append({"weights": name, **{column: ppl[recipe] for column, recipe in recipes.items()}})
        return rows

    def caches(self) -> list[dict]:
        """Bits of the weights times bits of the cache."""
        rows = []
        for name, model in self.models(self.arguments.methods[:1]):
            recipes = [recipe for kv in KV for recipe in (kv, f"{kv}+i@{self.bos}")]
            ppl = self.lowkey.perplexity(model, self.bos, recipes)
            for kv in KV:
                none, intact = ppl[kv], ppl[f"{kv}+i@{self.bos}"]
                rows.append({"weights": name, "kv": kv, "none": none, "[B]": intact, "change %": change(none, intact)})
        return rows

    def activations(self) -> list[dict]:
        """QuaRot's weights, activations and caches of 4 bits; the prefix in 16 bits, and in 4 itself."""
        low = self.lowkey.prefix("bos", 4)
        rows = []
        for rounding in ("nearest", "gptq"):
            model = self.lowkey.quantized("quarot", 4, 64, "--act-bits", "4", "--rounding", rounding)
            for kv in ("16", "4"):
                recipes = [kv, f"{kv}+i@{self.bos}", f"{kv}+i@{low}"]
                columns = ("weights", "kv", "none", "[B]", "[B] of 4 bits")
                ppl = self.lowkey.perplexity(model, self.bos, recipes).values()
                rows.append(dict(zip(columns, (f"quarot W4A4g64, {rounding}", kv, *ppl))))
        return rows

    def choices(self) -> list[dict]:
        """Right answers to questions with choices."""
        rows = []
        for task in self.arguments.choices:
            for name, model in self.models(self.arguments.methods):
                none, intact = self.lowkey.choices(model, self.bos, task, [f"16+i@{self.bos}"])
                figure = "acc_norm" if none["style"] == "text" else "acc"
                row = {"task": none["task"], "weights": name, "none": none[figure], "[B]": intact[figure]}
                rows.append(row | {"lost": intact["lost"], "gained": intact["gained"]})
        return rows


def parse_weights(text: str) -> list[tuple[int, int]]:
    """3g64,4g64 -> [(3, 64), (4, 64)]"""
    try:
        return [(int(bits), int(group)) for bits, group in (part.split("g") for part in text.split(","))]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is not like 3g64,4g64") from error


def words(text: str) -> list[str]:
    return text.split(",") if text else []


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev bench intact", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lowkey", required=True, help="the program")
    parser.add_argument("--model", required=True, help="16-bit, or what should count as that")
    parser.add_argument("--text", required=True, help="UTF-8; for published figures WikiText-2's wiki.test.raw")
    parser.add_argument("--calibration-text", help="what methods look at; default: the same text")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument(
        "--tables", type=words, default=list(Tables.COLUMNS), help="default: all of " + ",".join(Tables.COLUMNS)
    )
    parser.add_argument("--methods", type=words, default=words("rtn,gptq,awq,omniquant"), help="the first also sweeps")
    parser.add_argument("--weights", type=parse_weights, default=parse_weights("4g64,4g32,3g64,3g32"))
    parser.add_argument("--trained", type=words, default=["rtn"], help="methods whose prefixes are trained too; or ''")
    parser.add_argument("--training", default="", help="options of lowkey calibrate")
    parser.add_argument("--choices", action="append", default=[], help="questions as JSONL; may be given again")
    parser.add_argument("--samples", type=int, default=64, help="windows of the calibration text, of 512 tokens")
    parser.add_argument("--epochs", type=int, default=10, help="of OmniQuant")
    parser.add_argument("--ctx", type=int, default=1024, help="tokens of a window")
    parser.add_argument("--chunks", type=int, default=4, help="the text's first so many windows")
    parser.add_argument("--work", required=True, help="folder for what is made on the way; kept")
    parser.add_argument("--fresh", action="store_true", help="make anew what is kept there")
    parser.add_argument("--plot", metavar="FILE", help="the table caches, as .svg or .png")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    arguments.calibration_text = arguments.calibration_text or arguments.text
    for path in (arguments.model, arguments.text, arguments.calibration_text, *arguments.choices):
        if not pathlib.Path(path).exists():
            parser.error(f"no such file: {path}")
    for name in arguments.tables:
        if name not in Tables.COLUMNS:
            parser.error(f"no table '{name}': {', '.join(Tables.COLUMNS)}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    tables = Tables(Lowkey(arguments), arguments)
    found = {}
    about = f"{pathlib.Path(arguments.model).name} on {pathlib.Path(arguments.text).name}, "
    about += f"{arguments.chunks} windows of {arguments.ctx}; perplexity, choices: accuracy"
    if arguments.json != "-":
        print(f"{machine()}\n{about}")
    for name in arguments.tables:
        found[name] = getattr(tables, name)()
        if arguments.json != "-" and found[name]:
            print(f"\n{name}\n\n{table(found[name], Tables.COLUMNS[name], arguments.markdown)}", flush=True)
    if arguments.plot and "caches" in found:
        draw(found["caches"], arguments)
    if arguments.json:
        write_json(found, arguments.json)
    if others := tables.lowkey.of_another_program:
        progress(f"warning: {others} of what was kept is of another build of the program; --fresh makes it anew")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, OSError, ValueError, KeyError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(1)
