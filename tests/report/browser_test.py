#!/usr/bin/env python3
"""Opens reports in headless Chromium, without a network: no errors, no requests, all points drawn, hostile text is
text. Exits with 77, saying why, where there is no browser or the build has no plotly.js. Needs no packages."""

import argparse
import html.parser
import json
import pathlib
import subprocess
import sys
import tempfile
import zlib

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))

import sample_report  # noqa: E402
import screenshot  # noqa: E402

SKIPPED = 77
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr"}


class Dom(html.parser.HTMLParser):
    """Elements as (tag, attributes, ids of all around them), and the text that people see."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.elements: list[tuple[str, dict, set[str]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes, {around for _, around in self.open if around}))
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        for i in reversed(range(len(self.open))):
            if self.open[i][0] == tag:
                del self.open[i:]
                return

    def handle_data(self, data: str) -> None:
        if not any(tag in ("script", "style") for tag, _ in self.open):
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def root(self) -> dict:
        return next(attributes for tag, attributes, _ in self.elements if tag == "html")

    def count(self, tag: str, *, within: str, css_class: str = "") -> int:
        return sum(
            name == tag and within in around and (not css_class or css_class in (attributes.get("class") or "").split())
            for name, attributes, around in self.elements
        )


def colors_of(png: bytes) -> dict[tuple[int, int, int], int]:
    """How many pixels of each color an 8-bit RGB or RGBA picture has (PNG, not interlaced: Chromium's)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, width, depth = 8, b"", 0, 0
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width = int.from_bytes(body[:4], "big")
            assert body[8] == 8 and body[9] in (2, 6) and body[12] == 0, body
            depth = 3 if body[9] == 2 else 4
        elif kind == b"IDAT":
            packed += body
        at += 12 + size
    raw = zlib.decompress(packed)
    stride = width * depth
    counts: dict[tuple[int, int, int], int] = {}
    above = bytearray(stride)
    for start in range(0, len(raw), stride + 1):
        row = bytearray(raw[start + 1 : start + 1 + stride])
        unfilter(raw[start], row, above, depth)
        for i in range(0, stride, depth):
            color = (row[i], row[i + 1], row[i + 2])
            counts[color] = counts.get(color, 0) + 1
        above = row
    return counts


def unfilter(kind: int, row: bytearray, above: bytearray, depth: int) -> None:
    """PNG's five filters, undone in place."""
    if kind == 1:
        for i in range(depth, len(row)):
            row[i] = row[i] + row[i - depth] & 0xFF
    elif kind == 2:
        row[:] = bytes(value + up & 0xFF for value, up in zip(row, above))
    elif kind == 3:
        for i in range(len(row)):
            row[i] = row[i] + ((row[i - depth] if i >= depth else 0) + above[i]) // 2 & 0xFF
    elif kind == 4:
        for i in range(len(row)):
            left, corner = (row[i - depth], above[i - depth]) if i >= depth else (0, 0)
            up = above[i]
            to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = left if to_left <= to_up and to_left <= to_corner else up if to_up <= to_corner else corner
            row[i] = row[i] + guess & 0xFF


class Pages:
    def __init__(self, write_report: str, folder: pathlib.Path):
        self.write_report = write_report
        self.folder = folder

    def open(self, kind: str, data: dict, **options) -> tuple[Dom, pathlib.Path]:
        """The page of `data`: it must have drawn everything, complained of nothing and asked for nothing."""
        source, page, picture = (self.folder / name for name in ("data.json", "page.html", "page.png"))
        source.write_text(json.dumps(data))
        done = subprocess.run(
            [self.write_report, kind, str(source), str(page)], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode == SKIPPED:
            skip(done.stdout.strip())
        assert done.returncode == 0, f"write_report: status {done.returncode}"
        opened = screenshot.open_page(page, picture=picture, **options)
        dom = Dom(opened.dom)
        assert dom.root().get("data-errors") is None, dom.root()["data-errors"]
        assert dom.root().get("data-ready") == "yes", "the page did not finish"
        assert not opened.console, opened.console
        assert not opened.requests, opened.requests
        assert dom.count("p", within="page", css_class="warning") == 0
        assert dom.count("div", within="page", css_class="waiting") == 0
        return dom, picture


def skip(reason: str) -> None:
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def check_points(pages: Pages) -> None:
    """Each measured point is a mark of the Pareto plot, in all its views; the search's view has the trials too."""
    report = sample_report.sample_report()
    front = report["front"]
    marks = len(front["points"]) + len(front["references"])
    for fragment, expected in (
        ("", marks),
        ("bits=stored_bits&loss=perplexity", marks),
        ("loss=calibration", marks + len(report["trials"])),
    ):
        dom, _ = pages.open("tune", report, fragment=fragment)
        assert dom.count("path", within="pareto-plot", css_class="point") == expected, fragment
        for name in ("KV8", "K8V4", "KV4", "K4V2", "KV2", "lossless", "balanced", "compact"):
            assert name in dom.words(), name
    for name in ("bits-keys", "bits-values", "sensitivity-0", "sensitivity-1", "probe-errors", "probe-heads"):
        assert dom.count("image", within=name) == 1, f"{name}: no heat map"
    bars = {"probe-axes": 4 * 3, "probe-axes-output": 4 * 3, "probe-shift": 4 * 10}
    for name, expected in bars.items():
        assert dom.count("g", within=name, css_class="point") == expected, name
    layers, heads = sample_report.NUM_LAYERS, sample_report.NUM_HEADS
    probe = report["probe"]
    marks_of = {
        "sensitivity-sides": 2 * layers,
        "probe-noise": 3 * layers,
        "probe-depth": 3 * layers,  # before layer 0 there is no error yet
        "probe-ablation": len(probe["ablation"]),
        "probe-entropy": layers * heads,
        "probe-top-share": layers * heads,
    }
    for name, expected in marks_of.items():
        assert dom.count("path", within=name, css_class="point") == expected, name
    # 12 points, 5 references, each with its recipe to copy; three commands.
    assert dom.count("button", within="points") == 17 and dom.count("button", within="needs") == 3
    headline = report["front"]["points"][report["use"][1]["point"]]
    assert f"{headline['code_bits']:.2f} code bits per number cost" in dom.words()


def check_picture(pages: Pages) -> None:
    """The front and the references show up in their colors, which nothing else near has, at the sizes of a desktop and of a phone, in light and in dark."""
    report = sample_report.sample_report()
    looks = {False: ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)), True: ((0x56, 0xB4, 0xE9), (0xF0, 0x8C, 0x3C))}
    for width, height in ((1280, 1200), (390, 1900)):
        for dark, (blue, orange) in looks.items():
            _, picture = pages.open("tune", report, width=width, height=height, dark=dark)
            colors = colors_of(picture.read_bytes())
            assert sum(colors.values()) == width * height
            # A mark of the front has some 50 pixels, a diamond as many.
            assert colors.get(blue, 0) > 12 * 25, (width, dark, colors.get(blue, 0))
            assert colors.get(orange, 0) > 5 * 25, (width, dark, colors.get(orange, 0))


def check_hostile_text(pages: Pages) -> None:
    """Names and tokens come from files: whatever they hold is shown, and nothing of it is run."""
    attack = "</script><img src=x onerror=\"document.title='pwned'\"><b>%{x}</b>"
    report = sample_report.sample_report(title=attack)
    report["command"] = f"lowkey tune '{attack}'"
    report["use"][0].update(need=attack, what=attack, command=attack)
    report["front"]["points"][0]["recipe"] = attack
    report["front"]["references"][0]["recipe"] = attack
    report["sensitivity"][0]["candidate"] = attack
    report["probe"]["attention_shift"][0]["tokens"][3] = attack
    report["probe"]["pivots"][0]["token"] = attack
    report["probe"]["depth"][0]["recipe"] = attack
    dom, _ = pages.open("tune", report)
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes, _ in dom.elements)
    assert "pwned" not in next(attributes for tag, attributes, _ in dom.elements if tag == "title")
    assert dom.words().count(attack) >= 4, "title, command, card and pivot show it as text"


def check_sparse(pages: Pages) -> None:
    """Probes stand alone; what a document leaves out leaves no hole."""
    dom, _ = pages.open("probe", sample_report.sample_probe())
    assert dom.count("image", within="probe-errors") == 1 and dom.count("path", within="pareto-plot") == 0

    report = sample_report.sample_report()
    for name in ("probe", "sensitivity", "pruned", "groups", "surrogate", "trials", "engine"):
        del report[name]
    report["use"][0]["point"] = None
    for point in report["front"]["points"] + report["front"]["references"]:
        for name in (
            "kl_heldout",
            "kl_heldout_ci",
            "ppl_heldout",
            "ppl_delta_percent_heldout",
            "top1_agreement_heldout",
        ):
            point[name] = 0
    dom, _ = pages.open("tune", report)
    assert "No point of the front keeps this promise" in dom.words()
    assert "perplexity on the calibration text" in dom.words()

    report["probe"] = {"lowkey_probe": 1, "model": "m", "tokens": 1, "queries": 1, "candidates": [], "layers": []}
    report["front"]["points"] = report["point_layers"] = []
    for use in report["use"]:
        use["point"] = None
    dom, _ = pages.open("tune", report)
    assert dom.count("path", within="pareto-plot", css_class="point") == 5


def check_calibration(pages: Pages) -> None:
    """All looks at the held-out loss are marks of the curve, and the best of them is one more."""
    calibration = sample_report.sample_calibration()
    looks = sum(point["heldout"] is not None for point in calibration["training"]["curve"])
    dom, _ = pages.open("calibration", calibration)
    assert dom.count("path", within="calibration-curve", css_class="point") == looks + 1
    assert "24 prefix tokens change the held‑out loss by −18.6%" in dom.words(), dom.words()[:400]
    # Nothing learned, one look, hostile text.
    attack = "</script><img src=x onerror=\"document.title='pwned'\">"
    calibration = sample_report.sample_calibration(student=attack)
    calibration["prefix"]["text"] = attack
    training = calibration["training"]
    training["curve"] = training["curve"][:1]
    training.update(best_step=0, heldout_after=training["heldout_before"])
    dom, _ = pages.open("calibration", calibration)
    assert "did not lower the held‑out loss" in dom.words()
    assert dom.count("img", within="page") == 0


def check_that_checks_fail(pages: Pages) -> None:
    """A page that throws, fetches or prints is noticed: else the checks above would mean nothing."""
    for script, noticed in (
        ("null.x", lambda opened: "data-errors" in Dom(opened.dom).root()),
        (
            "document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x'}))",
            lambda opened: opened.requests,
        ),
        ("console.error('oh')", lambda opened: opened.console),
    ):
        page = pages.folder / "broken.html"
        catcher = "addEventListener('error', (e) => { document.documentElement.dataset.errors = e.message; })"
        page.write_text(f"<!doctype html><body><script>{catcher};</script><script>{script}</script>")
        assert noticed(screenshot.open_page(page)), script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write-report", required=True)
    args = parser.parse_args()
    if screenshot.find_browser() is None:
        skip(f"no browser ({screenshot.BROWSERS[0]}) here: reports were not opened")
    with tempfile.TemporaryDirectory() as folder:
        pages = Pages(args.write_report, pathlib.Path(folder))
        for check in (
            check_points,
            check_picture,
            check_hostile_text,
            check_sparse,
            check_calibration,
            check_that_checks_fail,
        ):
            check(pages)
            print(f"{check.__name__}: ok", flush=True)


if __name__ == "__main__":
    main()
