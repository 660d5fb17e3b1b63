#!/usr/bin/env python3
"""A model as large as those people run, without downloading one: random bf16 weights in the shape of a well-known model,
written on the spot. Shows that its weights are used where the file's map lies, without a second copy, and that the
cache takes what `lowkey plan` says. Called by ./dev bench large; deletes the model afterwards.

Anonymous memory is what the process owns: weights that are mapped do not count, copies would. It is read from
/proc while the program runs; the peak is shown.
"""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from rows import add_output_arguments, machine, progress, report

RECIPES = ["16", "8/4", "kivi-4:r32", "kivi-2:r32"]
SHARD_BYTES = 2 << 30
COLUMNS = {
    "kv": "",
    "tokens": "",
    "KV bytes": ",",
    "plan says": ",",
    "stored": ".2f",
    "owned MiB": ",.0f",
    "model MiB": ",.0f",
    "first token s": ".1f",
    "tok/s": ".2f",
}


def random_bf16(count: int, seed: int) -> bytes:
    """Numbers of either sign between 2^-7 and 2^-6, so that sums over thousands of channels stay near 1."""
    source = random.Random(seed)
    mantissas = bytes(byte & 0x7F for byte in range(256))
    signs = bytes(0xBC if byte & 1 else 0x3C for byte in range(256))
    out = bytearray(2 * count)
    out[0::2] = source.randbytes(count).translate(mantissas)
    out[1::2] = source.randbytes(count).translate(signs)
    return bytes(out)


def tensors_of(shape: dict) -> list[tuple[str, list[int]]]:
    hidden, ffn, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    q, kv = shape["num_qo_heads"] * shape["head_dim"], shape["num_kv_heads"] * shape["head_dim"]
    found = [("model.embed_tokens.weight", [vocab, hidden])]
    for layer in range(shape["num_layers"]):
        prefix = f"model.layers.{layer}."
        found += [
            (prefix + "input_layernorm.weight", [hidden]),
            (prefix + "self_attn.q_proj.weight", [q, hidden]),
            (prefix + "self_attn.k_proj.weight", [kv, hidden]),
            (prefix + "self_attn.v_proj.weight", [kv, hidden]),
            (prefix + "self_attn.o_proj.weight", [hidden, q]),
            (prefix + "post_attention_layernorm.weight", [hidden]),
            (prefix + "mlp.gate_proj.weight", [ffn, hidden]),
            (prefix + "mlp.up_proj.weight", [ffn, hidden]),
            (prefix + "mlp.down_proj.weight", [hidden, ffn]),
        ]
    return [*found, ("model.norm.weight", [hidden]), ("lm_head.weight", [vocab, hidden])]


def size_of(shape: list[int]) -> int:
    size = 2
    for extent in shape:
        size *= extent
    return size


def write_shard(path: pathlib.Path, tensors: list[tuple[str, list[int]]], block: bytes) -> None:
    header, offset = {}, 0
    for name, shape in tensors:
        end = offset + size_of(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            left = size_of(shape)
            if name.endswith("norm.weight"):
                file.write(b"\x80\x3f" * (left // 2))  # ones
                continue
            while left > 0:
                file.write(block[: min(left, len(block))])
                left -= min(left, len(block))


def vocabulary(size: int) -> dict[str, int]:
    """GPT-2's printable names of the 256 bytes, which is enough for prompts; and names for what weights may answer."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    tokens = [chr(byte if byte in prints else next(others)) for byte in range(256)]
    return {token: i for i, token in enumerate(tokens + [f"token{i}" for i in range(256, size)])}


def write_model(folder: pathlib.Path, shape: dict) -> int:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "num_hidden_layers": shape["num_layers"],
        "num_attention_heads": shape["num_qo_heads"],
        "num_key_value_heads": shape["num_kv_heads"],
        "max_position_embeddings": shape["max_context"],
        **{key: shape[key] for key in ("hidden_size", "intermediate_size", "vocab_size", "head_dim")},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocabulary(shape["vocab_size"]), "merges": []},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    shards: list[list[tuple[str, list[int]]]] = [[]]
    filled = 0
    for name, extents in tensors_of(shape):
        if filled > 0 and filled + size_of(extents) > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, extents))
        filled += size_of(extents)
    total = sum(size_of(extents) for shard in shards for _, extents in shard)
    block = random_bf16(8 << 20, seed=1)
    files = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        progress(f"writing {name}")
        write_shard(folder / name, shard, block)
        files.update({tensor: name for tensor, _ in shard})
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def owned_bytes(pid: int) -> int:
    """Anonymous memory of a process; 0 once it is gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def run(command: list[str]) -> tuple[dict, int]:
    """What the program printed as JSON, and the peak of what it owned."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, owned_bytes(process.pid))
            time.sleep(0.02)
        out, err = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {err.strip()}")
    return json.loads(out), peak


def measure(arguments: argparse.Namespace, folder: pathlib.Path, total: int, recipe: str) -> dict:
    base = [arguments.lowkey, "run", str(folder), "--json", "--greedy", "--raw", "-t", str(arguments.threads)]
    base += ["-p", "a" * arguments.prompt, "-n", str(arguments.n), "--kv", recipe]
    got, peak = run(base)
    tokens = got["prompt_tokens"] + got["generated_tokens"] - 1  # the last one is never stored
    planned = subprocess.run(
        [arguments.lowkey, "plan", str(folder), "--kv", recipe, "-c", str(tokens), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    plan = json.loads(planned.stdout)["plans"][0]
    return {
        "kv": recipe,
        "tokens": tokens,
        "KV bytes": got["kv_bytes"],
        "plan says": plan["kv_bytes"],
        "stored": plan["stored_bits"],
        "owned MiB": peak / 2**20,
        "model MiB": total / 2**20,
        "first token s": got["prefill_seconds"],
        "tok/s": got["tokens_per_second"],
    }


def shape_of(arguments: argparse.Namespace) -> dict:
    listed = subprocess.run(
        [arguments.lowkey, "plan", "--arch", "list", "--json"], capture_output=True, text=True, check=True
    )
    for shape in json.loads(listed.stdout):
        if shape["name"].lower() == arguments.arch.lower():
            return shape
    raise SystemExit(f"large: '{arguments.arch}' is not a model that `lowkey plan --arch list` shows")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench large", description=__doc__)
    parser.add_argument("--lowkey", required=True, help="the program")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--arch", default="Llama-2-7B", help="a plain Llama shape of `lowkey plan --arch list`")
    parser.add_argument("--layers", type=int, help="fewer layers than it has")
    parser.add_argument("--kv", default=",".join(RECIPES), help="recipes")
    parser.add_argument("--prompt", type=int, default=200, help="tokens")
    parser.add_argument("-n", type=int, default=8, help="tokens to generate")
    parser.add_argument("--scratch", help="folder with room for the weights; default: the system's")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    shape = shape_of(arguments)
    if arguments.layers:
        shape["num_layers"] = arguments.layers
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lowkey-large-", dir=arguments.scratch))
    try:
        total = write_model(folder, shape)
        rows = []
        for recipe in arguments.kv.split(","):
            progress(f"running {recipe}")
            rows.append(measure(arguments, folder, total, recipe))
    finally:
        shutil.rmtree(folder)
    above = f"{machine()}; {arguments.arch}, {shape['num_layers']} layers, {total:,} bytes of bf16"
    report(rows, COLUMNS, arguments, above)
    different = [row["kv"] for row in rows if row["KV bytes"] != row["plan says"]]
    if different:
        print(f"large: not what plan says: {', '.join(different)}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
