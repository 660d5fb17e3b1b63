"""Rows of figures as a table for people and as JSON for machines."""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time


def table(rows: list[dict], columns: dict[str, str], markdown: bool = False) -> str:
    """`columns`: key -> format specification. Numbers to the right; what is absent stays empty."""
    cells = [list(columns)]
    for row in rows:
        cells.append(["" if row.get(key) is None else format(row[key], form) for key, form in columns.items()])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    right = [any(not isinstance(row.get(key), (str, type(None))) for row in rows) for key in columns]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if at_right else cell.ljust(width) for cell, width, at_right in zip(line, widths, right)
        ]
        lines.append(f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip())
    if markdown:
        rules = ["-" * (width + 1) + (":" if at_right else "-") for width, at_right in zip(widths, right)]
        lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)


def machine() -> str:
    """One line on where and when the rows were measured; the load tells how far to trust them."""
    try:
        facts = pathlib.Path("/proc/cpuinfo").read_text()
        model = next(line.split(":", 1)[1].strip() for line in facts.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    here = pathlib.Path(__file__).resolve().parent
    git = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    commit = git.stdout.strip() or "no checkout"
    return (
        f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; commit {commit}; {time.strftime('%Y-%m-%d')}"
    )


def warn_if_busy() -> None:
    if os.getloadavg()[0] > 0.5:
        progress(
            "warning: the machine has other work. Engines whose threads spin while they wait suffer most: no fair ratios"
        )


def write_json(rows: list[dict] | dict, target: str) -> None:
    """`target`: a file, or - for standard output."""
    text = json.dumps(rows, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        pathlib.Path(target).write_text(text)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="the table as in docs/performance.md")
    parser.add_argument("--json", metavar="FILE", help="write the rows to this file; -: to standard output")


def report(
    rows: list[dict], columns: dict[str, str], arguments: argparse.Namespace, above: str, below: str = ""
) -> None:
    """What was measured, as add_output_arguments() asks: the table between two texts, JSON, or both."""
    if arguments.json != "-":
        print(above)
        print(table(rows, columns, arguments.markdown))
        if below:
            print(below)
    if arguments.json:
        write_json(rows, arguments.json)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
