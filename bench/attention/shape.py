"""The attention problem that every kernel-level peer solves: one decode step, one new query per sequence."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    gqa: int  # query heads per KV head
    head_dim: int
    num_kv_heads: int
    tokens: int  # cached

    @property
    def num_qo_heads(self) -> int:
        return self.num_kv_heads * self.gqa

    @property
    def token_heads(self) -> int:
        """What one step attends to: cached tokens x query heads."""
        return self.tokens * self.num_qo_heads

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5
