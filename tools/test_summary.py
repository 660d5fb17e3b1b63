#!/usr/bin/env python3
"""Sum up CTest runs: every skipped test with its reason, every failed one, and one closing line of counts.

Reads what ./dev test left in each build folder: ctest.xml (JUnit, one entry per test program) and gtest/*.xml
(one report per GoogleTest program). A program counts as its GoogleTest cases; one without a report, because it
is no GoogleTest or because it crashed, counts as one. Exits 1 if anything failed or nothing ran.
A build that could not be made is named with --not-run, and counts as one that was skipped.
"""

import argparse
import pathlib
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field


@dataclass
class Summary:
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def skip_reason(case: ET.Element) -> str:
    """GoogleTest puts "file:line", then what the test said, into one message."""
    skipped = case.find("skipped")
    lines = (skipped.get("message") or "").strip().splitlines() if skipped is not None else []
    return " ".join(lines[1:] or lines) or "disabled"


def ctest_skip_reason(program: ET.Element) -> str:
    """A test that skips itself (SKIP_RETURN_CODE) ends with "skipped: why"."""
    lines = (program.findtext("system-out") or "").strip().splitlines()
    _, found, reason = (lines[-1] if lines else "").partition("skipped: ")
    return reason if found else "not run by CTest"


def add_gtest(report: pathlib.Path, label: str, summary: Summary) -> None:
    for case in ET.parse(report).getroot().iter("testcase"):
        name = f"{label} {case.get('classname')}.{case.get('name')}"
        if case.find("failure") is not None:
            summary.failed.append(name)
        elif case.get("result") == "skipped" or case.get("status") == "notrun":
            summary.skipped.append((name, skip_reason(case)))
        else:
            summary.passed += 1


def add_build(folder: pathlib.Path, summary: Summary) -> None:
    junit = folder / "ctest.xml"
    if not junit.is_file():
        summary.failed.append(f"{folder.name}: CTest left no report")
        return
    for program in ET.parse(junit).getroot().iter("testcase"):
        label = f"{folder.name}/{program.get('name')}"
        ok = program.get("status") == "run"
        report = folder / "gtest" / f"{program.get('name')}.xml"
        failures_before = len(summary.failed)
        if report.is_file():
            add_gtest(report, label, summary)
            # A leak report or a crash after the last case fails the program, not a case.
            if not ok and len(summary.failed) == failures_before:
                summary.failed.append(label)
        elif ok:
            summary.passed += 1
        elif program.get("status") in ("notrun", "disabled") and program.find("failure") is None:
            summary.skipped.append((label, ctest_skip_reason(program)))
        else:
            summary.failed.append(label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--not-run", action="append", default=[], metavar="NAME: REASON")
    arguments = parser.parse_args()
    summary = Summary()
    for folder in arguments.folders:
        add_build(folder, summary)
    for build in arguments.not_run:
        name, _, reason = build.partition(": ")
        summary.skipped.append((name, reason))
    if summary.skipped:
        print("skipped:")
        for name, reason in summary.skipped:
            print(f"  {name}: {reason}")
    if summary.failed:
        print("failed:")
        for name in summary.failed:
            print(f"  {name}")
    print(f"{summary.passed} passed, {len(summary.failed)} failed, {len(summary.skipped)} skipped")
    raise SystemExit(1 if summary.failed or not summary.passed else 0)


if __name__ == "__main__":
    main()
