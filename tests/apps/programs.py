"""Programs as tests start them: in a folder of their own, so that they may be killed and started again there."""

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Programs:
    """What the test was started with, and a folder that goes when it ends."""

    lowkey: str
    writer: str
    folder: pathlib.Path

    def tiny_model(self, name: str, *family: str) -> pathlib.Path:
        """A file, or a Hugging Face folder of that family."""
        model = self.folder / name
        if family:
            model.mkdir()
        subprocess.run([self.writer, str(model), *family], check=True)
        return model


@contextlib.contextmanager
def programs(description: str) -> Iterator[Programs]:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--lowkey", required=True)
    parser.add_argument("--write-model", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lowkey, writer = (str(pathlib.Path(file).resolve()) for file in (arguments.lowkey, arguments.write_model))
        yield Programs(lowkey, writer, pathlib.Path(folder))
    print(f"{pathlib.Path(sys.argv[0]).stem}: passed")
