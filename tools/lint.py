#!/usr/bin/env python3
"""Every static check of the checkout, each printed with its time; called by ./dev lint.

Looks at what git tracks or would track. clang-tidy sees the rooms without torch (ATen's headers alone would take
longer than all our code) and remembers the files it found clean, by content.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINT_BUILD = ROOT / "build" / "lint"
# Debian 12's: another version formats a few things otherwise.
CLANG_FORMAT_MAJOR = 14
MAX_FILE_BYTES = 500_000
MAX_LEFT_TO_DO = 0
CPP = (".h", ".cc", ".cu", ".cuh")
# Inputs for parsers: their odd bytes are the point.
RAW = ("tests/fuzz/corpus/", "tests/golden/")

MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:work|root|home/\w+|tmp/(?:w|build-\w+))(?:/|\b)(?!\w)")
REGISTRY_HOST = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|(?:deb|security|ftp)\.debian\.org|/simple/)")
LEFT_TO_DO = re.compile(r"\b(?:T[O]DO|F[I]XME|X[X]X)\b")
MARKDOWN_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:src|srcset|href)=\"([^\"#]+)\"")

Findings = Iterable[str]


def run(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def tool_findings(command: list[str]) -> Findings:
    status, output = run(command)
    if status != 0:
        yield output.strip() or f"{command[0]} exited with {status}"


class Tree:
    def __init__(self) -> None:
        status, output = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"])
        if status != 0:
            raise SystemExit(f"lint needs a git checkout: {output.strip()}")
        self.files = sorted({name for name in output.splitlines() if (ROOT / name).is_file()})

    def ending(self, *suffixes: str) -> list[str]:
        return [name for name in self.files if name.endswith(suffixes)]

    def scripts(self) -> list[str]:
        def is_shell(name: str) -> bool:
            with open(ROOT / name, "rb") as file:
                return re.match(rb"#!.*\b(?:ba)?sh\b", file.readline()) is not None

        return [name for name in self.files if name.endswith(".sh") or is_shell(name)]

    def texts(self) -> Iterable[tuple[str, str]]:
        for name in self.files:
            data = (ROOT / name).read_bytes()
            if b"\0" not in data:
                yield name, data.decode(errors="replace")

    def lines(self) -> Iterable[tuple[str, int, str]]:
        for name, text in self.texts():
            if not name.startswith(RAW):
                for number, line in enumerate(text.split("\n"), 1):
                    yield name, number, line


def check_format(tree: Tree) -> Findings:
    _, version = run(["clang-format", "--version"])
    if not re.search(rf"version {CLANG_FORMAT_MAJOR}\.", version):
        yield f"clang-format {CLANG_FORMAT_MAJOR} wanted, this is: {version.strip()}"
    elif sources := tree.ending(*CPP):
        _, output = run(["clang-format", "--dry-run", *sources])
        for name in sorted(set(re.findall(r"^(.+?):\d+:\d+: warning:", output, flags=re.MULTILINE))):
            yield f"{name}: run clang-format -i on it"


def tidy_one(entry: dict, shared_state: str) -> str:
    """What clang-tidy says about one source; empty if it is clean, now or when it last looked like this."""
    source = pathlib.Path(entry["file"])
    key = hashlib.sha256(f"{shared_state}{entry['command']}{source.read_text()}".encode()).hexdigest()
    remembered = LINT_BUILD / "clean" / key
    if remembered.exists():
        return ""
    status, output = run(
        ["clang-tidy", "--quiet", "-p", str(LINT_BUILD), "--extra-arg=-Wno-unknown-warning-option", str(source)]
    )
    if status == 0:
        remembered.parent.mkdir(exist_ok=True)
        remembered.touch()
        return ""
    # clang-tidy also counts the warnings it suppressed in system headers, on lines of their own.
    return "\n".join(line for line in output.splitlines() if not re.match(r"\d+ warnings? generated", line)).strip()


def check_tidy(tree: Tree) -> Findings:
    headers = "".join((ROOT / name).read_text() for name in [".clang-tidy", *tree.ending(".h")])
    entries = json.loads((LINT_BUILD / "compile_commands.json").read_text())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from filter(None, pool.map(lambda entry: tidy_one(entry, headers), entries))


def check_shell(tree: Tree) -> Findings:
    for script in tree.scripts():
        yield from tool_findings(["bash", "-n", script])
    yield from tool_findings(["shellcheck", *tree.scripts()])


def check_python(tree: Tree) -> Findings:
    ruff = str(pathlib.Path(sys.executable).parent / "ruff")
    sources = tree.ending(".py")
    yield from tool_findings([ruff, "check", "--quiet", "--no-cache", *sources])
    yield from tool_findings([ruff, "format", "--diff", "--quiet", "--no-cache", *sources])


def check_whitespace(tree: Tree) -> Findings:
    for name, number, line in tree.lines():
        if line != line.rstrip():
            yield f"{name}:{number}: ends in white space"
    for name, text in tree.texts():
        if not name.startswith(RAW) and text and not text.endswith("\n"):
            yield f"{name}: no newline at its end"


def check_sizes(tree: Tree) -> Findings:
    for name in tree.files:
        if (size := (ROOT / name).stat().st_size) > MAX_FILE_BYTES:
            yield f"{name}: {size} bytes; at most {MAX_FILE_BYTES} belong into a repository of source"


def check_json(tree: Tree) -> Findings:
    for name in tree.ending(".json"):
        if not name.startswith("tests/fuzz/corpus/"):
            try:
                json.loads((ROOT / name).read_text())
            except ValueError as error:
                yield f"{name}: {error}"


def check_links(tree: Tree) -> Findings:
    for name in tree.ending(".md"):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / name).read_text(), flags=re.DOTALL)
        for match in MARKDOWN_LINK.finditer(text):
            target = match[1] or match[2]
            if "://" not in target and not (ROOT / name).parent.joinpath(target).exists():
                yield f"{name}: links to {target}, which does not exist"


def check_places(tree: Tree) -> Findings:
    """Nothing may depend on one machine, or name a registry that a user's settings choose."""
    for name, number, line in tree.lines():
        for what, pattern in (("a machine's path", MACHINE_PATH), ("a registry's host", REGISTRY_HOST)):
            if match := pattern.search(line):
                yield f"{name}:{number}: {what}: {match[0]}"


def check_left_to_do(tree: Tree) -> Findings:
    found = [f"{name}:{number}: {line.strip()}" for name, number, line in tree.lines() if LEFT_TO_DO.search(line)]
    if len(found) > MAX_LEFT_TO_DO:
        yield "\n".join([f"{len(found)} left to do, at most {MAX_LEFT_TO_DO} (this number only ever falls):", *found])


CHECKS: dict[str, Callable[[Tree], Findings]] = {
    "clang-format": check_format,
    "shell": check_shell,
    "python": check_python,
    "white space": check_whitespace,
    "file sizes": check_sizes,
    "json": check_json,
    "links in documents": check_links,
    "paths and hosts": check_places,
    "left to do": check_left_to_do,
    "clang-tidy": check_tidy,
}


def main() -> None:
    for tool in ("git", "clang-format", "clang-tidy", "shellcheck"):
        if not shutil.which(tool):
            raise SystemExit(f"lint needs {tool}; ./dev lint installs it")
    tree = Tree()
    failed = 0
    for name, check in CHECKS.items():
        start = time.monotonic()
        findings = list(check(tree))
        print(
            "\n".join([*findings, f"{name}: {'FAILED' if findings else 'ok'}, {time.monotonic() - start:.1f} s"]),
            flush=True,
        )
        failed += bool(findings)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
