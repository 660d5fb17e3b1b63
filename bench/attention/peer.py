"""What kernel-level peers have in common: one process holds one format's keys and values and answers requests.

A peer subclasses Peer: `load` stores the case's keys and values in its format, in so many copies that they take
`min_bytes` and fit no cache; `step` computes one decode step over the next copy, so that it reads DRAM.
"""

import argparse
import time

import numpy
from attention.data import keys_and_values, query, reference, relative_error
from attention.shape import Case
from worker import serve


class Peer:
    ARMS: dict = {}  # name of the format -> whatever the peer wants to know of it

    def __init__(self, arm: str, min_bytes: int, threads: int):
        self.arm = self.ARMS[arm]
        self.min_bytes = min_bytes
        self.threads = threads

    def about(self) -> dict:
        raise NotImplementedError

    def load(self, case: Case, k: numpy.ndarray, v: numpy.ndarray) -> int:
        """Returns the bytes of keys and values that one step reads."""
        raise NotImplementedError

    def stored(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Keys and values as the format holds them: [num_kv_heads, tokens, head_dim]."""
        raise NotImplementedError

    def ask(self, case: Case, q: numpy.ndarray) -> None:
        """The following steps are for this query."""
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError

    def output(self) -> numpy.ndarray:
        """Of the latest step: [num_qo_heads, head_dim]."""
        raise NotImplementedError


class Requests:
    """The operations of the worker: prepare once per shape of the cache, then time query group sizes in turn."""

    def __init__(self, peer: Peer):
        self.peer = peer

    def about(self) -> dict:
        return self.peer.about()

    def prepare(self, head_dim: int, num_kv_heads: int, tokens: int) -> dict:
        self.cache = {"head_dim": head_dim, "num_kv_heads": num_kv_heads, "tokens": tokens}
        case = Case(gqa=1, **self.cache)
        return {"bytes_per_step": self.peer.load(case, *keys_and_values(case))}

    def error(self, gqa: int) -> float:
        """Against double precision over the keys and values that the peer holds: the kernel's error, not the format's."""
        case = Case(gqa=gqa, **self.cache)
        q = query(case)
        self.peer.ask(case, q)
        self.peer.step()
        return relative_error(self.peer.output(), reference(case, q, *self.peer.stored()))

    def time(self, gqa: int, seconds: float) -> list[float]:
        """Seconds of each step, for about `seconds`; the first step warms up."""
        case = Case(gqa=gqa, **self.cache)
        self.peer.ask(case, query(case))
        self.peer.step()
        times: list[float] = []
        while sum(times) < seconds:
            start = time.perf_counter()
            self.peer.step()
            times.append(time.perf_counter() - start)
        return times


def serve_peer(kind: type[Peer]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--arm", choices=kind.ARMS, required=True)
    parser.add_argument("--megabytes", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    serve(lambda: Requests(kind(arguments.arm, arguments.megabytes << 20, arguments.threads)))
