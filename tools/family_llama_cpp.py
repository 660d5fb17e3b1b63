#!/usr/bin/env python3
"""Does llama.cpp take the GGUFs of tools/family_gguf.py for what they are meant to be?

    for name in llama gemma3 ...; do build/venv-parity/bin/python tools/write_family_model.py \\
        --family $name --gguf FOLDER/$name.gguf; done
    build/venv-bench/bin/python tools/family_llama_cpp.py FOLDER

Every logit of the goldens, which are transformers', against llama.cpp's of the same tiny model. A check of the
goldens and of nothing else, so no part of ./dev parity: run it when a family's GGUF changes.
"""

import argparse
import ctypes
import json
import pathlib

import llama_cpp
import numpy as np

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
CONTEXT = 256  # not past phi3_longrope's original one: there its short factors hold
TOLERANCE = 1e-4
# ggml looks GELU up in a table of f16.
TABLE_TOLERANCE = 5e-3
TABLE_FAMILIES = ("falcon", "gemma")


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def be_quiet(level, text, data):
    pass


def logits_of(file: pathlib.Path, ids: list[int], vocab: int) -> np.ndarray:
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"{file}: llama.cpp does not load it")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = 0
    run = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    if llama_cpp.llama_decode(run, batch) != 0:
        raise SystemExit(f"{file}: llama.cpp does not run it")
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(run), (len(ids), vocab)).copy()
    llama_cpp.llama_free(run)
    return logits


def check(file: pathlib.Path) -> bool:
    golden = json.loads((GOLDEN / f"family_{file.stem}.json").read_text())
    metadata = {key: value for key, _, value in golden["gguf"]["metadata"]}
    architecture = metadata["general.architecture"]
    logits = logits_of(file, golden["ids"], golden["vocab"])
    # llama.cpp reads Phi-3's window and leaves it out: what it computes holds before the window fills.
    window = metadata.get("phi3.attention.sliding_window") or len(golden["ids"])
    errors = [
        abs(logits[position, token] - logit)
        for position, tokens, row in zip(golden["positions"], golden["top_ids"], golden["top_logits"])
        for token, logit in zip(tokens, row)
        if position < window
    ]
    allowed = TABLE_TOLERANCE if architecture.startswith(TABLE_FAMILIES) else TOLERANCE
    print(f"{file.stem}: {max(errors):.1e} of {allowed:.0e} allowed, over {len(errors)} logits")
    return max(errors) <= allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="of NAME.gguf files")
    args = parser.parse_args()
    llama_cpp.llama_log_set(be_quiet, None)
    llama_cpp.llama_backend_init()
    results = [check(file) for file in sorted(args.folder.glob("*.gguf"))]
    raise SystemExit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
