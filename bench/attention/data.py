"""Data for the attention problem, and the answer to compare with."""

import numpy
from attention.shape import Case


def keys_and_values(case: Case) -> tuple[numpy.ndarray, numpy.ndarray]:
    """[num_kv_heads, tokens, head_dim] float32, the same for every query group size."""
    rng = numpy.random.default_rng(7)
    shape = (case.num_kv_heads, case.tokens, case.head_dim)
    return rng.standard_normal(shape, dtype=numpy.float32), rng.standard_normal(shape, dtype=numpy.float32)


def query(case: Case) -> numpy.ndarray:
    """[num_qo_heads, head_dim] float32; twice the usual size, so that the softmax is no mere average."""
    rng = numpy.random.default_rng(8)
    return 2 * rng.standard_normal((case.num_qo_heads, case.head_dim), dtype=numpy.float32)


def reference(case: Case, q: numpy.ndarray, k: numpy.ndarray, v: numpy.ndarray) -> numpy.ndarray:
    """Attention in double precision: [num_qo_heads, head_dim]."""
    grouped = q.reshape(case.num_kv_heads, case.gqa, case.head_dim).astype(numpy.float64)
    scores = numpy.einsum("hgd,htd->hgt", grouped, k.astype(numpy.float64)) * case.scale
    weights = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = numpy.einsum("hgt,htd->hgd", weights, v.astype(numpy.float64))
    return out.reshape(case.num_qo_heads, case.head_dim)


def relative_error(found: numpy.ndarray, expected: numpy.ndarray) -> float:
    difference = numpy.asarray(found, dtype=numpy.float64) - expected
    return float(numpy.linalg.norm(difference) / numpy.linalg.norm(expected))
