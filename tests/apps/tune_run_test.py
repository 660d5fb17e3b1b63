#!/usr/bin/env python3
"""`lowkey tune` as people start it: killed and started again, on several processes, with other settings.

Needs no packages. Every way must leave the same bytes.
"""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import time

from programs import expect, finish, programs, start

COMPARED = ("front.json", "report.json", "report.html")
QUICK = "--tokens 256 --ctx 128 --trials 12 --points 6 -t 1".split()


def text_of(lines: int) -> str:
    words = "the cache of a model holds keys and values that were read before".split()
    chance = random.Random(3)
    return "\n".join(" ".join(chance.choice(words) for _ in range(12)) for _ in range(lines)) + "\n"


class Case:
    def __init__(self, lowkey: str, folder: pathlib.Path, model: pathlib.Path, text: pathlib.Path) -> None:
        self.lowkey, self.folder, self.model, self.text = lowkey, folder, model, text

    def command(self, *more: str) -> list[str]:
        # Relative, so that files do not differ by where they lie; all runs write to a folder called "out".
        return [self.lowkey, "tune", str(self.model), "-o", "out", "--text", str(self.text), *QUICK, *more]

    def start(self, out: str, *more: str, **environment: str) -> subprocess.Popen:
        return start(self.command(*more), self.folder / out, **environment)

    def run(self, out: str, *more: str) -> tuple[int, str, str]:
        return finish(self.start(out, *more))

    def results(self, out: str) -> dict[str, bytes]:
        place = self.folder / out / "out"
        names = [p.name for p in place.iterdir() if p.name.startswith(("recipe-", "kvtuner-"))]
        # Without plotly.js there is no page.
        names += [name for name in COMPARED if (place / name).exists()]
        return {name: (place / name).read_bytes() for name in sorted(names)}

    def records(self, out: str) -> int:
        journal = self.folder / out / "out" / "journal.jsonl"
        return journal.read_text().count('"recipe"') if journal.exists() else 0


def check_whole(case: Case) -> dict[str, bytes]:
    status, stdout, stderr = case.run("whole")
    expect(status == 0, f"status {status}: {stderr}")
    expect("What to use:" in stdout, stdout)
    expect(max(map(len, stdout.splitlines())) <= 100, f"a line is too wide:\n{stdout}")
    front = json.loads((case.folder / "whole/out/front.json").read_text())
    points = front["points"]
    expect(2 <= len(points) <= 6, f"{len(points)} points")
    for point in points:
        expect(point["kl"] >= 0 and point["kl_heldout"] >= 0 and point["ppl"] > 1, str(point))
    bits = [point["code_bits"] for point in points]
    expect(bits == sorted(bits), f"bits {bits}")
    results = case.results("whole")
    expect(sum(name.startswith("recipe-") for name in results) == len(points), str(list(results)))
    return results


def check_killed(case: Case, whole: dict[str, bytes]) -> None:
    total = case.records("whole")
    chance = random.Random(int.from_bytes(os.urandom(4), "little"))
    for attempt in range(3):
        out = f"killed-{attempt}"
        after = chance.randrange(1, total)
        process = case.start(out)
        while process.poll() is None and case.records(out) < after:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = case.records(out)
        status, _, stderr = case.run(out)
        expect(status == 0, f"killed after {kept} trials, then status {status}: {stderr}")
        expect(case.results(out) == whole, f"killed after {kept} trials, and other files")
        expect(case.records(out) == total, f"killed after {kept} trials: {case.records(out)} instead of {total}")


def check_torn(case: Case, whole: dict[str, bytes]) -> None:
    journal = case.folder / "killed-0/out/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    status, _, stderr = case.run("killed-0")
    expect(status == 0 and "torn" in stderr, f"status {status}: {stderr}")
    expect(case.results("killed-0") == whole, "torn, and other files")


def check_refusals(case: Case) -> None:
    for more, words in (
        (("--seed", "9"), "seed"),
        (("--bits", "8,4"), "candidates"),
        (("--max-bits", "4"), "max_bits"),
    ):
        status, _, stderr = case.run("killed-1", *more)
        expect(status == 1 and words in stderr and stderr.count("\n") == 1, f"{more}: status {status}: {stderr}")
    text = case.text.read_text()
    case.text.write_text(text + "More.\n")
    status, _, stderr = case.run("killed-1")
    case.text.write_text(text)
    expect(status == 1 and "sources" in stderr, f"another text: status {status}: {stderr}")
    damaged = case.folder / "killed-1/out/journal.jsonl"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    status, _, stderr = case.run("killed-1")
    expect(status == 1 and "journal.jsonl" in stderr, f"damaged: status {status}: {stderr}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_crew(case: Case, whole: dict[str, bytes]) -> None:
    crew = {
        "WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "LOWKEY_LOST_AFTER_MS": "800",
    }
    processes = [case.start("crew", RANK=str(rank), **crew) for rank in range(3)]
    # One of them is killed in the middle of its work.
    total = case.records("whole")
    while processes[0].poll() is None and case.records("crew") < total // 3:
        time.sleep(0.005)
    processes[2].send_signal(signal.SIGKILL)
    errors = [process.communicate(timeout=200)[1] for process in processes]
    expect(processes[0].returncode == 0, f"rank 0: {errors[0]}")
    expect(processes[1].returncode == 0, f"rank 1: {errors[1]}")
    expect("trials measured" in errors[1], errors[1])
    expect(case.results("crew") == whole, "three processes, and other files")

    # Another instruction set is refused by name.
    crew["MASTER_PORT"], crew["WORLD_SIZE"] = str(free_port()), "2"
    leader = case.start("other", RANK="0", **crew)
    other = case.start("other", RANK="1", LOWKEY_ISA="scalar", **crew)
    _, stderr = other.communicate(timeout=120)
    leader.kill()
    leader.communicate()
    expect(other.returncode == 1 and "instruction_set" in stderr, f"status {other.returncode}: {stderr}")


def check_windows(case: Case) -> None:
    """A family that the probe does not know yet: tuned all the same, without pruning."""
    status, _, stderr = case.run("windows", "--mode", "per-token", "--bits", "8,4")
    expect(status == 0 and "a model with sliding windows cannot be probed yet" in stderr, f"status {status}: {stderr}")
    report = json.loads((case.folder / "windows/out/report.json").read_text())
    expect(report["probe"] is None and not any(layer["dropped"] for layer in report["pruned"]), str(report["pruned"]))
    points = json.loads((case.folder / "windows/out/front.json").read_text())["points"]
    expect(all(point["kl"] > 0 for point in points), str(points))
    status, _, stderr = case.run("groups", "--by", "group")
    expect(status == 1 and "--by layer" in stderr and stderr.count("\n") == 1, f"status {status}: {stderr}")


def main() -> None:
    with programs(__doc__) as p:
        text = p.folder / "text.txt"
        text.write_text(text_of(200))
        case = Case(p.lowkey, p.folder, p.tiny_model("tiny.gguf"), text)
        whole = check_whole(case)
        check_killed(case, whole)
        check_torn(case, whole)
        check_refusals(case)
        check_crew(case, whole)
        check_windows(Case(p.lowkey, p.folder, p.tiny_model("sliding", "mistral_window"), text))


if __name__ == "__main__":
    main()
