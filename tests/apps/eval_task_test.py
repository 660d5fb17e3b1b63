#!/usr/bin/env python3
"""`lowkey eval --task` from end to end, on the tiny model: what it prints, what it writes, what it refuses."""

import json
import os
import pathlib
import subprocess

from programs import programs

CONVERSATION = [
    {"role": "system", "content": "Brief."},
    {"role": "user", "content": "A is 1."},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "What is A?"},
]


def check(lowkey: str, model: str, folder: pathlib.Path) -> None:
    task, shots, results = folder / "task.jsonl", folder / "shots.jsonl", folder / "results.json"
    examples = [{"question": f"{n} + {n}?", "answer": f"It is {n + n}.\n#### {n + n}"} for n in range(1, 6)]
    examples.append({"messages": CONVERSATION, "answer": "1"})
    lines = [json.dumps(example) for example in examples]
    task.write_text("\n".join(lines))
    shots.write_text("\n".join(lines[:2]))

    def run(*options: str, expected: int = 0) -> subprocess.CompletedProcess:
        command = [lowkey, "eval", model, "--kv", "kivi-2:r32", "--kv", "16", "-n", "6", "--task", str(task), *options]
        environment = {**os.environ, "LOWKEY_TEXT": "not-there.txt"}  # a task needs no text
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == expected, done
        return done

    written = {}
    for form, options in {"text": ["--few-shot", "2"], "chat": ["--few-shot", str(shots), "--as-chat"]}.items():
        for threads in ("1", "2"):
            done = run(*options, "--json", str(results), "-t", threads)
            lines_out = done.stdout.splitlines()
            assert f"4 questions, 2 shots, as {form}; greedy, at most 6 tokens" in lines_out[0], done.stdout
            assert max(len(line) for line in lines_out[1:]) <= 100, done.stdout
            assert [line.split()[0] for line in lines_out[-2:]] == ["16", "kivi-2:r32"], done.stdout
            # Threads do not show, nor does anything that differs from run to run.
            assert written.setdefault(form, results.read_text()) == results.read_text()
        rows = json.loads(written[form])
        assert [row["recipe"] for row in rows] == ["16", "kivi-2:r32"], rows
        for row in rows:
            assert [answer["line"] for answer in row["answers"]] == [3, 4, 5, 6], row
            right = sum(answer["correct"] for answer in row["answers"])
            assert row["exact_match"] == right / 4, row
            assert 0 <= row["exact_match_low"] <= row["exact_match"] <= row["exact_match_high"] <= 1, row
            assert all(len(answer["tokens"]) <= 6 for answer in row["answers"]), row
            assert (row["questions"], row["shots"], row["format"]) == (4, 2, form), row
        assert rows[0]["answers_changed"] == 0 and rows[0]["code_bits"] == 16, rows
        assert rows[1]["bytes_per_token"] < rows[0]["bytes_per_token"], rows
    assert written["text"] != written["chat"]
    assert "2 questions, no shots, as text" in run("--limit", "2").stdout
    assert "1 question, no shots, as text" in run("--limit", "1").stdout

    def refusal(*options: str) -> str:
        done = run(*options, expected=1)
        assert not done.stdout and len(done.stderr.splitlines()) == 1, done
        return done.stderr.removeprefix("lowkey: error: ").strip()

    assert refusal("--few-shot", "6") == "task.jsonl: 6 shots of 6 examples leave nothing to ask"
    assert "nothing.jsonl" in refusal("--few-shot", "nothing.jsonl")
    long_one = {"question": "a" * 2000, "answer": "1"}
    task.write_text(json.dumps(examples[0]) + "\n" + json.dumps(long_one))
    assert refusal().startswith("task.jsonl:2: its prompt is "), refusal()
    task.write_text(lines[0] + "\n" + '{"question": "a", "answer": 5}')
    assert refusal() == "task.jsonl:2: answer: expected a string, found number"


def main() -> None:
    with programs(__doc__) as p:
        check(p.lowkey, str(p.tiny_model("tiny.gguf")), p.folder)


if __name__ == "__main__":
    main()
