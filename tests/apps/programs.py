"""Programs as tests start them: in a folder of their own, so that they may be killed and started again there."""

import os
import pathlib
import subprocess
import sys

LONGEST = 120  # seconds


def expect(what: bool, message: str) -> None:
    if not what:
        sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: {message}")


def start(command: list[str], place: pathlib.Path, **environment: str) -> subprocess.Popen:
    place.mkdir(exist_ok=True)
    return subprocess.Popen(
        command,
        cwd=place,
        env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Status, standard output, standard error."""
    stdout, stderr = process.communicate(timeout=LONGEST)
    return process.returncode, stdout, stderr
