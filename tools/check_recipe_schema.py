#!/usr/bin/env python3
"""Compares docs/formats/{recipe,front}.schema.json with what src/recipe accepts and writes.

  tools/check_recipe_schema.py PATH/TO/recipe_samples

1. Every JSON example of docs/formats/{recipe,front}.md is valid for both.
2. Random recipes and fronts written by recipe_to_json and front_to_json are valid.
3. Damaged copies of them (a field removed, renamed, retyped, out of range) get the same verdict from
   the schema and from recipe_from_json or front_from_json.

Needs the jsonschema package. Exit code 0 if all agree.
"""

import copy
import json
import pathlib
import random
import re
import subprocess
import sys

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLES = 400
DAMAGED_PER_SAMPLE = 25
WRONG_VALUES = [
    None,
    True,
    -1,
    0,
    3,
    5,
    70000,
    4.5,
    2**64 - 1,
    2**70,
    "",
    "x",
    "head",
    "*",
    "0-3",
    "3-",
    "-3",
    " 3",
    "a" * 64,
    [],
    {},
    [1],
    {"bits": 16},
]


def paths(value, path=()):
    """Every place in a document, the document itself left out."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield path + (key,)
        yield from paths(child, path + (key,))


def damage(document, rng):
    document = copy.deepcopy(document)
    *parents, last = rng.choice(list(paths(document)))
    container = document
    for key in parents:
        container = container[key]
    kind = rng.choice(["remove", "rename", "replace", "replace", "add"])
    if kind == "remove":
        del container[last]
    elif kind == "replace" or isinstance(container, list):
        container[last] = rng.choice(WRONG_VALUES)
    elif kind == "rename":
        container[last + "x"] = container.pop(last)
    else:
        container["extra"] = rng.choice(WRONG_VALUES)
    return document


def recipe_beyond_schema(document):
    """What the parser refuses and JSON Schema has no words for."""
    for rule in document["layers"]:
        first, _, last = rule["layers"].partition("-")
        if first != "*" and not int(first) <= int(last or first) < 1024:
            return True
        heads = [head["head"] for head in rule.get("heads", [])]
        if len(heads) != len(set(heads)):
            return True
    return False


def front_beyond_schema(document):
    """The same for a front: the order of its points, and recipes that do not parse."""
    bits = [point["code_bits"] for point in document["points"]]
    points = document["points"] + document.get("references", [])
    return bits != sorted(bits) or any(point["recipe"] in WRONG_VALUES for point in points)


BEYOND_SCHEMA = {"recipe": recipe_beyond_schema, "front": front_beyond_schema}


def integers_only(document):
    """JSON Schema calls 4.0 an integer; the parser wants it written 4. Keep such documents out."""
    text = json.dumps(document)
    return re.search(r"\d\.0\b", text) is None


def check(kind, binary):
    schema = json.loads((ROOT / f"docs/formats/{kind}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    examples = re.findall(r"```json\n(.*?)```", (ROOT / f"docs/formats/{kind}.md").read_text(), re.S)
    assert examples, f"{kind}.md has no examples"
    good = [json.loads(example) for example in examples]
    written = subprocess.run([binary, kind, str(SAMPLES)], check=True, capture_output=True, text=True).stdout
    good += [json.loads(line) for line in written.splitlines()]

    rng = random.Random(1)
    documents = list(good)
    for document in good:
        damaged = [damage(document, rng) for _ in range(DAMAGED_PER_SAMPLE)]
        # A front's numbers may be whole; none of its integers is ever damaged into 4.0.
        documents += damaged if kind == "front" else filter(integers_only, damaged)

    lines = "".join(json.dumps(document) + "\n" for document in documents)
    answers = subprocess.run([binary, kind], input=lines, check=True, capture_output=True, text=True)
    answers = answers.stdout.splitlines()
    assert len(answers) == len(documents)

    accepted = disagreements = 0
    for index, (document, answer) in enumerate(zip(documents, answers)):
        in_schema = validator.is_valid(document) and not BEYOND_SCHEMA[kind](document)
        in_parser = answer == "ok"
        accepted += in_parser
        if in_schema != in_parser or (index < len(good) and not in_parser):
            disagreements += 1
            print(f"schema says {in_schema}, parser says: {answer}\n  {json.dumps(document)}")
    print(
        f"{kind}: {len(examples)} examples, {len(good) - len(examples)} written ones, "
        f"{len(documents) - len(good)} damaged ones: {accepted} accepted, "
        f"{len(documents) - accepted} refused, {disagreements} disagreements"
    )
    return disagreements


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(sum(check(kind, sys.argv[1]) for kind in BEYOND_SCHEMA) != 0)


if __name__ == "__main__":
    main()
