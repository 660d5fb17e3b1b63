#!/usr/bin/env python3
"""`lowkey calibrate` as people start it: extracted, trained, killed and started again, stopped, refused.

Needs no packages. However a training is interrupted, it must leave the same bytes.
"""

import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import time

from programs import expect, finish, programs, start

TRAINING = "--loss answers --tokens 64 --samples 12 --heldout 3 --accumulation 4 --evaluate-every 4".split()


def read_safetensors(path: pathlib.Path) -> tuple[dict, dict[str, bytes]]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    at = 8 + size
    return metadata, {
        name: data[at + entry["data_offsets"][0] : at + entry["data_offsets"][1]]
        for name, entry in header.items()
        if name.startswith("layers.")
    }


class Case:
    def __init__(self, lowkey: str, folder: pathlib.Path, model: pathlib.Path, text: pathlib.Path) -> None:
        self.lowkey, self.folder, self.model, self.text = lowkey, folder, model, text

    def start(self, place: str, *arguments: str) -> subprocess.Popen:
        return start([self.lowkey, "calibrate", str(self.model), *arguments], self.folder / place)

    def run(self, place: str, *arguments: str) -> tuple[int, str, str]:
        return finish(self.start(place, *arguments))

    def training(self, *more: str) -> list[str]:
        student = ["--student", str(self.model), "--text", str(self.text)]
        steps = [] if "--steps" in more else ["--steps", "24"]
        prefix = [] if "--prefix" in more else ["--prefix", "ids:5,6,7"]
        return ["-o", "p.safetensors", *prefix, *student, *TRAINING, *steps, *more]

    def train(self, place: str, *more: str) -> tuple[int, str, str]:
        return self.run(place, *self.training(*more))

    def file(self, place: str, name: str = "p.safetensors") -> pathlib.Path:
        return self.folder / place / name


def check_extracted(case: Case) -> None:
    status, stdout, stderr = case.run("extracted", "-o", "p.safetensors", "--prefix", "ids:5,6,7", "--name", "five")
    expect(status == 0, f"status {status}: {stderr}")
    expect("3 tokens" in stdout and "+i@p.safetensors" in stdout, stdout)
    metadata, tensors = read_safetensors(case.file("extracted"))
    expect(json.loads(metadata["tokens"]) == [5, 6, 7] and metadata["name"] == "five", str(metadata))
    expect(all(len(data) == 3 * 2 * 32 * 2 for data in tensors.values()), str({k: len(v) for k, v in tensors.items()}))
    status, _, stderr = case.run("extracted", "-o", "4.safetensors", "--prefix", "ids:5,6,7", "--kv-bits", "4")
    expect(status == 0, f"status {status}: {stderr}")
    metadata, rounded = read_safetensors(case.file("extracted", "4.safetensors"))
    expect(metadata["bits"] == "4", str(metadata))
    for name, data in rounded.items():
        rows = [struct.unpack("<32e", data[i : i + 64]) for i in range(0, len(data), 64)]
        expect(all(len(set(row)) <= 16 for row in rows), name)
        expect(data != tensors[name], f"{name} was not rounded")
    for prefix in ("bos", "chat", "system:be kind", "text:a text"):
        status, _, stderr = case.run("extracted", "-o", "x.safetensors", "--prefix", prefix)
        expect(status == 0, f"{prefix}: status {status}: {stderr}")


def check_whole(case: Case) -> bytes:
    status, stdout, stderr = case.train("none", "--steps", "0")
    expect(status == 0, f"status {status}: {stderr}")
    expect(
        read_safetensors(case.file("none"))[1] == read_safetensors(case.file("extracted"))[1],
        "no steps, and other tensors than those extracted",
    )
    reports = ["--json", "r.json"]
    status, stdout, stderr = case.train("whole", "-t", "1", *reports)
    expect(status == 0, f"status {status}: {stderr}")
    expect("held-out loss" in stdout and max(map(len, stdout.splitlines())) <= 100, stdout)
    training = json.loads(case.file("whole", "r.json").read_text())["training"]
    expect(training["heldout_after"] < training["heldout_before"], str(training))
    curve = training["curve"]
    expect([p["step"] for p in curve] == list(range(25)), str(curve))
    expect(all((p["heldout"] is not None) == (p["step"] % 4 == 0) for p in curve), str(curve))
    left = {path.name for path in (case.folder / "whole").iterdir()}
    expect(left == {"p.safetensors", "r.json"}, str(left))
    metadata, tensors = read_safetensors(case.file("whole"))
    expect(metadata["loss"] == "answers" and metadata["step"] != "0", str(metadata))
    expect(tensors != read_safetensors(case.file("extracted"))[1], "nothing was trained")
    # The number of threads is part of the command, and of nothing else.
    status, _, stderr = case.train("threads", "-t", "2")
    expect(status == 0, f"status {status}: {stderr}")
    expect(read_safetensors(case.file("threads"))[1] == tensors, "two threads, and other bits")
    return tensors


def check_interrupted(case: Case, tensors: dict[str, bytes]) -> None:
    chance = random.Random(int.from_bytes(os.urandom(4), "little"))
    for attempt, with_signal in enumerate((signal.SIGINT, signal.SIGINT, signal.SIGKILL)):
        place = f"interrupted-{attempt}"
        process = case.start(place, *case.training("-t", "1"))
        time.sleep(0.3 + chance.random())
        process.send_signal(with_signal)
        _, stderr = process.communicate(timeout=60)
        finished = case.file(place).exists()
        # Killed by it: a busy machine, and the program had not come to where it listens.
        if with_signal == signal.SIGINT and not finished and process.returncode != -signal.SIGINT:
            expect(process.returncode == 130 and "goes on" in stderr, f"status {process.returncode}: {stderr}")
        status, _, stderr = case.train(place, "-t", "1")
        expect(status == 0, f"status {status}: {stderr}")
        expect(read_safetensors(case.file(place))[1] == tensors, f"interrupted ({with_signal}), and other bits")


def check_refusals(case: Case, other: pathlib.Path) -> None:
    short = case.folder / "short.txt"
    short.write_text("a few words")
    turned = case.folder / "turned"
    quantize = [case.lowkey, "quantize", str(case.model), "--method", "quarot", "--bits", "16", "-o", str(turned)]
    status, _, stderr = finish(start(quantize, case.folder))
    expect(status == 0, stderr)
    base = ["-o", "p.safetensors"]
    student = ["--student", str(case.model)]
    for arguments, words in (
        ([*base, "--prefix", "bose"], "not bos, chat"),
        ([*base, "--prefix", "text:@missing.txt"], "missing.txt"),
        ([*base, "--student", str(other), "--text", str(case.text)], "was not made from"),
        ([*base, "--student", str(turned), "--text", str(case.text)], "use --loss kl"),
        ([*base, *student, "--text", str(short)], "two are the least"),
        ([*base, *student, "--chats", str(case.text)], "text.txt:1"),
        (
            [*base, *student, "--text", str(case.text), "--what", "prefix", "--length", "50", "--prefix", "bos"],
            "1 tokens to start from",
        ),
        (["-o", "no/such/p.safetensors", "--prefix", "bos"], "no/such"),
    ):
        status, _, stderr = case.run("refused", *arguments)
        expect(status == 1 and words in stderr and stderr.count("\n") == 1, f"{arguments}: status {status}: {stderr}")
    # A checkpoint of another run.
    checkpoint = case.file("other-settings", "p.safetensors.checkpoint")
    for attempt in range(1, 8):
        process = case.start("other-settings", *case.training("-t", "1", "--steps", "100000", "--patience", "0"))
        time.sleep(attempt)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        if checkpoint.exists():
            break
    expect(checkpoint.exists(), "stopped, and no checkpoint")
    status, _, stderr = case.train("other-settings", "--lr", "0.5")
    expect(status == 1 and "its learning_rate was" in stderr, f"status {status}: {stderr}")


def check_learned(case: Case) -> None:
    """A longer prefix, and one that a run then begins with."""
    arguments = ["--what", "prefix", "--length", "9", "--prefix", f"text:@{case.text}"]
    status, _, stderr = case.train("learned", *arguments)
    expect(status == 0, f"status {status}: {stderr}")
    metadata, _ = read_safetensors(case.file("learned"))
    expect(len(json.loads(metadata["tokens"])) == 9, str(metadata))
    command = [case.lowkey, "run", str(case.model), "-p", "it", "--raw", "-n", "3", "--kv", "16+i@p.safetensors"]
    done = subprocess.run(command, cwd=case.folder / "learned", capture_output=True, text=True, check=False)
    expect(done.returncode == 0, done.stderr)
    command = [case.lowkey, "inspect", "p.safetensors", "--json"]
    shown = json.loads(subprocess.check_output(command, cwd=case.folder / "learned", text=True))
    # Between one, a row of equal numbers, and the root of its length.
    for kind in ("largest_over_rms", "largest_over_rms_turned"):
        expect(all(1 <= shown[kind][side] <= 32**0.5 for side in "kv"), str(shown[kind]))


def main() -> None:
    with programs(__doc__) as p:
        text = p.folder / "text.txt"
        chance = random.Random(3)
        words = "the cache of a model holds keys and values that were read before".split()
        text.write_text("\n".join(" ".join(chance.choice(words) for _ in range(12)) for _ in range(60)))
        case = Case(p.lowkey, p.folder, p.tiny_model("tiny.gguf"), text)
        check_extracted(case)
        tensors = check_whole(case)
        check_interrupted(case, tensors)
        check_refusals(case, p.tiny_model("other", "llama"))
        check_learned(case)


if __name__ == "__main__":
    main()
