#!/usr/bin/env python3
"""Decode attention of a Llama-2-7B-shaped stack of layers whose cache fills a budget of memory: KIVI-2 against 16 bits,
KVTuner's mixes against 8 bits. Called by ./dev bench stack, which builds what it runs (stack_bench).

`ratio` is between the fastest 5% of steps, `median_ratio` between medians: the one to go by on a host whose memory has
fast and slow minutes. `by stream` divides each side by what a plain read of memory made between
its steps: the budget holds one recipe at a time, so recipes are measured half a minute apart. `limit` is the ratio of
stored bytes per sequence: what memory alone would allow.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from rows import add_output_arguments, machine, report, warn_if_busy

COLUMNS = {
    "kv": "",
    "code_bits": ".2f",
    "stored_bits": ".2f",
    "batch": "d",
    "tok_per_s": ".1f",
    "median_tok_per_s": ".1f",
    "gb_per_s": ".1f",
    "share_of_stream": ".0%",
    "batch_ratio": ".2f",
    "ratio": ".2f",
    "median_ratio": ".2f",
    "ratio_by_stream": ".2f",
    "byte_limit": ".2f",
    "target": ".2f",
}


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="./dev bench stack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bench", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--budget", metavar="GB", help="for keys and values; default: 16, or what is available less 3")
    parser.add_argument("--threads", metavar="N", help="default: every core")
    parser.add_argument("--rounds", metavar="N", help="each fills every cache anew; default 3")
    parser.add_argument("--steps", metavar="N", help="timed steps of a round; default 7")
    parser.add_argument(
        "--only", metavar="TEXT", help="recipes whose name contains it, and what they are compared with"
    )
    parser.add_argument("--stream-megabytes", metavar="N", help="of the plain read beside each step; default 512")
    for option in ("--layers", "--heads", "--head-dim", "--context"):
        parser.add_argument(option, metavar="N", help="another shape")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    passed_on = []
    for name, value in vars(arguments).items():
        if name not in ("bench", "markdown", "json") and value is not None:
            passed_on += ["--" + name.replace("_", "-"), value]
    return arguments, passed_on


def main() -> int:
    arguments, passed_on = parse_arguments()
    where = machine()  # before our own load
    warn_if_busy()
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder) / "rows.json"
        # Its own table and progress go to standard error.
        command = [arguments.bench, "--json", str(target), *passed_on]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            return 1
        rows = json.loads(target.read_text())
    first = rows[0]
    shape = (
        f"{first['layers']} layers of {first['num_kv_heads']} heads, head_dim {first['head_dim']}, "
        f"{first['context']} tokens, KV budget {first['budget_gb']:g} GB, {first['threads']} threads, {first['isa']}"
    )
    report(rows, COLUMNS, arguments, f"{where}\n{shape}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
