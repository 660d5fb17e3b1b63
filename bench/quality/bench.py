#!/usr/bin/env python3
"""What a smaller KV cache costs in quality: KL to the engine's own 16-bit cache and perplexity, against the bits that
are stored, for lowkey's recipes and llama.cpp's cache types on the same model and the same tokens. Called by
./dev bench quality, which makes the Python environment.

Windows of the text are sequences of their own; the first token of each is the model's beginning-of-text token, if it
has one, and is not scored. Bits are per stored number, scales and zero points included; lowkey's include its exact
windows and whole pages, at the length of a window. Each engine runs in a process of its own and is compared with
itself: llama.cpp with its f16, lowkey with its 16 (f32 weights). That both see the same tokens is checked, by their
SHA-256.
"""

import argparse
import hashlib
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

from rows import add_output_arguments, machine, progress, table, write_json
from worker import PeerError, Worker

PEER_TYPES = ["f16", "q8_0", "q8_0/q4_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
RECIPES = ["8", "8/4", "4"] + [f"kivi-{bits}:r32+i1" for bits in ("8", "8/4", "4", "4/2", "3", "2")]

# The table's columns: their figure, and its format.
COLUMNS = {
    "engine": ("engine", ""),
    "kv": ("kv", ""),
    "code": ("code_bits", ".2f"),
    "stored": ("stored_bits", ".2f"),
    "KL mean": ("kl_mean", ".5f"),
    "KL 99.9%": ("kl_p999", ".3f"),
    "top-1": ("top1_agreement", ".1%"),
    "ppl": ("ppl", ".3f"),
    "change %": ("ppl_delta_percent", "+.2f"),
}
# The same kind of figure of both: a blank more tells them apart.
AGAINST = {"llama.cpp": "", "stored": ".2f", "kl": ".5f", "lowkey": "", "stored ": ".2f", "kl ": ".5f", "ratio": ".2f"}


class Lowkey:
    """`lowkey eval`, once for all recipes."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments

    def measure(self, recipes: dict[str, str]) -> list[dict]:
        """`recipes`: name for people -> recipe. Rows, the 16-bit reference first."""
        a = self.arguments
        with tempfile.TemporaryDirectory() as folder:
            target = pathlib.Path(folder) / "eval.json"
            command = [a.lowkey, "eval", a.model, "--text", a.text, "--ctx", str(a.ctx), "--chunks", str(a.chunks)]
            command += ["--decode-tokens", "0", "--threads", str(a.threads), "--json", str(target)]
            command += [word for recipe in recipes.values() for word in ("--kv", recipe)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise PeerError((done.stderr.strip() or "lowkey failed").splitlines()[-1])
            rows = json.loads(target.read_text())
        names = {recipe: name for name, recipe in recipes.items()}
        for row in rows:
            row["engine"], row["kv"] = "lowkey", names.get(row["recipe"], row["recipe"])
        return rows


def quantile(values: list[float], share: float) -> float:
    """Nearest rank, as lowkey's."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def window_sha256(windows: list[list[int]]) -> str:
    """As `lowkey eval` computes it: 32 bits a token, little-endian."""
    return hashlib.sha256(b"".join(struct.pack(f"<{len(window)}i", *window) for window in windows)).hexdigest()


class Peer:
    """llama.cpp in a process of its own."""

    def __init__(self, arguments: argparse.Namespace):
        # llama.cpp counts in blocks of 256.
        options = ["--threads", str(arguments.threads), "--context", str(-(-arguments.ctx // 256) * 256)]
        self.worker = Worker(sys.executable, arguments.peer, arguments.model, *options)
        self.about = self.worker.call("about")

    def windows(self, text: str, ctx: int, chunks: int) -> list[list[int]]:
        tokens = self.worker.call("tokenize", text=text)
        count = min(chunks, len(tokens) // ctx)
        windows = [tokens[w * ctx : (w + 1) * ctx] for w in range(count)]
        if self.about["bos"] is not None:
            windows = [[self.about["bos"], *window[1:]] for window in windows]
        return windows

    def measure(self, windows: list[list[int]], kinds: list[str]) -> list[dict]:
        scores: dict[str, dict] = {}
        for index, window in enumerate(windows):
            progress(f"llama.cpp: window {index + 1} of {len(windows)}")
            self.worker.call("reference", tokens=window)
            for kind in kinds:
                if index > 0 and kind not in scores:
                    continue  # left out
                try:
                    result = self.worker.call("measure", kv=kind)
                except PeerError as error:
                    if index > 0 or kind == "f16":
                        raise
                    progress(f"llama.cpp {kind}: left out: {error}")
                    continue
                into = scores.setdefault(kind, {"nll": [], "kl": [], "same_top": []})
                for key, values in into.items():
                    if key != "stored_bits":
                        values += result[key]
                into["stored_bits"] = result["stored_bits"]
        return [self._row(kind, scores[kind], scores["f16"]) for kind in scores]

    def _row(self, kind: str, scores: dict, f16: dict) -> dict:
        count = len(scores["nll"])
        ppl, ppl_f16 = (math.exp(sum(s["nll"]) / count) for s in (scores, f16))
        return {
            "engine": "llama.cpp",
            "kv": kind,
            "stored_bits": scores["stored_bits"],
            "kl_mean": sum(scores["kl"]) / count,
            "kl_p999": quantile(scores["kl"], 0.999),
            "top1_agreement": sum(scores["same_top"]) / count,
            "ppl": ppl,
            "ppl_delta_percent": (ppl / ppl_f16 - 1) * 100,
            "scored_tokens": count,
            **self.about,
        }


def front_recipes(paths: list[str], most: int) -> dict[str, str]:
    """What tuning found, named by code bits: of all fronts together the points that no other beats in stored bits and
    in KL on the text they were tuned on, and of those at most so many, evenly by stored bits."""
    points = []
    for path in paths:
        try:
            found = json.loads(pathlib.Path(path).read_text())["points"]
            points += [(point["stored_bits"], point["kl"], point["code_bits"], point["recipe"]) for point in found]
        except (ValueError, KeyError, TypeError) as error:
            raise PeerError(f"{path}: no front as `lowkey tune` writes it: {error!r}") from error
    best: list[tuple] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    if len(best) > most:
        low, high = best[0][0], best[-1][0]
        wanted = [low + (high - low) * i / (most - 1) for i in range(most)]
        best = sorted({min(best, key=lambda point: abs(point[0] - bits)) for bits in wanted})
    return {f"tuned {code:.2f}": recipe for _, _, code, recipe in best}


def family(row: dict) -> str:
    """What is one line of the picture, and one answer to "which of ours"."""
    if row["engine"] != "lowkey":
        return row["engine"]
    if row["kv"].startswith("tuned"):
        return "lowkey, tuned"
    return "lowkey, KIVI" if row["kv"].startswith("kivi") else "lowkey, per token"


def against(rows: list[dict]) -> list[dict]:
    """For each of the peer's types: the closest of our recipes that store no more bits."""
    pairs = []
    for peer in rows:
        ours = [r for r in rows if r["engine"] == "lowkey" and r["stored_bits"] <= peer["stored_bits"]]
        if peer["engine"] == "lowkey" or peer["kv"] == "f16" or not ours:
            continue
        best = min(ours, key=lambda r: r["kl_mean"])
        pair = {"llama.cpp": peer["kv"], "stored": peer["stored_bits"], "kl": peer["kl_mean"], "lowkey": best["kv"]}
        pair |= {"stored ": best["stored_bits"], "kl ": best["kl_mean"], "ratio": best["kl_mean"] / peer["kl_mean"]}
        pairs.append(pair)
    return pairs


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev bench quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lowkey", required=True, help="the program")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--text", required=True, help="UTF-8; for published figures WikiText-2's wiki.test.raw")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--ctx", type=int, default=1024, help="tokens of a window")
    parser.add_argument("--chunks", type=int, default=3, help="the text's first so many windows")
    parser.add_argument("--kv", action="append", help="lowkey's recipes; may be given again")
    parser.add_argument(
        "--front",
        metavar="FILE",
        action="append",
        default=[],
        help="also the points of a front.json; may be given again",
    )
    parser.add_argument("--points", type=int, default=12, help="of all fronts together, at most")
    parser.add_argument("--types", type=lambda text: text.split(","), default=PEER_TYPES, help="llama.cpp's; none")
    parser.add_argument("--plot", metavar="FILE", help="KL against stored bits, as .svg or .png")
    parser.add_argument(
        "--peer", default=str(pathlib.Path(__file__).with_name("peer_llama_cpp.py")), help=argparse.SUPPRESS
    )
    add_output_arguments(parser)
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.text, *arguments.front):
        if not pathlib.Path(path).is_file():
            parser.error(f"no such file: {path}")
    if arguments.types == ["none"]:
        arguments.types = []
    elif "f16" not in arguments.types:
        arguments.types.insert(0, "f16")
    return arguments


def measure_peer(arguments: argparse.Namespace, tokens_sha256: str) -> list[dict]:
    try:
        peer = Peer(arguments)
    except PeerError as error:
        progress(f"llama.cpp: left out: {error}")
        return []
    try:
        # What lowkey reads: bytes that are no UTF-8 would part the two.
        text = pathlib.Path(arguments.text).read_bytes().decode()
        windows = peer.windows(text, arguments.ctx, arguments.chunks)
        if window_sha256(windows) != tokens_sha256:
            raise PeerError("llama.cpp and lowkey do not see the same tokens: nothing to compare")
        return peer.measure(windows, arguments.types)
    finally:
        peer.worker.close()


def main() -> int:
    arguments = parse_arguments()
    where = machine()
    recipes = {recipe: recipe for recipe in arguments.kv or RECIPES}
    if arguments.front:
        tuned = front_recipes(arguments.front, max(2, arguments.points))
        recipes |= {name: recipe for name, recipe in tuned.items() if recipe not in recipes.values()}
    progress(f"lowkey: {len(recipes)} recipes")
    ours = Lowkey(arguments).measure(recipes)
    rows = (measure_peer(arguments, ours[0]["tokens_sha256"]) if arguments.types else []) + ours
    rows.sort(key=lambda row: (row["engine"] == "lowkey", -row["stored_bits"]))
    scored = f"{ours[0]['scored_tokens']} tokens scored in {ours[0]['windows']} windows of {arguments.ctx}"
    above = f"{where}\n{pathlib.Path(arguments.model).name} on {pathlib.Path(arguments.text).name}: {scored}\n"
    pairs = against(rows)
    below = "\nthe closest recipe with no more bits\n\n" + table(pairs, AGAINST, arguments.markdown) if pairs else ""
    if arguments.json != "-":
        shown = [{title: row.get(key) for title, (key, _) in COLUMNS.items()} for row in rows]
        print(above)
        print(table(shown, {title: form for title, (_, form) in COLUMNS.items()}, arguments.markdown))
        print(below)
    if arguments.json:
        write_json(rows, arguments.json)
    if arguments.plot:
        from quality.plot import draw  # its library is wanted for this alone

        draw({name: [r for r in rows if family(r) == name] for name in dict.fromkeys(map(family, rows))}, arguments)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (PeerError, OSError, UnicodeDecodeError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(1)
