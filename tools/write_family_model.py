#!/usr/bin/env python3
"""Write one of the tiny random models of tools/families.py.

python tools/write_family_model.py FOLDER --family qwen3            a Hugging Face folder
python tools/write_family_model.py --family qwen3 --gguf FILE       a GGUF, as llama.cpp's converter makes it
"""

import argparse
import pathlib

from families import FAMILIES, FamilyModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path)
    parser.add_argument("--family", required=True, choices=FAMILIES)
    parser.add_argument("--spelling", default="transformers 5", choices=("transformers 5", "published"))
    parser.add_argument("--gguf", type=pathlib.Path, metavar="FILE")
    args = parser.parse_args()
    if not (args.folder or args.gguf):
        parser.error("name a folder, or --gguf FILE")
    model = FamilyModel(args.family)
    if args.folder:
        model.write_hugging_face(args.folder, args.spelling)
    if args.gguf:
        model.write_gguf(args.gguf)


if __name__ == "__main__":
    main()
