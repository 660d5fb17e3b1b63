"""The picture of bench.py: bits of the weights times bits of the cache, without and with the exact first token."""

import argparse

from picture import picture

COLOURS = ("#7f7f7f", "#1f77b4", "#2ca02c", "#ff7f0e", "#d62728", "#9467bd", "#8c564b", "#e377c2")


def draw(rows: list[dict], arguments: argparse.Namespace) -> None:
    """`rows`: of the table `caches`."""
    caches = list(dict.fromkeys(row["kv"] for row in rows))
    with picture(arguments) as axes:
        weights = list(dict.fromkeys(row["weights"] for row in rows))
        for i, name in enumerate(weights):
            own = {row["kv"]: row for row in rows if row["weights"] == name}
            for key, line, marker in (("none", "--", "o"), ("[B]", "-", "D")):
                axes.plot(
                    range(len(caches)),
                    [own[kv][key] for kv in caches],
                    color=COLOURS[i % len(COLOURS)],
                    linestyle=line,
                    marker=marker,
                    markersize=5,
                    label=f"{name}{', first token exact' if key == '[B]' else ''}",
                )
        axes.set_yscale("log")
        axes.set_xticks(range(len(caches)), [kv.replace(":r32", "") for kv in caches])
        axes.set_xlabel("KV cache: bits, per token and head or as KIVI (R = 32)")
        axes.set_ylabel("perplexity")
        axes.legend(fontsize=8, ncols=2)
