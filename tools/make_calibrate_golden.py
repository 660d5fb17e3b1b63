#!/usr/bin/env python3
"""Write tests/golden/calibrate.json: training of an intact prefix, in plain PyTorch.

Nothing here comes from lowkey but the tiny model's weights (tiny_model.py): the model's forward pass, the loss of
IntactKV (arXiv 2403.01241) and the gradients are torch's own. The student's layer matrices are the teacher's rounded
to multiples of 1/8.
"""

import argparse
import json
import pathlib

import torch
from tiny_model import TinyModel, TinyModelOptions

OPTIONS = {"seed": 21, "layers": 3, "attention_bias": True, "tied": False}
PREFIX = [289, 12, 40]
SAMPLES = [
    {"tokens": [5, 77, 130, 9, 9, 201, 17, 64], "rows": [2, 3, 5, 7], "next": [9, 9, 17, 3]},
    {"tokens": [31, 2, 250, 18, 90, 91], "rows": [0, 1, 4], "next": [2, 250, 91]},
]
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


class Llama:
    def __init__(self, options: TinyModelOptions, weights: dict[str, torch.Tensor]):
        self.o, self.w = options, weights

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.o.norm_eps)
        return x * scale * self.w[name + ".weight"]

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def rotated(self, x: torch.Tensor, first: int) -> torch.Tensor:
        half = self.o.head_dim // 2
        inverse = self.o.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(first, first + x.shape[0], dtype=torch.float64)[:, None] * inverse
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        low, high = x[..., :half], x[..., half:]
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    def forward(self, tokens: list[int], prefix: list | None = None) -> tuple[list, list]:
        """Outputs of all layers, and (k, v) of all layers for the tokens themselves."""
        o = self.o
        before = prefix[0][0].shape[0] if prefix else 0
        x, outputs, kept = self.w["embed.weight"][torch.tensor(tokens)], [], []
        for layer in range(o.layers):
            name = f"layers.{layer}."
            n = self.norm(x, name + "attn_norm")
            q, k, v = (self.linear(n, name + m).view(len(tokens), -1, o.head_dim) for m in ("q", "k", "v"))
            q, k = self.rotated(q, before), self.rotated(k, before)
            kept.append((k, v))
            if prefix:
                k, v = torch.cat([prefix[layer][0], k]), torch.cat([prefix[layer][1], v])
            group = o.heads // o.kv_heads
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            scores = torch.einsum("qhd,khd->hqk", q, k) / o.head_dim**0.5
            hidden = torch.arange(k.shape[0])[None] > before + torch.arange(len(tokens))[:, None]
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            x = x + self.linear(torch.einsum("hqk,khd->qhd", weights, v).flatten(1), name + "o")
            n = self.norm(x, name + "mlp_norm")
            gate = torch.nn.functional.silu(self.linear(n, name + "gate"))
            x = x + self.linear(gate * self.linear(n, name + "up"), name + "down")
            outputs.append(x)
        return outputs, kept

    def log_probabilities(self, hidden: torch.Tensor) -> torch.Tensor:
        head = self.w.get("head.weight", self.w["embed.weight"])
        return (self.norm(hidden, "final_norm") @ head.T).log_softmax(-1)


def losses(teacher: Llama, student: Llama, start: list, prefix: list, sample: dict) -> dict[str, torch.Tensor]:
    rows = torch.tensor(sample["rows"])
    goal = [x[rows].detach() for x in teacher.forward(sample["tokens"], start)[0]]
    ours = [x[rows] for x in student.forward(sample["tokens"], prefix)[0]]
    theirs, mine = teacher.log_probabilities(goal[-1]), student.log_probabilities(ours[-1])
    return {
        "layers": sum(0.5 * (a - b).square().mean() for a, b in zip(ours, goal, strict=True)),
        "kl": (theirs.exp() * (theirs - mine)).sum(-1).mean(),
        "answers": -mine.gather(1, torch.tensor(sample["next"])[:, None]).mean(),
    }


def adamw_golden() -> dict:
    torch.manual_seed(3)
    settings = {"learning_rate": 0.02, "weight_decay": 0.1, "clip": 0.3}
    start = [torch.randn(5), torch.randn(3)]
    leaves = [x.clone().requires_grad_() for x in start]
    optimizer = torch.optim.AdamW(leaves, lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
    steps = []
    for step in range(4):
        for leaf in leaves:
            leaf.grad = torch.randn_like(leaf) * (0.01 if step == 1 else 1)
        gradients = [leaf.grad.tolist() for leaf in leaves]
        norm = torch.nn.utils.clip_grad_norm_(leaves, settings["clip"])
        optimizer.step()
        steps.append({"gradients": gradients, "norm": norm.item(), "tensors": [x.tolist() for x in leaves]})
    return {**settings, "start": [x.tolist() for x in start], "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    golden = pathlib.Path(__file__).resolve().parents[1] / "tests/golden/calibrate.json"
    parser.add_argument("--out", type=pathlib.Path, default=golden)
    out = parser.parse_args().out

    options = TinyModelOptions(**OPTIONS)
    weights = {name: torch.from_numpy(x).double() for name, x in TinyModel(options).tensors().items()}
    rounded = {
        name: (x * 8).round() / 8 if name.split(".")[-2] in MATRICES and name.endswith(".weight") else x
        for name, x in weights.items()
    }
    teacher, student = Llama(options, weights), Llama(options, rounded)
    # As a file holds it.
    start = [tuple(x.half().double() for x in pair) for pair in teacher.forward(PREFIX)[1]]
    leaves = [x.clone().requires_grad_() for pair in start for x in pair]
    prefix = list(zip(leaves[::2], leaves[1::2], strict=True))
    samples = []
    for sample in SAMPLES:
        entry = {**sample, "loss": {}, "gradients": {}}
        for name, loss in losses(teacher, student, start, prefix, sample).items():
            gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
            entry["loss"][name] = loss.item()
            entry["gradients"][name] = [
                {"norm": g.norm().item(), "first": g.flatten()[:4].tolist(), "last": g.flatten()[-4:].tolist()}
                for g in gradients
            ]
        samples.append(entry)
    text = json.dumps(
        {
            "torch": torch.__version__,
            "options": OPTIONS,
            "prefix": PREFIX,
            "prefix_k0": start[0][0].flatten().tolist()[:8],
            "samples": samples,
            "adamw": adamw_golden(),
        },
        indent=1,
    )
    out.write_text(text + "\n")


if __name__ == "__main__":
    main()
