#!/usr/bin/env python3
"""Goldens for dequantize(): what the `gguf` package's numpy decoders make of pseudo-random blocks.

    python tools/make_dequant_goldens.py > tests/golden/dequant.json

Needs: pip install gguf numpy. Blocks are bytes of SplitMix64 (core/rng.h), least significant byte
first, so the golden holds no data, only a checksum and a few samples of each result. In the floats
inside a block the top exponent bit is cleared, so that nothing is infinite or NaN.
"""

import hashlib
import json
import sys
from importlib.metadata import version

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

SEED = 20240607
BLOCKS = {1: 4096, 32: 128, 256: 32}  # blocks per type, by elements in a block
# Byte offset of the high byte of each float in a block.
FLOAT_HIGH_BYTES = {
    "F32": [3],
    "F16": [1],
    "BF16": [1],
    "Q4_0": [1],
    "Q4_1": [1, 3],
    "Q5_0": [1],
    "Q5_1": [1, 3],
    "Q8_0": [1],
    "Q4_K": [1, 3],
    "Q5_K": [1, 3],
    "Q6_K": [209],
}


def splitmix64_bytes(seed, count):
    with np.errstate(over="ignore"):
        step = np.arange(1, (count + 7) // 8 + 1, dtype=np.uint64)
        z = np.uint64(seed) + step * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z.astype("<u8").view(np.uint8)[:count].copy()


def main():
    cases = []
    for index, (name, high_bytes) in enumerate(FLOAT_HIGH_BYTES.items()):
        kind = Type[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = BLOCKS[elements]
        data = splitmix64_bytes(SEED + index, blocks * size).reshape(blocks, size)
        for offset in high_bytes:
            data[:, offset] &= 0xBF
        values = gguf.dequantize(data.reshape(-1), kind).astype("<f4").reshape(-1)
        assert values.size == blocks * elements and np.isfinite(values).all()
        positions = [int(i) for i in np.linspace(0, values.size - 1, 17)]
        cases.append(
            {
                "dtype": name,
                "seed": SEED + index,
                "blocks": blocks,
                "block_bytes": size,
                "float_high_bytes": high_bytes,
                "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
                "positions": positions,
                "bits": [f"{int(b):08x}" for b in values[positions].view(np.uint32)],
            }
        )
    print("{")
    print(' "command": "python tools/make_dequant_goldens.py > tests/golden/dequant.json",')
    print(
        ' "versions": '
        + json.dumps({"python": sys.version.split()[0], "gguf": version("gguf"), "numpy": version("numpy")})
        + ","
    )
    print(' "cases": [')
    print(",\n".join("  " + json.dumps(case) for case in cases))
    print(" ]\n}")


if __name__ == "__main__":
    main()
