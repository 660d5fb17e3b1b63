"""A tune's report as `lowkey tune` writes it (docs/formats/report.md), with made-up numbers of the usual sizes: 30
layers, 12 points, a whole probe. Each run makes the same one."""

import itertools
import math
import random

NUM_LAYERS = 30
NUM_HEADS = 9
BITS = (8, 4, 2)
CANDIDATES = [(k, v) for k in BITS for v in BITS]
STORED_EXTRA = 1.1  # scales and zero points, windows, unfilled pages


def label(k_bits: int, v_bits: int) -> str:
    return f"KV{k_bits}" if k_bits == v_bits else f"K{k_bits}V{v_bits}"


LABELS = [label(*pair) for pair in CANDIDATES]


def layer_weight(layer: int) -> float:
    """How much a layer's errors count: the first one, and a few in the middle."""
    return 1 + 6 * math.exp(-layer / 0.7) + sum(3 * math.exp(-((layer - c) ** 2)) for c in (8, 17, 23))


def pair_loss(layer: int, k_bits: int, v_bits: int) -> float:
    return layer_weight(layer) * (0.0083 * 6.5 ** (2 - k_bits) + 0.0017 * 6.5 ** (2 - v_bits))


def recipe_text(pairs: list[tuple[int, int]]) -> str:
    parts = []
    for pair, run in itertools.groupby(enumerate(pairs), key=lambda item: item[1]):
        layers = [layer for layer, _ in run]
        span = str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
        bits = str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}/{pair[1]}"
        parts.append(f"{span}=kivi-{bits}:r32")
    return ",".join(parts) + "+i1"


def point(recipe: str, pairs: list[tuple[int, int]]) -> dict:
    code_bits = sum(map(sum, pairs)) / (2 * len(pairs))
    kl = sum(pair_loss(layer, *pair) for layer, pair in enumerate(pairs)) / 3
    stored_bits = code_bits + STORED_EXTRA
    return {
        "recipe": recipe,
        "code_bits": code_bits,
        "stored_bits": stored_bits,
        "bytes_per_token": NUM_LAYERS * 3 * 64 * 2 * stored_bits / 8,
        "kl": kl,
        "kl_ci": kl * 0.08,
        "top1_agreement": max(0.5, 1 - 0.6 * math.sqrt(kl)),
        "ppl": 15.2 * (1 + 1.1 * kl),
        "ppl_delta_percent": 110 * kl,
        "kl_heldout": kl * 1.12,
        "kl_heldout_ci": kl * 0.1,
        "ppl_heldout": 17.9 * (1 + 1.15 * kl),
        "ppl_delta_percent_heldout": 115 * kl - 0.1,
        "top1_agreement_heldout": max(0.5, 1 - 0.65 * math.sqrt(kl)),
    }


def greedy_front(num_points: int) -> list[list[tuple[int, int]]]:
    """From all at 8 bits down to all at 2, each time the step that costs least per bit."""
    pairs = [(8, 8)] * NUM_LAYERS
    path = [list(pairs)]
    while any(pair != (2, 2) for pair in pairs):
        steps = []
        for layer, (k, v) in enumerate(pairs):
            for lower in ((k // 2, v), (k, v // 2)):
                if min(lower) >= 2:
                    cost = pair_loss(layer, *lower) - pair_loss(layer, k, v)
                    steps.append((cost / (k + v - sum(lower)), layer, lower))
        _, layer, lower = min(steps)
        pairs[layer] = lower
        path.append(list(pairs))
    wanted = [2 + 3.2 * i / (num_points - 1) for i in range(num_points)]
    mean_bits = [sum(map(sum, pairs)) / (2 * NUM_LAYERS) for pairs in path]
    return [path[min(range(len(path)), key=lambda i: abs(mean_bits[i] - bits))] for bits in wanted]


def probe_layer(layer: int, rng: random.Random) -> dict:
    weight = layer_weight(layer)

    def error(bits: int, scale: float) -> float:
        return scale * weight * 2.0 ** (2 - bits)

    candidates = []
    for k, v in CANDIDATES:
        e_k, e_v = error(k, 0.12), error(v, 0.15)
        e_o = math.hypot(error(k, 0.10), error(v, 0.05))
        heads = []
        for _ in range(NUM_HEADS):
            spread = rng.lognormvariate(0, 0.5)
            heads.append({"e_k": e_k * spread, "e_a": e_k * spread / 40, "e_o": e_o * spread})
        candidates.append(
            {
                "label": label(k, v),
                "e_k": e_k,
                "e_v": e_v,
                "e_a": e_k / 40,
                "e_o": e_o,
                "bias_k": rng.gauss(0, 1e-3),
                "bias_score": rng.gauss(0, 1e-3),
                "bias_o": rng.gauss(0, 5e-4),
                "heads": heads,
            }
        )
    axes = [
        (side, axis, bits, error(bits, 0.15 * (2.4 if (side, axis) == ("k", "per_token") else 1)))
        for side in "kv"
        for axis in ("per_token", "per_channel")
        for bits in BITS
    ]
    entropy = 2.5 + math.sin(layer / 4) + rng.random()
    return {
        "layer": layer,
        "candidates": candidates,
        "axes": [{"side": s, "axis": a, "bits": b, "error": e} for s, a, b, e in axes],
        "axes_output": [
            {"side": s, "axis": a, "bits": b, "e_o": e * (0.7 if s == "k" else 0.4)} for s, a, b, e in axes
        ],
        "score_noise": [
            {"bits": bits, "predicted": error(bits, 0.4), "measured": error(bits, 0.4) * rng.uniform(0.8, 1.6)}
            for bits in BITS
        ],
        "entropy": entropy,
        "top_share": 1 / (1 + entropy),
        "heads": [
            {"entropy": entropy + rng.gauss(0, 0.6), "top_share": rng.uniform(0.1, 0.9), "sink_share": rng.random()}
            for _ in range(NUM_HEADS)
        ],
    }


def sample_probe(model: str = "SmolLM2-135M-Instruct.Q4_1.gguf") -> dict:
    rng = random.Random(5)
    depth = []
    for recipe, scale in (("kivi-8:r32+i1", 0.002), ("kivi-4:r32+i1", 0.02), ("kivi-2:r32+i1", 0.09)):
        depth.append(
            {"recipe": recipe, "relative_error": [scale * math.sqrt(layer) for layer in range(NUM_LAYERS + 1)]}
        )
    tokens = ["<|im_start|>", "system", "\n", " sky", " blue", " the", " Rayleigh", ".", " because", " light"]
    shift = []
    for layer, head in ((8, 2), (17, 5), (23, 0)):
        exact = [0.34, 0.02, 0.03, 0.12, 0.16, 0.04, 0.19, 0.02, 0.03, 0.05]
        scores = {"16": exact}
        for bits in BITS:
            noisy = [p * math.exp(rng.gauss(0, 2.0 ** (1 - bits / 2))) for p in exact]
            scores[str(bits)] = [p / sum(noisy) for p in noisy]
        positions = [0, 1, 5, 40, 41, 50, 77, 80, 90, 95]
        shift.append(
            {"layer": layer, "head": head, "query": 120, "tokens": tokens, "positions": positions, "scores": scores}
        )
    return {
        "lowkey_probe": 1,
        "model": model,
        "tokens": 4096,
        "queries": 512,
        "candidates": LABELS,
        "layers": [probe_layer(layer, rng) for layer in range(NUM_LAYERS)],
        "depth": depth,
        "pivots": [
            {
                "document": "arithmetic 3",
                "position": position,
                "token": token,
                "layer": 2,
                "channels": [138, 402],
                "magnitude": magnitude,
                "ratio": magnitude / 0.9,
            }
            for position, token, magnitude in ((0, "<|im_start|>", 2210.0), (3, "\n", 940.0))
        ],
        "attention_shift": shift,
        "ablation": [
            {
                "bits": bits,
                "group_size": group,
                "residual_length": window,
                "e_o": 0.2 * 2.0 ** (2 - bits) * (group / 32) ** 0.4 * (32 / window) ** 0.1,
                "stored_bits": bits + 32 / group + window * 16 / 1024,
            }
            for bits in (4, 2)
            for group in (32, 64, 128)
            for window in (32, 64, 128)
            if window >= group
        ],
    }


def sample_report(title: str = "SmolLM2-135M-Instruct.Q4_1.gguf") -> dict:
    rng = random.Random(7)
    paths = greedy_front(12)
    points = [point(recipe_text(pairs), pairs) for pairs in paths]
    references = []
    for k, v in ((8, 8), (8, 4), (4, 4), (4, 2), (2, 2)):
        bits = str(k) if k == v else f"{k}/{v}"
        references.append(point(f"kivi-{bits}:r32+i1", [(k, v)] * NUM_LAYERS))
    trials = []
    for _ in range(160):
        base = rng.choice(points)
        kl = base["kl"] * (1 + rng.expovariate(1.2))
        code_bits = min(8, max(2, base["code_bits"] + rng.gauss(0.1, 0.3)))
        trials.append({"kind": "search", "code_bits": code_bits, "stored_bits": code_bits + STORED_EXTRA, "kl": kl})
    trials += [
        {"kind": "reference", "code_bits": p["code_bits"], "stored_bits": p["stored_bits"], "kl": p["kl"]}
        for p in references
    ]
    sensitivity = []
    for layer, (k, v) in itertools.product(range(NUM_LAYERS), CANDIDATES):
        alone = pair_loss(layer, k, v) * rng.lognormvariate(0, 0.2)
        sensitivity.append({"layer": layer, "candidate": label(k, v), "kl": alone, "from": "16-bit"})
        rest = 0.2 - (pair_loss(layer, 2, 2) - pair_loss(layer, k, v)) * rng.uniform(0.8, 1)
        sensitivity.append({"layer": layer, "candidate": label(k, v), "kl": rest, "from": "low"})
    usual = ["KV8", "K8V4", "KV4", "K4V2", "KV2"]
    first = ["KV8", "K4V8", "KV4", "K2V4", "KV2"]
    pruned = []
    for layer in range(NUM_LAYERS):
        kept = first if layer == 0 else usual
        pruned.append({"layer": layer, "kept": kept, "dropped": [name for name in LABELS if name not in kept]})
    groups = [
        {"layers": [0], "kept": first},
        {"layers": [1, 2, 3, 7, 29], "kept": usual},
        {"layers": [8, 17, 23], "kept": usual},
        {"layers": [n for n in range(NUM_LAYERS) if n not in (0, 1, 2, 3, 7, 29, 8, 17, 23)], "kept": usual},
    ]

    def cheapest(percent: float) -> int:
        return min(i for i, p in enumerate(points) if p["ppl_delta_percent_heldout"] <= percent)

    use = [
        {
            "need": need,
            "what": what,
            "point": cheapest(percent),
            "command": f"lowkey run MODEL --kv front.json --quality {need}",
        }
        for need, what, percent in (
            ("lossless", "perplexity within 0.5%, KL at most 0.01", 0.5),
            ("balanced", "perplexity within 2%", 2.0),
            ("compact", "perplexity within 5%", 5.0),
        )
    ]
    command = "lowkey tune SmolLM2-135M-Instruct.Q4_1.gguf --out tuned --ctx 1024"
    return {
        "lowkey_report": 1,
        "title": title,
        "command": command,
        "engine": "avx512 kernels, f32 weights",
        "shape": {"num_layers": NUM_LAYERS, "num_kv_heads": 3, "head_dim": 64},
        "ctx": 1024,
        "calibration": {"documents": 12, "scored_tokens": 2048},
        "heldout": {"documents": 6, "scored_tokens": 2048},
        "reference": {"ppl": 15.2, "ppl_heldout": 17.9},
        "front": {
            "model": title,
            "model_sha256": "0" * 64,
            "command": command,
            "ctx": 1024,
            "points": points,
            "references": references,
        },
        "point_layers": [[list(pair) for pair in pairs] for pairs in paths],
        "use": use,
        "trials": trials,
        "sensitivity": sensitivity,
        "pruned": pruned,
        "groups": groups,
        "surrogate": {"rank_correlation": 0.984, "trials": len(trials)},
        "probe": sample_probe(title),
    }


def sample_calibration(student: str = "SmolLM2-135M-w3g64") -> dict:
    curve = []
    for step in range(81):
        loss = 2.1 * math.exp(-step / 60) + 6.2
        heldout = loss * 1.07 if step % 8 == 0 else None
        train = None if step == 80 else loss * (1 + 0.05 * math.sin(step * 7))
        curve.append({"step": step, "train": train, "heldout": heldout})
    return {
        "lowkey_calibration": 1,
        "model": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "student": student,
        "command": "lowkey calibrate SmolLM2-135M-Instruct.Q4_1.gguf --student w3 -o p.safetensors",
        "what": "intact",
        "bits": 16,
        "prefix": {"name": "chat", "tokens": 24, "text": "<|im_start|>system\nYou are <b>kind</b>", "bytes": 1116000},
        "training": {
            "source": "chats.jsonl",
            "train": {"samples": 128, "tokens": 41000, "counted": 30200},
            "heldout": {"samples": 16, "tokens": 5100, "counted": 3800},
            "loss": "layers",
            "steps": 160,
            "accumulation": 16,
            "learning_rate": 2e-4,
            "weight_decay": 0.0,
            "clip": 0.3,
            "seed": 1,
            "products": "bf16",
            "curve": curve,
            "best_step": 80,
            "heldout_before": curve[0]["heldout"],
            "heldout_after": curve[80]["heldout"],
            "stopped_early": False,
        },
    }
