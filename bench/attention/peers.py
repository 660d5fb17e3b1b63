#!/usr/bin/env python3
"""Decode attention of other engines beside lowkey's, one step of one sequence, keys and values from DRAM. Called by
./dev bench attention, which makes the Python environment and builds lowkey's own bench.

Each peer and type of keys and values runs in a process of its own; each round goes through lowkey's bench and all of
them. What a peer computes is compared with NumPy in double precision, over the keys and values as the peer holds
them, before it is timed. Unit: Mth/s, million (cached tokens x query heads) per second, from the fastest 5% of steps.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from attention.shape import Case
from rows import add_output_arguments, machine, progress, report, warn_if_busy
from worker import PeerError, Worker, module

PEERS = {  # module; type -> bits of K and V, values that share a scale
    "llama.cpp": ("attention.peer_ggml", {"f16": (16, None), "q8_0": (8, 32), "q4_0": (4, 32)}),
    "onnxruntime": (
        "attention.peer_onnxruntime",
        {"f32": (32, None), "int8": (8, "channel"), "int4": (4, "channel")},
    ),
    "torch": (None, {"bf16-heads": (16, None), "bf16-rows": (16, None)}),  # a program: sdpa_peer.cc
}
# Rounding to f16 or bf16 on the way, or queries in 8 bits; a wrong layout or scale is an error near 1.
MAX_RELATIVE_ERROR = 0.05
SECONDS_PER_TURN = 0.3
SHAPE = {"head_dim": 128, "num_kv_heads": 8, "tokens": 8192}
FASTEST_SHARE = 0.05


class Arm:
    """A peer with one type of keys and values."""

    def __init__(self, engine: str, kind: str, arguments: argparse.Namespace):
        python, kinds = PEERS[engine]
        self.engine, self.kind = engine, kind
        self.bits, self.group = kinds[kind]
        megabytes, threads = str(arguments.megabytes), str(arguments.threads)
        if python is None:
            self.worker = Worker(arguments.sdpa, kind.removeprefix("bf16-"), megabytes, threads)
        else:
            options = ["--arm", kind, "--megabytes", megabytes, "--threads", threads]
            self.worker = Worker(*module(python, *options))
        self.about = self.worker.call("about")
        self.bytes_per_step = self.worker.call("prepare", **SHAPE)["bytes_per_step"]
        self.times: dict[int, list[float]] = {gqa: [] for gqa in arguments.gqa}
        self.errors = {gqa: self.worker.call("error", gqa=gqa) for gqa in arguments.gqa}
        for gqa, error in self.errors.items():
            if not error < MAX_RELATIVE_ERROR:
                raise PeerError(f"its output is {error:.2g} from the reference at GQA {gqa}: not timed")

    def row(self, gqa: int, threads: int) -> dict:
        times = sorted(self.times[gqa])
        seconds, middle = times[int(FASTEST_SHARE * (len(times) - 1))], statistics.median(times)
        token_heads = Case(gqa=gqa, **SHAPE).token_heads
        return {
            "engine": self.engine,
            "path": f"{self.about['engine']}, {self.kind}",
            "recipe": self.kind,
            "k_bits": self.bits,
            "v_bits": self.bits,
            "group": self.group,
            "gqa": gqa,
            "head_dim": SHAPE["head_dim"],
            "batch": 1,
            "context": SHAPE["tokens"],
            "threads": threads,
            "isa": self.about["isa"],
            "mth_per_s": token_heads / seconds / 1e6,
            "median_mth_per_s": token_heads / middle / 1e6,
            "gb_per_s": self.bytes_per_step / seconds / 1e9,
            "relative_error": self.errors[gqa],
        }


def lowkey_rows(arguments: argparse.Namespace, threads: str, gqa: int | None) -> list[dict]:
    """lowkey's own bench, once; its table goes to standard error."""
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "rows.json"
        command = [arguments.bench, "--json", str(target), "--threads", threads]
        command += ["--megabytes", str(arguments.megabytes), "--rounds", str(arguments.bench_rounds)]
        if gqa is not None:
            command += ["--gqa", str(gqa)]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            raise PeerError(f"{arguments.bench} failed")
        return json.loads(target.read_text())


def key(row: dict) -> tuple:
    return tuple(row.get(name) for name in ("recipe", "path", "gqa", "head_dim", "batch", "context", "threads"))


def start_peers(arguments: argparse.Namespace) -> list[Arm]:
    arms = []
    for engine, (_, kinds) in PEERS.items():
        if arguments.engines and engine not in arguments.engines:
            continue
        for kind in kinds:
            try:
                arms.append(Arm(engine, kind, arguments))
            except (PeerError, OSError) as error:
                progress(f"{engine} {kind}: left out: {error}")
    return arms


def measure(arguments: argparse.Namespace, arms: list[Arm]) -> list[dict]:
    best: dict[tuple, dict] = {}
    for turn in range(arguments.rounds):
        for gqa in arguments.gqa:
            for row in lowkey_rows(arguments, str(arguments.threads), gqa):
                if key(row) not in best or row["mth_per_s"] > best[key(row)]["mth_per_s"]:
                    best[key(row)] = row
            for arm in arms:
                arm.times[gqa] += arm.worker.call("time", gqa=gqa, seconds=SECONDS_PER_TURN)
        progress(f"round {turn + 1} of {arguments.rounds}")
    if not arguments.short:  # the shapes and threads that no peer is compared at
        for row in lowkey_rows(arguments, f"{arguments.threads},0", None):
            best.setdefault(key(row), row)
    rows = list(best.values())
    # What the machine reads at best, seen anew beside each of lowkey's rows.
    streams = [row["stream_gb_per_s"] for row in rows if row["threads"] == arguments.threads]
    for gqa in arguments.gqa:
        ours = (row for row in rows if same_shape(row, gqa) and row["threads"] == arguments.threads)
        f16 = next((row for row in ours if row["k_bits"] == 16), None)
        for arm in arms:
            row = arm.row(gqa, arguments.threads)
            row["share_of_stream"] = row["gb_per_s"] / max(streams) if streams else None
            row["ratio_to_f16"] = row["mth_per_s"] / f16["mth_per_s"] if f16 else None
            rows.append(row)
    return rows


def same_shape(row: dict, gqa: int) -> bool:
    """A rate per cached token and query head from DRAM: the length of the context does not matter to it."""
    return (row["gqa"], row["head_dim"], row["batch"]) == (gqa, SHAPE["head_dim"], 1)


def ratios(rows: list[dict], gqas: list[int]) -> list[str]:
    """lowkey against the peer of as many bits or more."""
    lines = []
    for gqa in gqas:
        shape = [row for row in rows if same_shape(row, gqa)]
        peers = [row for row in shape if row["engine"] != "lowkey"]
        for ours in (row for row in shape if row["engine"] == "lowkey"):
            pairs = [
                f"{ours['mth_per_s'] / row['mth_per_s']:.1f}x {row['engine']} {row['recipe']}"
                for row in peers
                if row["k_bits"] == ours["k_bits"] == ours["v_bits"] and row["threads"] == ours["threads"]
            ]
            if pairs:
                lines.append(f"GQA {gqa}: {ours['recipe']} {ours['path']} is {', '.join(pairs)}")
    return lines


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev bench attention", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bench", required=True, help="lowkey's attention_bench")
    parser.add_argument("--sdpa", default="", help="sdpa_peer, torch's part")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gqa", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4])
    parser.add_argument("--megabytes", type=int, default=512, help="keys and values used in turn, each arm")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--bench-rounds", type=int, default=6, help="rounds of attention_bench within one of ours")
    parser.add_argument(
        "--engines", type=lambda text: text.split(","), help=f"of {', '.join(PEERS)}; none; default: all"
    )
    parser.add_argument("--short", action="store_true", help="one round, and only the shapes that peers are timed at")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    if arguments.short:
        arguments.rounds = 1
    if unknown := set(arguments.engines or []) - {*PEERS, "none"}:
        parser.error(f"no such engine: {', '.join(sorted(unknown))}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    where = machine()  # before our own load
    warn_if_busy()
    arms = start_peers(arguments)
    rows = measure(arguments, arms)
    for arm in arms:
        arm.worker.close()
    columns = {"engine": "", "recipe": "", "path": ".24", "gqa": "d", "head_dim": "d", "batch": "d", "context": "d"}
    columns |= {"threads": "d"}
    columns |= {"mth_per_s": ".1f", "gb_per_s": ".1f", "share_of_stream": ".0%", "ratio_to_f16": ".2f"}
    columns |= {"relative_error": ".1e"}
    report(rows, columns, arguments, where, "\n".join(ratios(rows, arguments.gqa)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (PeerError, OSError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(1)
