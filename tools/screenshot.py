#!/usr/bin/env python3
"""Open an HTML file in headless Chromium without a network: a picture of it, its DOM, what it complained about.

    tools/screenshot.py tuned/report.html --out front.png --width 1280 --height 900 --at pareto
    tools/screenshot.py tuned/report.html --out front.png --select "#pareto-plot"      # that element alone

Needs Debian's chromium-headless-shell (./dev test installs it). Tests use open_page.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# The page's clock runs as fast as its work allows; so long by it may scripts and their timers take.
VIRTUAL_MS = 10_000


@dataclass(frozen=True)
class Opened:
    dom: str  # as it is once the scripts have run
    console: list[str]  # what was printed to the console, errors among it
    requests: list[str]  # addresses asked for, but for files and data


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def requests_in(net_log: pathlib.Path) -> list[str]:
    # Chromium leaves the list open where it is stopped early.
    text = net_log.read_text(errors="replace")
    urls = re.findall(r'"url":("(?:[^"\\]|\\.)*")', text)
    return [url for url in map(json.loads, urls) if not url.startswith(("file:", "data:", "blob:", "about:"))]


def open_page(
    page: pathlib.Path,
    *,
    fragment: str = "",
    picture: pathlib.Path | None = None,
    width: int = 1280,
    height: int = 900,
    scale: float = 1,
    dark: bool = False,
    timeout_s: float = 120,
) -> Opened:
    """Raises RuntimeError where there is no browser, or where it fails."""
    browser = find_browser()
    if browser is None:
        raise RuntimeError(f"no browser here: none of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as folder:
        net_log = pathlib.Path(folder) / "net.json"
        command = [
            *(browser, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"),
            *("--disable-component-update", "--disable-background-networking", "--disable-sync", "--mute-audio"),
            # Nothing can be reached, and what tries is written down.
            *("--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND", f"--log-net-log={net_log}"),
            *("--enable-logging=stderr", "--v=0", f"--user-data-dir={folder}/profile"),
            *(f"--window-size={width},{height}", f"--force-device-scale-factor={scale}"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *(f"--virtual-time-budget={VIRTUAL_MS}", "--dump-dom"),
        ]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # which root cannot have
        if picture is not None:
            command.append(f"--screenshot={picture.resolve()}")
        url = page.resolve().as_uri() + (f"#{fragment}" if fragment else "")
        try:
            done = subprocess.run([*command, url], capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{browser}: still busy after {timeout_s:.0f} s") from error
        complaints = done.stderr.decode(errors="replace")
        if done.returncode != 0:
            raise RuntimeError(f"{browser}: status {done.returncode}\n{complaints}")
        if picture is not None and not picture.is_file():
            raise RuntimeError(f"{browser}: no picture\n{complaints}")
        console = [line for line in complaints.splitlines() if ":CONSOLE" in line]
        return Opened(done.stdout.decode(errors="replace"), console, requests_in(net_log))


def only_element(page: pathlib.Path, selector: str, folder: pathlib.Path) -> pathlib.Path:
    """A copy of the page that, once drawn, shows one element and what is around it."""
    rules = f"""<style>
      body * {{ visibility: hidden; }}
      {selector}, {selector} * {{ visibility: visible; }}
      {selector} {{ position: fixed !important; inset: 16px; z-index: 9; }}
    </style></head>"""
    copy = folder / "element.html"
    copy.write_text(page.read_text().replace("</head>", rules, 1))
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, help="the picture, PNG")
    parser.add_argument("--dump-dom", action="store_true", help="print the DOM")
    parser.add_argument("--at", default="", metavar="FRAGMENT", help="what follows # in the address")
    parser.add_argument("--select", metavar="CSS", help="show this element alone")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--scale", type=float, default=1, help="device pixels per pixel")
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = args.page if args.select is None else only_element(args.page, args.select, pathlib.Path(folder))
        try:
            opened = open_page(
                page,
                fragment=args.at,
                picture=args.out,
                width=args.width,
                height=args.height,
                scale=args.scale,
                dark=args.dark,
            )
        except RuntimeError as error:
            raise SystemExit(f"screenshot: {error}") from None
    if args.dump_dom:
        print(opened.dom)
    for line in [*opened.console, *(f"asked for {url}" for url in opened.requests)]:
        print(f"screenshot: {line}", flush=True)


if __name__ == "__main__":
    main()
