#!/usr/bin/env python3
"""`lowkey eval --choices` and `--mt-bench` from end to end, on the tiny model: printed, written, refused, gone on with."""

import json
import pathlib

from programs import expect, finish, programs, start


class Case:
    def __init__(self, lowkey: str, model: str, folder: pathlib.Path) -> None:
        self.lowkey, self.model, self.folder = lowkey, model, folder

    def eval(self, *options: str) -> tuple[int, str, str]:
        return finish(start([self.lowkey, "eval", self.model, *options], self.folder, LOWKEY_TEXT="not-there.txt"))

    def printed(self, *options: str) -> list[str]:
        status, stdout, stderr = self.eval(*options)
        expect(status == 0, f"{options}: status {status}: {stderr}")
        lines = stdout.splitlines()
        expect(max(len(line) for line in lines[1:] or [""]) <= 100, stdout)
        return lines

    def refusal(self, *options: str) -> str:
        status, stdout, stderr = self.eval(*options)
        expect(status == 1 and not stdout and stderr.count("\n") == 1, f"{options}: status {status}: {stdout}{stderr}")
        return stderr.removeprefix("lowkey: error: ").strip()

    def write(self, name: str, lines: list[dict]) -> str:
        (self.folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return name


def check_choices(case: Case) -> None:
    questions = [
        {
            "question": f"{n} + {n}?",
            "choices": ["one", f"{n + n}", "none of them"],
            "answer": "B",
            "subject": f"s{n % 2}",
        }
        for n in range(1, 6)
    ]
    letters = case.write("letters.jsonl", questions)
    texts = case.write(
        "texts.jsonl", [{"query": f"{n} and", "choices": [" so on", f" {n}", "!"], "gold": n % 3} for n in range(6)]
    )
    kv = ["--kv", "2", "--kv", "16"]
    for task, style, shots in ((letters, "letters", "0"), (letters, "letters", "2"), (texts, "text", "0")):
        written = set()
        for threads in ("1", "2"):
            options = ["--choices", task, *kv, "--few-shot", shots, "--json", "r.json", "-t", threads]
            lines = case.printed(*options)
            written.add((case.folder / "r.json").read_text())
            asked = 5 if style == "letters" else 6  # shots are other questions of the file
            expect(f"{asked} questions" in lines[0] and task in lines[0], lines[0])
            expect([line.split()[0] for line in lines[-2:]] == ["16", "2"], str(lines))
        expect(len(written) == 1, f"{task}: threads show")
        exact, low = json.loads(written.pop())
        expect((exact["recipe"], low["recipe"], low["style"]) == ("16", "2", style), str(low))
        expect((exact["questions"], exact["shots"]) == (asked, int(shots)), str(exact))
        for row in (exact, low):
            for answer in row["answers"]:
                best = max(range(3), key=lambda i: answer["log_likelihood"][i])
                expect(answer["picked"] == best, str(answer))
            right = sum(answer["picked"] == answer["gold"] for answer in row["answers"])
            expect(abs(row["acc"] - right / asked) < 1e-12, str(row))
            expect(row["acc_low"] <= row["acc"] <= row["acc_high"], str(row))
        likelihoods = [[answer["log_likelihood"] for answer in row["answers"]] for row in (exact, low)]
        expect(likelihoods[0] != likelihoods[1], "2 bits, and the same likelihoods")
        expect(set(exact["subjects"]) == ({"s0", "s1"} if style == "letters" else set()), str(exact["subjects"]))

    # What is put before prompts changes them, for every recipe alike.
    case.printed("--choices", texts, "--begin-with", "Now then", "--json", "r.json")
    (begun,) = json.loads((case.folder / "r.json").read_text())
    expect([a["log_likelihood"] for a in begun["answers"]] != likelihoods[0], "begun otherwise, and the same")

    case.write("letters.jsonl", [*questions, {"question": "?", "query": "?", "choices": ["a", "b"], "answer": 0}])
    expect(case.refusal("--choices", letters) == 'letters.jsonl:6: both "question" and "query": one of them', "both")
    case.write("letters.jsonl", [{"question": "?", "choices": ["a", "b"], "answer": "C"}])
    expect("letters.jsonl:1: answer: none of the 2 choices" in case.refusal("--choices", letters), "beyond")


def check_mt_bench(case: Case) -> None:
    questions = [
        {"question_id": n, "category": "math", "turns": [f"What is {n} + 1?", "And twice that?"]} for n in (81, 82, 83)
    ]
    source = case.write("questions.jsonl", questions)
    options = ["--mt-bench", source, "--kv", "kivi-2:r32", "-n", "5", "-o", "answers.jsonl", "-t", "1"]

    def answers() -> list[dict]:
        return [json.loads(line) for line in (case.folder / "answers.jsonl").read_text().splitlines()]

    expect("1 answer of" in case.printed(*options, "--limit", "1")[0], "one answer")
    expect("3 answers" in case.printed(*options)[0], "three answers")
    whole = answers()
    expect([answer["question_id"] for answer in whole] == [81, 82, 83], str(whole))
    for answer in whole:
        # FastChat's judge reads these.
        expect({"question_id", "answer_id", "model_id", "choices", "tstamp"} <= set(answer), str(answer))
        expect(answer["choices"][0]["index"] == 0 and len(answer["choices"][0]["turns"]) == 2, str(answer))
    # Cut off in the middle of a line: that answer is made again, the others stay.
    file = case.folder / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    expect("1 of them new" in case.printed(*options)[0], "one is new")
    again = answers()
    expect(again[:2] == whole[:2], "answers that were there changed")
    for key in ("answer_id", "choices", "model_id"):
        expect(again[2][key] == whole[2][key], f"{key}: {again[2]} after {whole[2]}")
    before = file.read_bytes()
    expect("answers.jsonl:1: " in case.refusal(*options[:-2], "--seed", "7"), "other settings")
    expect(file.read_bytes() == before, "refused, and written to")
    expect("one --kv" in case.refusal(*options, "--kv", "16"), "two caches")


def main() -> None:
    with programs(__doc__) as p:
        case = Case(p.lowkey, str(p.tiny_model("tiny.gguf")), p.folder)
        check_choices(case)
        check_mt_bench(case)


if __name__ == "__main__":
    main()
