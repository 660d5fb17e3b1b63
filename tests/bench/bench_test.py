#!/usr/bin/env python3
"""Runs a bench tiny, with our own arms alone, and checks the rows it writes. Needs no packages."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"

ATTENTION_KEYS = (
    "engine path k_bits v_bits group gqa head_dim threads isa mth_per_s share_of_stream ratio_to_f16".split()
)
STACK_KEYS = (
    "engine kv code_bits stored_bits batch context threads isa tok_per_s median_tok_per_s stream_gb_per_s".split()
)
GENERATION_KEYS = "engine kv threads test n_depth avg_ts stddev_ts".split()
QUALITY_KEYS = "engine kv stored_bits kl_mean kl_p999 top1_agreement ppl ppl_delta_percent scored_tokens".split()
LARGE_KEYS = ["kv", "tokens", "KV bytes", "plan says", "owned MiB", "model MiB", "tok/s"]

WORKED_KEYS = """task kv recipe shots form code_bits tokens megabytes megabytes_allocated questions accuracy accuracy_low
accuracy_high correct""".split()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(BENCH), "PYTHONDONTWRITEBYTECODE": "1"}


def run(*command: str) -> str:
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"bench_test: {' '.join(command)}: status {done.returncode}")
    return done.stdout


def rows_of(text: str, keys: list[str]) -> list[dict]:
    rows = json.loads(text)
    assert rows, "no rows"
    for row in rows:
        missing = [key for key in keys if key not in row]
        assert not missing, f"{row} lacks {missing}"
    return rows


def attention(bench: str) -> None:
    # Grouped heads of 64: the smallest of the shapes.
    options = ["--bench", bench, "--engines", "none", "--megabytes", "1", "--rounds", "1", "--bench-rounds", "1"]
    text = run(sys.executable, "-m", "attention.peers", *options, "--gqa", "3", "--short", "--json", "-")
    rows = rows_of(text, ATTENTION_KEYS)
    assert {16, 8, 4, 2} <= {row["k_bits"] for row in rows}
    for row in rows:
        assert row["mth_per_s"] > 0, row
        # One-pass dots round the query to one byte; anything else is close.
        assert row["relative_error"] < (0.1 if row["path"] == "one-pass" else 0.01), row


def generation(lowkey: str, write_model: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = str(pathlib.Path(folder) / "tiny.gguf")
        run(write_model, model)
        options = ["--lowkey", lowkey, "--model", model, "--threads", "2", "--engines", "none", "--json", "-"]
        options += ["--depths", "8,130", "--generate", "3", "--repetitions", "2", "--kv", "16", "--kv", "kivi-4:r32"]
        rows = rows_of(run(sys.executable, "-m", "generation.bench", *options), GENERATION_KEYS)
        tests = {(row["kv"], row["test"], row["n_depth"]) for row in rows}
        expected = {("pp8", 0), ("pp130", 0), ("tg3", 8), ("tg3", 130)}
        assert tests == {(kv, *test) for kv in ("16", "kivi-4:r32") for test in expected}, tests
        assert all(row["avg_ts"] > 0 and len(row["samples_ts"]) == 2 for row in rows)
        # The table for people, and a bad file.
        assert "kivi-4:r32" in run(lowkey, "bench", model, "-p", "8", "-n", "2", "-r", "1", "--kv", "16,kivi-4:r32")
        bad = subprocess.run([lowkey, "bench", "nothing.gguf"], capture_output=True, text=True, check=False)
        assert bad.returncode == 1 and len(bad.stderr.splitlines()) == 1, bad
        deep = [lowkey, "bench", model, "-d", "4k"]
        bad = subprocess.run(deep, capture_output=True, text=True, check=False)
        assert bad.returncode == 1 and "context is 512 tokens" in bad.stderr, bad


def large(lowkey: str) -> None:
    options = ["--lowkey", lowkey, "--threads", "2", "--arch", "SmolLM2-135M", "--layers", "2", "--prompt", "150"]
    rows = rows_of(run(sys.executable, "-m", "large.bench", *options, "-n", "3", "--json", "-"), LARGE_KEYS)
    assert [row["kv"] for row in rows] == ["16", "8/4", "kivi-4:r32", "kivi-2:r32"], rows
    for row in rows:
        assert row["KV bytes"] == row["plan says"] > 0 and row["tokens"] == 152, row


def quality(lowkey: str, write_model: str) -> None:
    here = pathlib.Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model, text, front = str(folder / "tiny.gguf"), folder / "text", folder / "front.json"
        run(write_model, model)
        text.write_text("".join(chr(33 + i * i % 31) for i in range(700)))  # punctuation and digits: no merges
        point = {"code_bits": 3.5, "recipe": "0=4,*=kivi-3:r32", "stored_bits": 5.5, "kl": 0.5}
        front.write_text(json.dumps({"points": [point]}))
        # Of two fronts one line: this one stores more and loses more, so it is not shown.
        worse = folder / "worse.json"
        worse.write_text(json.dumps({"points": [{**point, "code_bits": 3.9, "stored_bits": 5.9, "kl": 0.6}]}))
        command = [sys.executable, "-m", "quality.bench", "--lowkey", lowkey, "--model", model, "--text", str(text)]
        command += ["--threads", "2", "--ctx", "200", "--kv", "8", "--kv", "kivi-2:r32", "--front", str(front)]
        command += ["--front", str(worse)]
        stub = [*command, "--peer", str(here / "stub_quality_peer.py"), "--types", "q8_0,q5_1,q4_0"]

        rows = rows_of(run(*stub, "--json", "-"), QUALITY_KEYS)
        names = [(row["engine"], row["kv"]) for row in rows]
        # By bits; what the peer does not have is left out.
        assert names[:3] == [("llama.cpp", "f16"), ("llama.cpp", "q8_0"), ("llama.cpp", "q4_0")], names
        assert sorted(names[3:]) == sorted(("lowkey", kv) for kv in ("16", "8", "tuned 3.50", "kivi-2:r32")), names
        by = {row["kv"]: row for row in rows}
        assert all(row["scored_tokens"] == 3 * 199 for row in rows), rows
        # Means, the 99.9th percentile by nearest rank of 597, and perplexity against the peer's own f16.
        close = {("kl_mean", "q8_0"): 0.1, ("kl_p999", "q8_0"): 0.199, ("ppl", "f16"): 2.718281828**2}
        close |= {("ppl_delta_percent", "q4_0"): (2.718281828**0.5 - 1) * 100, ("kl_mean", "f16"): 0.0}
        for (key, kv), value in close.items():
            assert abs(by[kv][key] - value) < 1e-6 * max(1, value), (key, kv, by[kv])
        assert (by["q8_0"]["top1_agreement"], by["q4_0"]["top1_agreement"], by["q8_0"]["context"]) == (1, 0, 256), by
        assert by["16"]["kl_mean"] == 0 < by["8"]["kl_mean"] < by["kivi-2:r32"]["kl_mean"], by

        # The tables for people: each type has its closest rival of ours.
        printed = run(*stub, "--markdown")
        rivals = [line.split("|") for line in printed.splitlines() if line.startswith("| q")]
        assert [line[1].strip() for line in rivals] == ["q8_0", "q4_0"], printed
        assert "tuned 3.50" in printed and all(len(line) <= 100 for line in run(*stub).splitlines()[1:]), printed
        # Alone; and other tokens than ours are no comparison.
        alone = rows_of(run(*command, "--types", "none", "--json", "-"), QUALITY_KEYS)
        assert [row["engine"] for row in alone] == ["lowkey"] * 4, alone
        text.write_text(text.read_text()[:-500] + "x" * 500)
        bad = subprocess.run(stub, env=environment(), capture_output=True, text=True, check=False)
        assert bad.returncode == 1 and "do not see the same tokens" in bad.stderr, bad
        front.write_text('{"points": 3}')
        bad = subprocess.run(stub, env=environment(), capture_output=True, text=True, check=False)
        assert bad.returncode == 1 and "no front" in bad.stderr and "Traceback" not in bad.stderr, bad


def worked_statistics() -> None:
    """On planted rows: who is paired with whom, and what is concluded."""
    sys.path.insert(0, str(BENCH))
    from quality.worked_answers import Example, difference, examples, pairs_of, summary

    def row(kv: str, bits: float, shots: int, tokens: float, megabytes: float, correct: list[bool]) -> dict:
        row = {"kv": kv, "code_bits": bits, "shots": shots, "form": "worked", "tokens": tokens}
        return {**row, "megabytes": megabytes, "correct": correct}

    bad, good = [False] * 20, [True] * 10 + [False] * 10
    short = row("16", 16, 1, 100, 2.0, bad)
    rows = [short, row("4", 4, 4, 300, 1.9, good), row("4", 4, 8, 500, 2.15, bad), row("2", 2, 8, 500, 2.3, good)]
    rows.append(row("8", 8, 1, 110, 2.0, good))  # the same material: merely answers at length
    found = [(longer["kv"], longer["shots"], shorter["kv"]) for longer, shorter in pairs_of(rows, 0.1)]
    # The closest of each recipe, no further than a tenth; 4 bits are the more bits to 2, at fewer tokens.
    assert found == [("4", 4, "16"), ("4", 4, "8")], found
    assert pairs_of([short, row("4", 4, 4, 90, 2.0, good)], 0.1) == []  # not longer
    lines = {line["shorter at"]: line for line in summary(pairs_of(rows, 0.1))}
    assert (lines["16"]["longer better"], lines["16"]["undecided"], lines["16"]["mean"]) == (1, 0, 0.5), lines
    assert (lines["8"]["longer better"], lines["8"]["undecided"], lines["8"]["mean"]) == (0, 1, 0), lines
    # (10 + 1/2 - 1/2) / 22 +- 1.96 sqrt(11/22 - (10/22)^2) / sqrt(22)
    middle, low, high = difference(good, bad)
    assert middle == 0.5 and abs(low - 0.22818) < 1e-4 and abs(high - 0.68091) < 1e-4, (low, high)
    assert difference(bad, good)[2] == -low and difference(good, good)[1] < 0 < difference(good, good)[2]

    # A seed's questions are its own, no two the same, and what is worked leads to the answer.
    for task in ("sums", "apples"):
        drawn = examples(task, 1, 60)
        assert drawn[:20] == examples(task, 1, 20) != examples(task, 2, 20)
        assert len({example.question for example in drawn}) == 60
        for example in drawn:
            total = sum(map(int, example.worked.rsplit(",", 1)[1].split("=")[0].split("+")))
            assert example.worked.endswith(f"= {example.answer}.") and str(total) == example.answer, example
    example = Example("How many?", "1 + 1 = 2.", "2")
    assert json.loads(example.line("worked")) == {"question": "How many?", "answer": "1 + 1 = 2. #### 2"}
    assert json.loads(example.line("short"))["answer"] == "#### 2"


def worked(lowkey: str, write_model: str) -> None:
    worked_statistics()
    with tempfile.TemporaryDirectory() as folder:
        model = str(pathlib.Path(folder) / "tiny.gguf")
        run(write_model, model)
        command = [sys.executable, "-m", "quality.worked_answers", "--lowkey", lowkey, "--model", model]
        command += ["--threads", "2", "--questions", "4", "--shots", "0,1", "--kv", "kivi-2:r32"]
        command += ["--recipe", "0=4,*=kivi-2:r32"]
        written = json.loads(run(*command, "--task", "sums", "--task", "apples", "--json", "-"))
        rows = rows_of(json.dumps(written["rows"]), WORKED_KEYS)
        kinds = [(row["task"], row["kv"][:5], row["shots"], row["form"]) for row in rows]
        recipes, forms = ("16", "kivi-", "tuned"), ((0, ""), (1, "worked"), (1, "short"))
        expected = [(task, kv, *form) for task in ("sums", "apples") for kv in recipes for form in forms]
        assert sorted(kinds) == sorted(expected), kinds
        for task in ("sums", "apples"):
            mine = [row for row in rows if row["task"] == task]
            assert mine == sorted(mine, key=lambda row: row["megabytes"]), mine
        for row in rows:
            assert row["questions"] == len(row["correct"]) == 4 and row["accuracy"] == sum(row["correct"]) / 4, row
            assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"], row
            if row["kv"] == "16":  # what is in use, of whole pages
                assert row["megabytes"] <= row["megabytes_allocated"] < row["megabytes"] * (1 + 128 / row["tokens"]), (
                    row
                )
        assert {row["seed"] for row in rows} == {1}
        printed = run(*command, "--all-pairs")
        assert "sums: 4 questions" in printed and "apples" not in printed and "tuned" in printed, printed
        assert all(len(line) <= 100 for line in printed.splitlines()[1:]), printed
        bad = subprocess.run(
            [*command, "--kv", "nonsense"], capture_output=True, text=True, check=False, env=environment()
        )
        assert bad.returncode == 1 and "nonsense" in bad.stderr and "Traceback" not in bad.stderr, bad


def intact(lowkey: str, write_model: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model, text = str(folder / "tiny.gguf"), folder / "text"
        run(write_model, model)
        text.write_text("".join(chr(33 + i * i % 31) for i in range(700)))
        command = [sys.executable, "-m", "intact.bench", "--lowkey", lowkey, "--model", model, "--text", str(text)]
        command += ["--threads", "2", "--ctx", "128", "--chunks", "2", "--work", str(folder / "work")]
        command += ["--methods", "rtn", "--weights", "3g32,2g32", "--tables", "weights,caches", "--json", "-"]
        found = json.loads(run(*command))
        names = ["full", "rtn W3g32", "rtn W2g32"]
        assert [row["weights"] for row in found["weights"]] == names, found
        full, *rounded = found["weights"]
        # Exact weights lose nothing without a prefix and gain nothing by one.
        assert abs(full["change %"]) < 0.01, full
        for row in rounded:
            assert abs(row["none"] / full["none"] - 1) > 1e-5 and row["none"] != row["[B]"], (full, row)
        assert len(found["caches"]) == 3 * 8 and {row["kv"] for row in found["caches"]} > {"8", "2"}, found
        # What was measured is not measured again; what is new is.
        made = sorted(path.name for path in (folder / "work").iterdir())
        times = {path: path.stat().st_mtime_ns for path in (folder / "work").iterdir()}
        assert json.loads(run(*command)) == found
        assert {path: path.stat().st_mtime_ns for path in times} == times, made
        # Other settings are another model.
        awq = [*command, "--tables", "weights", "--methods", "awq", "--weights", "2g32", "--samples"]
        assert json.loads(run(*awq, "4"))["weights"][1] != json.loads(run(*awq, "8"))["weights"][1]
        printed = run(*command[:-2], "--markdown")
        assert "| rtn W2g32 |" in printed and all(len(line) <= 100 for line in printed.splitlines()[1:]), printed
        bad = subprocess.run(
            [*command, "--methods", "no"], env=environment(), capture_output=True, text=True, check=False
        )
        assert bad.returncode == 1 and "not one of" in bad.stderr and "Traceback" not in bad.stderr, bad


def stack(bench: str) -> None:
    # Small enough for milliseconds, large enough for every arm to have two sequences and more than a chunk of pages.
    shape = ["--budget", "0.004", "--layers", "2", "--heads", "2", "--head-dim", "64", "--context", "700"]
    shape += ["--rounds", "1", "--steps", "1", "--stream-megabytes", "8", "--threads", "2"]
    text = run(sys.executable, "-m", "attention.stack", "--bench", bench, *shape, "--json", "-")
    rows = {row["kv"]: row for row in rows_of(text, STACK_KEYS)}
    assert list(rows) == ["16", "kivi-2:r32", "kivi-2", "kivi-8:r32", "KVTuner C6", "KVTuner C3"], rows
    for row in rows.values():
        assert row["batch"] >= 2 and row["tok_per_s"] > 0 and row["relative_error"] < 0.01, row
        assert 0 < row["kv_bytes"] <= 4_000_000, row
        if "against" in row:
            assert row["ratio"] > 0 and row["ratio_by_stream"] > 0 and row["target"] > 0, row
            # One sequence's bytes against the other's.
            base = rows[row["against"]]
            limit = base["kv_bytes"] / base["batch"] / (row["kv_bytes"] / row["batch"])
            assert abs(row["byte_limit"] / limit - 1) < 1e-9, row
    assert [row["kv"] for row in rows.values() if "against" not in row] == ["16", "kivi-8:r32"]
    # The table for people, some arms, the published mixes on the published shape, and what is refused.
    table = run(sys.executable, "-m", "attention.stack", "--bench", bench, *shape, "--only", "C3", "--markdown")
    assert "| kivi-8:r32 |" in table and "| 16 " not in table, table
    shape[shape.index("--layers") + 1] = "32"
    shape[shape.index("--budget") + 1] = "0.02"
    text = run(sys.executable, "-m", "attention.stack", "--bench", bench, *shape, "--only", "KVTuner", "--json", "-")
    bits = {row["kv"]: round(row["code_bits"], 2) for row in json.loads(text)}
    assert bits == {"kivi-8:r32": 8.0, "KVTuner C6": 5.91, "KVTuner C3": 3.25}, bits
    for options, words in (
        (["--budget", "0.0001"], "needs"),
        (["--budget", "much"], "not a number"),
        (["--x", "1"], "--x"),
    ):
        bad = subprocess.run([bench, *options], capture_output=True, text=True, check=False)
        assert bad.returncode == 1 and len(bad.stderr.splitlines()) == 1 and words in bad.stderr, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("attention").add_argument("--bench", required=True)
    kinds.add_parser("stack").add_argument("--bench", required=True)
    of_generation = kinds.add_parser("generation")
    of_generation.add_argument("--lowkey", required=True)
    of_generation.add_argument("--write-model", required=True)
    kinds.add_parser("large").add_argument("--lowkey", required=True)
    for kind in ("quality", "worked", "intact"):
        on_model = kinds.add_parser(kind)
        on_model.add_argument("--lowkey", required=True)
        on_model.add_argument("--write-model", required=True)
    arguments = parser.parse_args()
    if arguments.kind == "attention":
        attention(arguments.bench)
    elif arguments.kind == "stack":
        stack(arguments.bench)
    elif arguments.kind == "large":
        large(arguments.lowkey)
    elif arguments.kind == "quality":
        quality(arguments.lowkey, arguments.write_model)
    elif arguments.kind == "intact":
        intact(arguments.lowkey, arguments.write_model)
    elif arguments.kind == "worked":
        worked(arguments.lowkey, arguments.write_model)
    else:
        generation(arguments.lowkey, arguments.write_model)


if __name__ == "__main__":
    main()
