#!/usr/bin/env python3
"""Compare lowkey with Hugging Face, live: called by ./dev parity, in an environment that has transformers.

  goldens     every file in tests/golden made anew and compared with the committed one: what the C++ tests hold
              lowkey to is what this transformers computes
  perplexity  `lowkey eval` on the packed cache against the fake-quantized reference, for every recipe
  families    lowkey against what was computed just now, for a model of every family: from a folder and from a GGUF,
              prefill, decode, a mix, and through packed caches; prints the table README shows
  peers       the other parity tools, each a comparison of its own (tokenizers, chat templates, recipe schema)

With --remake the goldens are written into tests/golden instead.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import fake_quant_reference
import families
import family_packed
import make_goldens
from reference import GOLDEN, ROOT, demo_tokens, load_tokenizer, read_golden

# Between two CPUs float32 sums are taken in another order. lowkey itself is held to 2e-3.
LOGIT_TOLERANCE = 5e-4

Findings = Iterator[str]


@dataclass
class Paths:
    build: pathlib.Path
    model: pathlib.Path
    scratch: pathlib.Path


def compare_logits(old: dict, new: dict) -> Findings:
    """Equal ids in equal order, but for neighbours closer than the tolerance."""
    for key in ("ids_sha256", "sample_ids"):
        if old[key] != new[key]:
            yield f"{key} differ"
            return
    for key, tolerance in (("top_logits", LOGIT_TOLERANCE), ("sample_logits", LOGIT_TOLERANCE)):
        error = max(abs(a - b) for old_row, new_row in zip(old[key], new[key]) for a, b in zip(old_row, new_row))
        if error > tolerance:
            yield f"{key} differ by up to {error:.2e}, more than {tolerance:.0e}"
    error = max(abs(a - b) for a, b in zip(old["logit_means"], new["logit_means"]))
    if error > LOGIT_TOLERANCE:
        yield f"logit_means differ by up to {error:.2e}, more than {LOGIT_TOLERANCE:.0e}"
    for position, (old_ids, new_ids) in enumerate(zip(old["top_ids"], new["top_ids"])):
        rank_of = {token: rank for rank, token in enumerate(old_ids)}
        logits = old["top_logits"][position]
        for rank, token in enumerate(new_ids):
            old_logit = logits[rank_of.get(token, -1)]  # one that was not among them lies below the last
            if abs(old_logit - logits[rank]) > 2 * LOGIT_TOLERANCE:
                yield f"position {position}: token {token} came to rank {rank}"


def compare_fake_quant(old: dict, new: dict) -> Findings:
    if [row["recipe"] for row in old["rows"]] != [row["recipe"] for row in new["rows"]]:
        yield "the recipes differ"
        return
    for old_row, new_row in zip(old["rows"], new["rows"]):
        error = math.log(new_row["ppl"] / old_row["ppl"])
        if abs(error) > fake_quant_reference.tolerance(old_row):
            yield f"{old_row['recipe']}: perplexity {new_row['ppl']}, committed {old_row['ppl']}"


def compare_values(old: object, new: object, where: str = "") -> Findings:
    """Equal, but for floats within a few units of their last place and for what says how the file was made."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            if key not in ("versions", "made_by", "command"):
                yield from compare_values(old.get(key), new.get(key), f"{where}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (old_item, new_item) in enumerate(zip(old, new)):
            yield from compare_values(old_item, new_item, f"{where}[{i}]")
    elif isinstance(old, float) and isinstance(new, float):
        if not math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-6):
            yield f"{where}: {new}, committed {old}"
    elif old != new:
        yield f"{where}: differs"


def compare_family(old: dict, new: dict) -> Findings:
    """The model the same to the last bit, its logits nearly, packed ones but for what flips of codes do."""
    for key in ("spellings", "tensors", "gguf", "sha256", "positions"):
        if old[key] != new[key]:
            yield f"{key} differ"
            return
    yield from compare_logits(old, new)
    for old_row, new_row in zip(old["packed"]["rows"], new["packed"]["rows"]):
        squares = [
            (a - b) ** 2
            for old_logits, new_logits in zip(old_row["logits"], new_row["logits"])
            for a, b in zip(old_logits, new_logits)
        ]
        error = math.sqrt(sum(squares) / len(squares)) / old_row["effect"]
        allowed = family_packed.tolerance(old_row)
        if error > allowed:
            yield f"{old_row['recipe']}: logits move by {error:.0%} of what quantization does, more than {allowed:.0%}"


def check_golden(name: str, compare: Callable[[dict, dict], Findings], paths: Paths) -> Findings:
    if not (paths.scratch / name).is_file():
        yield "was not made"
    else:
        yield from compare(read_golden(name), read_golden(name, paths.scratch))


def read_rows(path: pathlib.Path) -> list[dict]:
    """What `lowkey eval --json` wrote: an array, or one object a line."""
    text = path.read_text()
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


def check_perplexity(paths: Paths) -> Findings:
    ids = demo_tokens()[: fake_quant_reference.CONTEXT]
    tokenizer = load_tokenizer(paths.model)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    if tokenizer.encode(text).ids != ids:
        yield "the demo tokens do not survive decoding and encoding"
        return
    text_file, rows_file = paths.scratch / "text.txt", paths.scratch / "eval.json"
    text_file.write_text(text)
    reference = {row["recipe"]: row for row in read_golden("fake_quant_ppl.json", paths.scratch)["rows"]}
    # How far a correct implementation may be was measured when the golden was made.
    allowed = {row["recipe"]: fake_quant_reference.tolerance(row) for row in read_golden("fake_quant_ppl.json")["rows"]}
    command = [str(paths.build / "apps" / "lowkey" / "lowkey"), "eval", str(paths.model), "--text", str(text_file)]
    command += ["--ctx", str(fake_quant_reference.CONTEXT), "--decode-tokens", "0", "--json", str(rows_file)]
    for recipe in reference:
        command += ["--kv", recipe]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        yield f"lowkey eval exited with {done.returncode}: {done.stdout.strip()}"
        return
    rows = {row["recipe"]: row for row in read_rows(rows_file)}
    for recipe, expected in reference.items():
        if recipe not in rows:
            yield f"{recipe}: not in what lowkey eval wrote"
            continue
        ours = rows[recipe]
        error = math.log(ours["ppl"] / expected["ppl"])
        print(
            f"   {recipe}: perplexity {ours['ppl']:.4f}, reference {expected['ppl']:.4f} "
            f"({error:+.4%} of {allowed[recipe]:.2%} allowed); "
            f"mean KL {ours['kl_mean']:.6f}, reference {expected['kl_mean']:.6f}"
        )
        if not math.isfinite(error) or abs(error) > allowed[recipe]:
            yield f"{recipe}: off by more than {allowed[recipe]:.2%}"


def check_families(paths: Paths) -> Findings:
    """tests/model/family_test.cc on the goldens made just now, not on the committed ones."""
    live = paths.scratch / "live"
    goldens = live / "tests" / "golden"
    goldens.mkdir(parents=True, exist_ok=True)
    for name in families.FAMILIES:
        shutil.copy(paths.scratch / families.golden_name(name), goldens)
    command = [str(paths.build / "tests" / "model" / "family_test")]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LOWKEY_SOURCE_DIR": str(live)},
    )
    lines = done.stdout.splitlines()
    table = [line for line in lines if line.startswith("|")]
    print("\n".join(table))
    if done.returncode != 0:
        yield "\n   ".join(line for line in lines if "Failure" in line or line.startswith("[  FAILED  ]"))
    elif len(table) != len(families.FAMILIES) + 2:
        yield f"a table of {len(table)} lines for {len(families.FAMILIES)} families"


def check_tool(arguments: list[str]) -> Findings:
    command = [sys.executable, str(ROOT / "tools" / arguments[0]), *arguments[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        yield done.stdout.strip() or f"exited with {done.returncode}"


def remake(folder: pathlib.Path, paths: Paths, noise_runs: int = 0) -> None:
    def run_tool(name: str, *arguments: str) -> bytes:
        command = [sys.executable, str(ROOT / "tools" / name), *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout

    make_goldens.make_all(paths.model, folder)
    families.make_all(folder)
    fake_quant_reference.make(paths.model, folder / "fake_quant_ppl.json", noise_runs)
    run_tool("make_rope_goldens.py", "-o", str(folder))
    run_tool("make_weight_goldens.py", "-o", str(folder))
    run_tool("chat_template_parity.py", "--model", str(paths.model), "-o", str(folder))
    for file, tool in (
        ("dequant.json", ["make_dequant_goldens.py"]),
        ("tiny_model.json", ["tiny_model.py", "--golden"]),
    ):
        (folder / file).write_bytes(run_tool(*tool))


def checks(paths: Paths) -> Iterator[tuple[str, Findings]]:
    """Findings are generators: nothing runs before it is asked for."""
    comparisons = {
        **{make_goldens.tiny_golden_name(name): compare_logits for name in make_goldens.TINY_MODELS},
        "smollm2_logits.json": compare_logits,
        **{families.golden_name(name): compare_family for name in families.FAMILIES},
        "fake_quant_ppl.json": compare_fake_quant,
        **dict.fromkeys(
            ("chat_templates.json", "dequant.json", "rope.json", "tiny_model.json", "weights.json"), compare_values
        ),
    }
    for name, compare in comparisons.items():
        yield f"golden {name}", check_golden(name, compare, paths)
    yield "perplexity of the packed cache", check_perplexity(paths)
    yield "families", check_families(paths)
    tests = paths.build / "tests"
    tools = {
        "recipe schema": ["check_recipe_schema.py", str(tests / "recipe" / "recipe_samples")],
        "tokenizers": [
            *("tokenizer_parity.py", "live", "--model", str(paths.model)),
            *("--program", str(tests / "load" / "tokenizer_parity")),
        ],
    }
    for name, arguments in tools.items():
        yield name, check_tool(arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, required=True, help="a build folder of lowkey's")
    parser.add_argument("--model", type=pathlib.Path, required=True, help="SmolLM2's GGUF file")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "build" / "parity", help="a folder to empty")
    parser.add_argument("--remake", action="store_true")
    args = parser.parse_args()
    paths = Paths(args.build, args.model, args.scratch)
    if args.remake:
        remake(GOLDEN, paths, fake_quant_reference.NOISE_RUNS)
        return
    shutil.rmtree(paths.scratch, ignore_errors=True)
    paths.scratch.mkdir(parents=True)
    remake(paths.scratch, paths)
    passed = failed = 0
    for name, findings_of_check in checks(paths):
        start = time.monotonic()
        findings = list(findings_of_check)
        for finding in findings:
            print(f"   {finding}")
        print(f"{name}: {'FAILED' if findings else 'ok'}, {time.monotonic() - start:.1f} s", flush=True)
        passed += not findings
        failed += bool(findings)
    print(f"{passed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
