#!/usr/bin/env python3
"""What to spend a KV cache's bytes on: more bits, or more worked material? Two tasks that a 135M model can do, made from
a seed, asked with few and many examples before each question, which show their work or give the answer alone, over
caches of several precisions. Called by ./dev bench worked, which builds the program.

  sums    the sum of three numbers. Worked: "5 + 8 = 13, 13 + 2 = 15."
  apples  three people have some each; how many two of them have together. Worked: what each of the two has, then the
          sum.

The last number of an answer counts. All see the same questions, so two rows are compared question by question. MB is what the cache holds at the end of a
mean question: its tokens' share of whole pages, and whole windows; "in pages" is what is allocated, as `lowkey plan`
says. Pages have 128 tokens, questions have hundreds: of a page that is not full, only the part in use is charged.
"""

import argparse
import itertools
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile
from typing import NamedTuple

from rows import add_output_arguments, machine, progress, table, write_json
from worker import PeerError

RECIPES = [f"kivi-{bits}:r32+i1" for bits in ("8", "4", "4/2", "2")]  # besides 16
SHOTS = [0, 1, 2, 4, 8, 16]
MAX_TOKENS = {"worked": 40, "short": 12}  # those of a right answer and a few more
PAGES_CTX = 4096  # whole pages: what a token adds

PEOPLE = """Anna Ben Carl Dora Emma Fred Gina Hugo Ivan Jane Karl Lisa Mary Nick Olga Paul Rita Sam Tom Vera""".split()

COLUMNS = {
    "MB": ("megabytes", ".2f"),
    "in pages": ("megabytes_allocated", ".2f"),
    "kv": ("kv", ""),
    "shots": ("shots", "d"),
    "form": ("form", ""),
    "tokens": ("tokens", ".0f"),
    "right": ("accuracy", ".1%"),
    "from": ("accuracy_low", ".1%"),
    "to": ("accuracy_high", ".1%"),
}
AGAINST = {
    "longer, fewer bits": "",
    "MB": ".2f",
    "shorter, more bits": "",
    "MB ": ".2f",
    "difference": "+.1%",
    "from": "+.1%",
    "to": "+.1%",
    "better": "",
}
SUMMARY = {
    "longer at": "",
    "shorter at": "",
    "pairs": "d",
    "longer better": "d",
    "shorter": "d",
    "undecided": "d",
    "mean": "+.1%",
    "from": "+.1%",
    "to": "+.1%",
}


class Example(NamedTuple):
    question: str
    worked: str
    answer: str

    def line(self, form: str) -> str:
        answer = f"{self.worked} #### {self.answer}" if form == "worked" else f"#### {self.answer}"
        return json.dumps({"question": self.question, "answer": answer}) + "\n"


def sums(random_: random.Random) -> Example:
    first, second, third = (random_.randint(1, 9) for _ in range(3))
    total = first + second + third
    worked = f"{first} + {second} = {first + second}, {first + second} + {third} = {total}."
    return Example(f"What is the sum of {first}, {second}, {third}?", worked, str(total))


def apples(random_: random.Random) -> Example:
    has = {name: random_.randint(1, 9) for name in random_.sample(PEOPLE, 3)}
    one, other = random_.sample(list(has), 2)
    told = ", ".join(f"{name} has {count}" for name, count in has.items())
    total = has[one] + has[other]
    worked = f"{one} has {has[one]}, {other} has {has[other]}, {has[one]} + {has[other]} = {total}."
    return Example(f"{told}. How many have {one} and {other} together?", worked, str(total))


TASKS = {"sums": sums, "apples": apples}


def examples(task: str, seed: int, count: int) -> list[Example]:
    """No two the same; of one seed, fewer are the first of more."""
    random_ = random.Random(f"{seed} {task}")
    found: dict[str, Example] = {}
    while len(found) < count:
        example = TASKS[task](random_)
        found.setdefault(example.question, example)
    return list(found.values())


class Lowkey:
    """The program, on one model, for all recipes at once."""

    def __init__(self, arguments: argparse.Namespace):
        self.program, self.model, self.threads = arguments.lowkey, arguments.model, str(arguments.threads)
        self.kv = arguments.recipes
        self._plans: dict[int, list[dict]] = {}

    def _run(self, verb: str, *options: str) -> str:
        command = [self.program, verb, self.model, *options, *(word for kv in self.kv for word in ("--kv", kv))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerError((done.stderr.strip() or "lowkey failed").splitlines()[-1])
        return done.stdout

    def answers(self, questions: pathlib.Path, shots: pathlib.Path | None, max_tokens: int) -> list[dict]:
        """eval's rows, 16 first."""
        target = questions.with_name("results.json")
        options = ["--task", str(questions), "--max-tokens", str(max_tokens), "--json", str(target)]
        options += ["--weights", "auto", "--threads", self.threads]
        self._run("eval", *options, *(["--few-shot", str(shots)] if shots else []))
        return json.loads(target.read_text())

    def plan(self, index: int, tokens: int) -> dict:
        """What the recipe of eval's row `index` allocates for so many tokens."""
        if tokens not in self._plans:
            report = json.loads(self._run("plan", "--kv", "16", "--ctx", str(tokens), "--json"))
            self._plans[tokens] = report["plans"]
        return self._plans[tokens][index]


def measure(lowkey: Lowkey, task: str, arguments: argparse.Namespace, folder: pathlib.Path) -> list[dict]:
    drawn = examples(task, arguments.seed, max(arguments.shots) + arguments.questions)
    # Asked are the last: the same whatever is shown.
    shown, asked = drawn[: max(arguments.shots)], drawn[max(arguments.shots) :]
    questions, shots_file = folder / "questions.jsonl", folder / "shots.jsonl"
    questions.write_text("".join(example.line("worked") for example in asked))
    rows = []
    for shots, form in itertools.product(arguments.shots, MAX_TOKENS):
        if shots == 0 and form == "short":
            continue  # without examples there is one form: the question
        progress(f"{task}: {shots} shots, {form}")
        shots_file.write_text("".join(example.line(form) for example in shown[:shots]))
        results = lowkey.answers(questions, shots_file if shots else None, MAX_TOKENS[form])
        for index, result in enumerate(results):
            right = [answer["correct"] for answer in result["answers"]]
            low, high = wilson(sum(right), len(right))
            bits = result["code_bits"]
            name = arguments.names[index] if index < len(arguments.names) else f"tuned {bits:.2f}"
            pages = lowkey.plan(index, PAGES_CTX)
            tokens = result["cached_tokens"]
            used = pages["kv_page_bytes"] / PAGES_CTX * tokens + pages["kv_window_bytes"] + pages["kv_prefix_bytes"]
            row = {"task": task, "kv": name, "recipe": result["recipe"], "shots": shots}
            row |= {"form": form if shots else "", "code_bits": bits, "tokens": tokens}
            row |= {"megabytes": used / 1e6}
            row["megabytes_allocated"] = lowkey.plan(index, max(1, round(tokens)))["kv_bytes"] / 1e6
            row |= {"questions": len(right), "accuracy": sum(right) / len(right)}
            row |= {"accuracy_low": low, "accuracy_high": high, "answer_tokens": result["answer_tokens"]}
            row |= {"correct": right, "seed": arguments.seed, "task_sha256": result["task_sha256"]}
            rows.append(row)
    return sorted(rows, key=lambda row: row["megabytes"])


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share (E. B. Wilson 1927), as lowkey's."""
    share, spread = successes / trials, z * z / trials
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / trials + spread / trials / 4)
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def difference(a: list[bool], b: list[bool]) -> tuple[float, float, float]:
    """Share right of a less that of b over the same questions, and its 95% interval: half a question added to each
    of the four cells (A. Agresti and Y. Min 2005), so that agreement on few questions is no certainty."""
    only_a, only_b = (sum(x and not y for x, y in zip(*two)) for two in ((a, b), (b, a)))
    count = len(a) + 2
    middle = (only_a - only_b) / count
    half = 1.96 * math.sqrt((only_a + only_b + 1) / count - middle * middle) / math.sqrt(count)
    return (only_a - only_b) / len(a), max(-1.0, middle - half), min(1.0, middle + half)


def better(low: float, high: float) -> str:
    return "longer" if low > 0 else "shorter" if high < 0 else "undecided"


def pairs_of(rows: list[dict], within: float) -> list[tuple[dict, dict]]:
    """(longer with fewer bits, shorter with more), of about the same bytes: for each row and each recipe of fewer bits
    the one closest in bytes."""
    pairs = []
    for shorter in rows:
        closest: dict[str, tuple[float, dict]] = {}
        for longer in rows:
            if longer["code_bits"] >= shorter["code_bits"] or longer["tokens"] <= shorter["tokens"]:
                continue
            if (longer["shots"], longer["form"]) == (shorter["shots"], shorter["form"]):
                continue  # the same material: it only answers at greater length
            apart = abs(math.log(longer["megabytes"] / shorter["megabytes"]))
            if apart <= math.log(1 + within) and apart < closest.get(longer["kv"], (math.inf,))[0]:
                closest[longer["kv"]] = (apart, longer)
        pairs += [(longer, shorter) for _, longer in closest.values()]
    return pairs


def described(row: dict) -> str:
    return f"{row['kv']}, {row['shots']} {row['form']}".rstrip()


def shown_pair(longer: dict, shorter: dict) -> dict:
    middle, low, high = difference(longer["correct"], shorter["correct"])
    pair = {"longer, fewer bits": described(longer), "MB": longer["megabytes"]}
    pair |= {"shorter, more bits": described(shorter), "MB ": shorter["megabytes"]}
    return {**pair, "difference": middle, "from": low, "to": high, "better": better(low, high)}


def summary(pairs: list[tuple[dict, dict]]) -> list[dict]:
    """By recipes. The mean's interval is over questions, each with the mean of its pairs: pairs share questions and are
    no independent trials."""
    groups: dict[tuple[str, str], list] = {}
    for longer, shorter in pairs:
        groups.setdefault((longer["kv"], shorter["kv"]), []).append((longer, shorter))
    lines = []
    for (low_kv, high_kv), group in groups.items():
        verdicts = [shown_pair(*pair)["better"] for pair in group]
        # [question][pair]
        gains = zip(*([x - y for x, y in zip(longer["correct"], shorter["correct"])] for longer, shorter in group))
        each = [sum(gain) / len(group) for gain in gains]
        mean = sum(each) / len(each)
        variance = sum((value - mean) ** 2 for value in each) / max(1, len(each) - 1)
        half = 1.96 * math.sqrt(variance / len(each))
        line = {"longer at": low_kv, "shorter at": high_kv, "pairs": len(group)}
        counts = {side: verdicts.count(side) for side in ("longer", "shorter", "undecided")}
        line |= {"longer better": counts["longer"], "shorter": counts["shorter"], "undecided": counts["undecided"]}
        lines.append({**line, "mean": mean, "from": mean - half, "to": mean + half})
    return lines


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev bench worked", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lowkey", required=True, help="the program")
    parser.add_argument("--model", required=True, help="a GGUF file that answers questions")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--task", choices=TASKS, action="append", help="may be given again; default: sums")
    parser.add_argument("--questions", type=int, default=150, help="of each task")
    parser.add_argument("--shots", type=lambda text: sorted({int(n) for n in text.split(",")}), default=SHOTS)
    parser.add_argument("--kv", action="append", help="recipes besides 16; may be given again")
    parser.add_argument("--recipe", action="append", default=[], help="also a tuned one: a file, or front.json@BITS")
    parser.add_argument("--within", type=float, default=0.1, help="bytes that differ by so little count as equal")
    parser.add_argument("--all-pairs", action="store_true", help="list also the pairs that leave 16 bits out")
    parser.add_argument("--seed", type=int, default=1)
    add_output_arguments(parser)
    arguments = parser.parse_args()
    if not pathlib.Path(arguments.model).is_file():
        parser.error(f"no such file: {arguments.model}")
    if arguments.questions < 1 or not 0 <= min(arguments.shots) <= max(arguments.shots) <= 100:
        parser.error("at least one question, and 0 to 100 shots")
    arguments.questions = min(arguments.questions, 500)  # there are 729 sums
    kv = [recipe for recipe in arguments.kv or RECIPES if recipe != "16"]
    arguments.recipes = kv + arguments.recipe
    arguments.names = ["16", *kv]
    return arguments


def show(task: str, rows: list[dict], pairs: list[tuple[dict, dict]], arguments: argparse.Namespace) -> None:
    form = arguments.markdown
    print(f"{pathlib.Path(arguments.model).name}, {task}: {rows[0]['questions']} questions, seed {arguments.seed}\n")
    shown = [{title: row[key] for title, (key, _) in COLUMNS.items()} for row in rows]
    print(table(shown, {title: style for title, (_, style) in COLUMNS.items()}, form))
    listed = [shown_pair(*pair) for pair in pairs if arguments.all_pairs or pair[1]["kv"] == "16"]
    if listed:
        against = "fewer tokens at more bits" if arguments.all_pairs else "fewer tokens at 16 bits"
        print(f"\n{task}: longer at low bits against {against}, bytes within {arguments.within:.0%}\n")
        print(table(listed, AGAINST, form))
    if pairs:
        print(f"\n{task}: every pair of equal bytes, by recipes\n")
        print(table(summary(pairs), SUMMARY, form))
    print()


def main() -> int:
    arguments = parse_arguments()
    lowkey = Lowkey(arguments)
    where = machine()
    rows, paired, summed = [], [], []
    for task in arguments.task or ["sums"]:
        with tempfile.TemporaryDirectory() as folder:
            mine = measure(lowkey, task, arguments, pathlib.Path(folder))
        pairs = pairs_of(mine, arguments.within)
        rows += mine
        paired += [{"task": task, **shown_pair(*pair)} for pair in pairs]
        summed += [{"task": task, **line} for line in summary(pairs)]
        if arguments.json != "-":
            print(where)
            show(task, mine, pairs, arguments)
    if arguments.json:
        about = {"machine": where, "model": pathlib.Path(arguments.model).name}
        write_json({**about, "rows": rows, "pairs": paired, "summary": summed}, arguments.json)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (PeerError, OSError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(1)
