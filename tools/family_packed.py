"""What a packed cache makes of any family's logits, by transformers: the cache contract as a Cache of its own.

Token by token, as decoding goes: the cache hands attention every key and value as the newest query finds it,
quantized or still at full precision (fake_quant_reference.py, where the contract is written down). Masks, scaling,
soft caps and biases stay transformers' own, so this works for every family, and says nothing twice.

Codes flip where a value lies near the middle between two, and what follows of a flip is no error. So each recipe
is run again with keys and values off by one part in a million: how far the logits then move is `noise`, beside
`effect`, how far quantization itself moves them. Both are root mean squares over the sampled logits.
"""

import itertools

import torch
from fake_quant_reference import NOISE, Recipe, Side, parse_recipe, quantize_side, sees_quantized
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

RECIPES = ("8", "kivi-4:g32/16:r32", "kivi-2:g32/16:r32+i1")  # heads may be 16 wide
NOISE_RUNS = 8
SAMPLES = 8
EXACT_TOLERANCE = 1e-4


def tolerance(row: dict) -> float:
    """How far another implementation's logits may be, in units of `effect`: as tests/model/family_test.cc.

    What one flip does, or twice what noise did; never as far as a cache that does not quantize. Steps of 8 bits
    are all that 8 bits do, so there a flip is much of the effect.
    """
    return min(0.7, max(0.6 if row["recipe"] == "8" else 0.2, 2 * row["noise"] / row["effect"]))


class FakeQuantLayer(DynamicLayer):
    """Each sequence of the batch has a recipe of its own (None: nothing is rounded), and its noise."""

    def __init__(self, index: int, runs: list[tuple[Recipe | None, float]]):
        super().__init__()
        self.index, self.runs = index, runs

    def update(self, key_states, value_states, *args, **kwargs):
        keys, values = super().update(self.stored(key_states), self.stored(value_states))
        sides = [recipe and recipe.layers[self.index] for recipe, _ in self.runs]
        return (
            self.seen(keys, [layer and layer.k for layer in sides]),
            self.seen(values, [layer and layer.v for layer in sides]),
        )

    def stored(self, x: torch.Tensor) -> torch.Tensor:
        rows = []
        for row, (recipe, noise) in zip(x, self.runs):
            noisy = row * (1 + noise * torch.randn_like(row)) if noise else row
            rows.append(row if recipe is None else noisy.half().float())
        return torch.stack(rows)

    def seen(self, x: torch.Tensor, sides: list[Side | None]) -> torch.Tensor:
        rows = []
        for row, side, (recipe, _) in zip(x, sides, self.runs):
            if side is not None:
                prefix = recipe.intact_prefix
                quantized = sees_quantized(side, x.shape[2], prefix)[-1]
                row = torch.where(quantized[:, None], quantize_side(row[None], side, prefix)[0], row)
            rows.append(row)
        return torch.stack(rows)


@torch.inference_mode()
def decoded_logits(model: PreTrainedModel, ids: list[int], runs: list[tuple[Recipe | None, float]]) -> torch.Tensor:
    """[runs, tokens, vocabulary]."""
    cache = DynamicCache()
    cache.layers = [FakeQuantLayer(i, runs) for i in range(model.config.num_hidden_layers)]
    rows = []
    for token in ids:
        step = torch.full((len(runs), 1), token)
        rows.append(model(step, past_key_values=cache, use_cache=True).logits[:, -1])
    return torch.stack(rows, 1).float()


def log_perplexity(logits: torch.Tensor, ids: list[int]) -> float:
    target = torch.tensor(ids[1:])
    return -logits[:-1].log_softmax(-1).gather(1, target[:, None]).double().mean().item()


def rms(x: torch.Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def measure(model: PreTrainedModel, ids: list[int], positions: list[int]) -> dict:
    with torch.inference_mode():
        prefilled = model(torch.tensor([ids]), use_cache=False).logits[0].float()
    recipes = [parse_recipe(recipe, model.config.num_hidden_layers) for recipe in RECIPES]
    noises = [0.0, *[NOISE] * NOISE_RUNS]
    torch.manual_seed(1)
    exact, *decoded = decoded_logits(model, ids, [(None, 0.0), *itertools.product(recipes, noises)])
    worst = (exact - prefilled).abs().max().item()
    if worst > EXACT_TOLERANCE:
        raise SystemExit(f"transformers' own decode is off its prefill by {worst:.1e}")
    sample_ids = [(i * exact.shape[1] // SAMPLES) | 1 for i in range(SAMPLES)]
    rows = []
    for i, recipe in enumerate(RECIPES):
        ours, *noisy = decoded[i * len(noises) : (i + 1) * len(noises)]
        rows.append(
            {
                "recipe": recipe,
                "log_ppl": round(log_perplexity(ours, ids), 5),
                "noisy_log_ppl": [round(log_perplexity(run, ids), 5) for run in noisy],
                "effect": round(rms((ours - exact)[positions][:, sample_ids]), 6),
                "noise": round(max(rms((ours - run)[positions][:, sample_ids]) for run in noisy), 6),
                "logits": [[round(x, 4) for x in row] for row in ours[positions][:, sample_ids].tolist()],
            }
        )
    return {"sample_ids": sample_ids, "exact_log_ppl": round(log_perplexity(exact, ids), 5), "rows": rows}
