#!/usr/bin/env python3
"""Write tests/golden/weights.json: matrices rounded to nearest and by GPTQ, in NumPy and float64.

Written from the papers, not from src/weights: GPTQ (arXiv 2210.17323, algorithm 1) over groups of inputs with f16
scales and minima, a column's loss spread through the inverse of the damped sum of x^T x. Here by Gaussian elimination
on that inverse, column by column, where the library takes a Cholesky factor and blocks of columns.
"""

import argparse
import pathlib

import numpy as np
from reference import GOLDEN, write_golden
from tiny_model import SplitMix64

ROWS, TOKENS = 3, 300
BITS, GROUPS = (2, 3, 4, 8), (32, 64, 0)
DAMPING = 0.01


def inputs(seed: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, and rows of what it is multiplied by: correlated channels of different size, one always 0."""
    rng = SplitMix64(seed)
    weight = (rng.uniform(ROWS * cols) * 2 - 1).astype(np.float32).reshape(ROWS, cols)
    x = (rng.uniform(TOKENS * cols) * 2 - 1).astype(np.float32).reshape(TOKENS, cols)
    x[:, 1:] += np.float32(0.5) * x[:, :-1].copy()
    x *= (np.float32(1.0) + np.arange(cols, dtype=np.float32) % 7)[None, :]
    x[:, 5] = 0
    return weight, x


def half(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float16).astype(np.float64)


def grid_of(weights: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and minimum of each row of one group."""
    weights = weights.astype(np.float32)
    if bits == 8:
        return half(np.abs(weights).max(1) / np.float32(127)), np.zeros(len(weights))
    low, high = weights.min(1), weights.max(1)
    return half((high - low) / np.float32(2**bits - 1)), half(low)


def on_grid(weights: np.ndarray, grid: tuple[np.ndarray, np.ndarray], bits: int) -> np.ndarray:
    scale, minimum = grid
    lowest, highest = (-127, 127) if bits == 8 else (0, 2**bits - 1)
    return scale * np.clip(np.round((weights - minimum) / scale), lowest, highest) + minimum


def nearest(weight: np.ndarray, bits: int, group: int) -> np.ndarray:
    out = np.empty(weight.shape)
    for first in range(0, weight.shape[1], group):
        part = weight[:, first : first + group]
        grid = grid_of(part, bits)
        for column in range(part.shape[1]):
            out[:, first + column] = on_grid(part[:, column].astype(np.float64), grid, bits)
    return out


def gptq(weight: np.ndarray, x: np.ndarray, bits: int, group: int, act_order: bool) -> np.ndarray:
    gram = x.astype(np.float64).T @ x.astype(np.float64)
    mean = np.mean(np.diag(gram))
    order = np.argsort(-np.diag(gram), kind="stable") if act_order else np.arange(len(gram))
    gram[np.diag_indices_from(gram)] = np.where(np.diag(gram) == 0, mean, np.diag(gram)) + DAMPING * mean
    inverse = np.linalg.inv(gram)
    left = weight.astype(np.float64)
    out = np.empty(weight.shape)
    grids = {g: grid_of(weight[:, g * group : (g + 1) * group], bits) for g in range(-(-weight.shape[1] // group))}
    remaining = list(order)
    while remaining:
        column = remaining.pop(0)
        if not act_order and column % group == 0:
            grids[column // group] = grid_of(left[:, column : column + group], bits)
        out[:, column] = on_grid(left[:, column], grids[column // group], bits)
        loss = (left[:, column] - out[:, column]) / inverse[column, column]
        left[:, remaining] -= np.outer(loss, inverse[column, remaining])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return out


def cases() -> list[dict]:
    found = []
    for bits in BITS:
        for group in GROUPS:
            cols = 160  # of groups of 64 the last is shorter; more than a block of columns
            seed = 100 * bits + group
            weight, x = inputs(seed, cols)
            case = {"bits": bits, "group": group, "rows": ROWS, "cols": cols, "tokens": TOKENS, "seed": seed}
            width = group or cols
            results = {
                "nearest": nearest(weight, bits, width),
                "gptq": gptq(weight, x, bits, width, act_order=False),
                "gptq_act_order": gptq(weight, x, bits, width, act_order=True),
            }
            for name, values in results.items():
                case[name] = [float(f"{value:.5f}") for value in values.ravel()]
            found.append(case)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=pathlib.Path, default=GOLDEN, metavar="FOLDER")
    out = parser.parse_args().out
    write_golden(out / "weights.json", "tools/make_weight_goldens.py", {"cases": cases()})


if __name__ == "__main__":
    main()
