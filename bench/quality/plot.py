"""The picture of bench.py: KL to 16 bits against stored bits, a line for each family."""

import argparse
import math

from picture import picture

STYLES = {
    "llama.cpp": ("#7f7f7f", "s", "--"),
    "lowkey, per token": ("#1f77b4", "^", ":"),
    "lowkey, KIVI": ("#2ca02c", "o", "-."),
    "lowkey, tuned": ("#d62728", "D", "-"),
}
MOST_BITS = 12  # beyond it there is nothing to tell apart


def labels_of(points: list[tuple[float, float, str]]) -> list[tuple[tuple[float, float], str]]:
    """Points that all but coincide share a label."""
    labels: list[tuple[tuple[float, float], str]] = []
    for bits, kl, kv in points:
        name = kv.replace(":r32+i1", "")
        if labels and abs(labels[-1][0][0] - bits) < 0.05 and abs(math.log(labels[-1][0][1] / kl)) < 0.3:
            labels[-1] = (labels[-1][0], f"{labels[-1][1]}, {name}")
        else:
            labels.append(((bits, kl), name))
    return labels


def draw(families: dict[str, list[dict]], arguments: argparse.Namespace) -> None:
    with picture(arguments) as axes:
        for name, rows in families.items():
            colour, marker, line = STYLES[name]
            points = sorted(
                ((r["stored_bits"], r["kl_mean"], r["kv"]) for r in rows if r["kl_mean"] > 0),
                key=lambda p: (p[0], -p[1]),
            )
            points = [point for point in points if point[0] <= MOST_BITS]
            if not points:
                continue
            bits, kl, _ = zip(*points)
            axes.plot(bits, kl, color=colour, marker=marker, linestyle=line, label=name, markersize=5)
            if name == "lowkey, tuned":
                continue  # labels would cover its points
            # Per token below its points, for llama.cpp's types are per token too and lie near.
            side = (
                {"xytext": (-5, -9), "ha": "right"} if name == "lowkey, per token" else {"xytext": (5, 4), "ha": "left"}
            )
            for (at_bits, at_kl), label in labels_of(points):
                axes.annotate(label, (at_bits, at_kl), textcoords="offset points", fontsize=7, color=colour, **side)
        axes.set_yscale("log")
        axes.margins(x=0.09)  # room for the last labels
        axes.set_xlabel("stored bits per number of the KV cache, scales and exact windows included")
        axes.set_ylabel("mean KL to the engine's own 16-bit cache, nats")
        axes.legend()
