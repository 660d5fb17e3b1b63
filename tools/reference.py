"""What the parity tools share: the real model and its tokenizer as Hugging Face sees them, and golden files."""

import hashlib
import json
import pathlib
import platform
from collections.abc import Sequence

import gguf
import numpy
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


def load_model(gguf_file: pathlib.Path, **kwargs) -> transformers.PreTrainedModel:
    """The GGUF's weights, dequantized to float32."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32, **kwargs
    )
    return model.eval()


def load_tokenizer(gguf_file: pathlib.Path) -> Tokenizer:
    """The GGUF's byte-level BPE with pre-tokenizer "smollm".

    Not transformers' AutoTokenizer on the GGUF: it leaves out the splitting of digits.
    """
    fields = gguf.GGUFReader(gguf_file).fields
    if fields["tokenizer.ggml.pre"].contents() != "smollm":
        raise SystemExit(f"{gguf_file}: not SmolLM2's tokenizer")
    vocab = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def ids_sha256(ids: Sequence[int]) -> str:
    """Over the ids as little-endian int32."""
    return hashlib.sha256(numpy.asarray(ids, dtype="<i4").tobytes()).hexdigest()


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": numpy.__version__,
    }


def write_golden(path: pathlib.Path, command: str, content: dict) -> None:
    """One key a line, so that a diff shows what changed; numbers already rounded by the caller."""
    document = {"made_by": command, "versions": versions(), **content}
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in document.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def read_golden(name: str, folder: pathlib.Path = GOLDEN) -> dict:
    return json.loads((folder / name).read_text())


def demo_tokens() -> list[int]:
    """Token ids of real English prose, fixed: the prose itself differs from one Python to the next."""
    golden = read_golden("demo_tokens.json")
    if ids_sha256(golden["ids"]) != golden["ids_sha256"]:
        raise SystemExit("tests/golden/demo_tokens.json: the ids do not match their hash")
    return golden["ids"]
