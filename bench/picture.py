"""Pictures of the benches: the same figures give the same file. Needs matplotlib, which not every bench has."""

import argparse
import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def picture(arguments: argparse.Namespace) -> Iterator[Any]:
    """Axes to draw on; written to arguments.plot, .svg or .png. Titled with the model and the text's windows."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "lowkey", "font.family": "sans-serif"}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    yield axes
    model, text = pathlib.Path(arguments.model).name, pathlib.Path(arguments.text).name
    axes.set_title(f"{model} on {text}, {arguments.chunks} windows of {arguments.ctx:,} tokens", fontsize=10)
    axes.grid(True, which="both", linewidth=0.3)
    file = pathlib.Path(arguments.plot)
    is_svg = file.suffix == ".svg"
    figure.savefig(file, metadata={"Date": None} if is_svg else None, dpi=150)
    if is_svg:
        file.write_text("\n".join(line.rstrip() for line in file.read_text().splitlines()) + "\n")
    pyplot.close(figure)
