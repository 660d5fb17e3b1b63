"""One engine in one process, driven by lines of JSON: thread pools of two engines in one process would fight.

Parent: Worker(*command).call("measure", ...). Child: serve(peer), where `peer` has the operations as methods.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile


class PeerError(Exception):
    """The peer could not start or failed; one line says why."""


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a module of this folder."""
    return (sys.executable, "-m", name, *arguments)


class Worker:
    """A running child. Belongs to one thread."""

    def __init__(self, *command: str):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parent)},
        )

    def call(self, operation: str, **arguments):
        request = json.dumps({"operation": operation, **arguments})
        try:
            self._child.stdin.write(request + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        self._child.stdin.close()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._log.close()

    def _last_words(self) -> str:
        status = self._child.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"ended with status {status}: {lines[-1] if lines else 'nothing was said'}"


def serve(make_peer) -> None:
    """Answers requests until standard input ends. What the engine's libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = None
    for line in sys.stdin:
        request = json.loads(line)
        operation = request.pop("operation")
        try:
            if peer is None:
                peer = make_peer()
            answer = {"result": getattr(peer, operation)(**request)}
        except Exception as error:  # reported to the parent, which decides
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            answer = {"error": f"{type(error).__name__}: {first_line}"}
        answers.write(json.dumps(answer) + "\n")
