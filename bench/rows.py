"""Rows of figures as a table for people and as JSON for machines."""

import json
import pathlib
import sys


def table(rows: list[dict], columns: dict[str, str]) -> str:
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
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def write_json(rows: list[dict], target: str) -> None:
    """`target`: a file, or - for standard output."""
    text = json.dumps(rows, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        pathlib.Path(target).write_text(text)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
