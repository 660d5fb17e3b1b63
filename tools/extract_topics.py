#!/usr/bin/env python3
"""Write English prose for evaluation: what Python's own help texts say, less their code and tables.

Every Python 3 carries these texts, so nothing has to be shipped or downloaded. They differ a little from one
Python to the next, hence the hash that is printed here and beside every table made from them.
"""

import hashlib
import pathlib
import re
import sys
from pydoc_data.topics import topics

MIN_WORDS = 15


def is_prose(paragraph: str) -> bool:
    """Sentences, as against code, grammar, tables, headings and lists of names."""
    plain = sum(c.isalpha() or c in " ,.;'" for c in paragraph)
    return (
        len(paragraph.split()) >= MIN_WORDS
        and paragraph[0].isupper()
        and paragraph[-1] in ".!?:"
        and plain >= 0.93 * len(paragraph)
    )


def prose() -> str:
    seen: dict[str, None] = {}  # keeps the order; topics repeat each other's paragraphs
    for name in sorted(topics):
        for block in re.split(r"\n\s*\n", topics[name]):
            paragraph = " ".join(block.split()).replace('"', "").replace("*", "")
            if paragraph and is_prose(paragraph):
                seen[paragraph] = None
    return "\n\n".join(seen) + "\n"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {sys.argv[0]} OUTPUT")
    output = pathlib.Path(sys.argv[1])
    data = prose().encode()
    if not output.is_file() or output.read_bytes() != data:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(output)
    words = len(data.split())
    print(f"   {output.name}: {len(data)} bytes, {words} words, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
