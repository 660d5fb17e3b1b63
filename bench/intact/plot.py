"""The picture of bench.py: bits of the weights times bits of the cache, without and with the exact first token."""

import argparse

from picture import picture

COLOURS = ("#7f7f7f", "#1f77b4", "#2ca02c", "#ff7f0e", "#d62728", "#9467bd", "#8c564b", "#e377c2")


def draw(rows: list[dict], arguments: argparse.Namespace) -> None:
    """`rows`: of the table `caches`."""
    caches = list(dict.fromkeys(row["kv"] for row in rows))
    # No line from one way of quantizing to the other.
    families = [[kv for kv in caches if kv.startswith("kivi") == kivi] for kivi in (False, True)]
    ppl = {(row["weights"], row["kv"], key): row[key] for row in rows for key in ("none", "[B]")}
    with picture(arguments) as axes:
        for i, name in enumerate(dict.fromkeys(row["weights"] for row in rows)):
            for key, line, marker in (("none", "--", "o"), ("[B]", "-", "D")):
                label = f"{name}{', first token exact' if key == '[B]' else ''}"
                for family in families:
                    axes.plot(
                        [caches.index(kv) for kv in family],
                        [ppl[name, kv, key] for kv in family],
                        color=COLOURS[i % len(COLOURS)],
                        linestyle=line,
                        marker=marker,
                        markersize=5,
                        label=label if family is families[0] else None,
                    )
        axes.set_yscale("log")
        axes.set_xticks(range(len(caches)), [kv.replace(":r32", "") for kv in caches])
        axes.set_xlabel("KV cache: bits, per token and head or as KIVI (R = 32)")
        axes.set_ylabel("perplexity")
        axes.legend(fontsize=8, ncols=2)
