#!/usr/bin/env python3
"""Compares lowkey's tokenizers with Hugging Face's `tokenizers`, on random Unicode strings.

  tokenizer_parity.py live --model SmolLM2.gguf --program BUILD/tests/load/tokenizer_parity [--count 10000]
  tokenizer_parity.py golden [--model SmolLM2.gguf]      writes tests/golden/tokenizers.json

`live` trains small vocabularies on Python's own documentation, writes tokenizer.json files in the style of each
family, encodes and decodes the strings with `tokenizers`, and has the C++ program do the same. `golden` stores a few
hundred strings, the vocabularies and hashes of the ids, so that ./dev test needs no Python packages.

Needs: tokenizers, gguf (which brings numpy).
"""

import argparse
import json
import pathlib
import pydoc_data.topics
import random
import re
import subprocess
import sys
import tempfile
import unicodedata

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = 20260101

# ------------------------------------------------------------------------------------------- the strings

CONTRACTIONS = [
    "don't",
    "DON'T",
    "I'M",
    "we'LL",
    "they'Ve",
    "it's",
    "IT'S",
    "y'all'd've",
    "'tis",
    "rock'n'roll",
    "it’s",
    "I'ſ",
    "'",
    "''s",
    "x'S1",
]
DIGITS = [
    "0",
    "7",
    "42",
    "1234567890",
    "3.14",
    "1,000",
    " 1",
    "  22",
    "a1b2",
    "٣٤٥",
    "१२३",
    "²³",
    "½",
    "Ⅷ",
    "①②",
    "𝟘𝟙",
    "1st",
    "0x1F",
    "v2.10.3",
]
SPACES = [
    " ",
    "  ",
    "   ",
    "        ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " \n ",
    "\n \n",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\u2029",
    "\u0085",
    "\u1680",
    "\u180e",
    "\u200b",
    "\u202f",
    "\v",
    "\f",
    "\x1c",
    "\x1f",
    " " * 40,
    "\n" * 17,
]
CJK = [
    "漢字",
    "東京タワー",
    "こんにちは",
    "안녕하세요",
    "한국어",
    "你好，世界！",
    "「引用」",
    "ｶﾀｶﾅ",
    "１２３",
    "。",
    "㌔",
    "𠮷野家",
]
MARKS = [
    "e\u0301",
    "\u0301",
    "a\u0323\u0302",
    "a\u0302\u0323",
    "\u1e69",
    "s\u0323\u0307",
    "s\u0307\u0323",
    "q\u0307\u0323",
    "\u0344",
    "\u0958",
    "\u0915\u093c",
    "\u1100\u1161\u11a8",
    "\u1100\u1161",
    "\uac00\u11a8",
    "\u212b",
    "\u2126",
    "\ufb1d",
    "\u05e9\u05bc\u05c1",
    "i\u0307",
    "\u0130",
    "क्षि",
    "ที่",
    "ﬁ",
    "\u0f73\u0f71",
    "\U0001d15e",
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇩", "❤️", "☎", "🧑🏿‍🚀", "1️⃣", "🦙"]
CONTROLS = [chr(c) for c in [0, 1, 4, 6, 7, 8, 0x13, 0x14, 0x16, 0x1B, 0x1D, 0x7F, 0x80, 0x9F, 0xAD]] + [
    "\ufeff",
    "\ufffd",
    "\ufffe",
    "\uffff",
    "\u200d",
    "\u200e",
    "\u2060",
    "\ue000",
    "\U000e0001",
    "\U0010ffff",
]
LOOKALIKES = [
    "<|im_start|>",
    "<|im_end|>",
    "<|im_start|",
    "|im_end|>",
    "<|endoftext|>",
    "<|endoftext|><|endoftext|>",
    "<s>",
    "</s>",
    "<unk>",
    "<s >",
    "<0x0A>",
    "<0xZZ>",
    "[INST]",
    "[/INST]",
    " [INST] ",
    "<tool_call>",
    "</tool_call>",
    "<<tool_call>>",
    "<mask>",
    "  <mask>  ",
    "\n<mask>\t",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "\u2581",
    "\u2581\u2581x",
    "Ġ",
    "Ċ",
    "<start_of_turn>",
    "ﬁx\u0301",
    "q\u0307\u0323t",
    "q\u0323\u0307t",
]
CODE = [
    "def f(x):\n    return x**2\n",
    "if (a != b) {\r\n\t++i;\r\n}",
    "https://example.org/?q=1&r=%20",
    "__init__",
    "camelCaseWord",
    "HTTPServer",
    "SCREAMING_CASE",
    "a/b\\c",
    "$^`|~",
    "«quoted»",
    "…",
    "—",
    "½-price",
]


def assigned_code_points():
    return [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


class Strings:
    """Random strings out of fragments that tokenizers are known to disagree on."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.text = " ".join(pydoc_data.topics.topics.values())
        self.code_points = assigned_code_points()

    def fragment(self):
        r = self.random
        kind = r.randrange(13)
        if kind == 0:
            start = r.randrange(len(self.text) - 80)
            return self.text[start : start + r.randrange(1, 80)]
        if kind == 1:
            return "".join(chr(r.choice(self.code_points)) for _ in range(r.randrange(1, 6)))
        if kind == 2:
            return "".join(chr(r.randrange(0x20, 0x7F)) for _ in range(r.randrange(1, 12)))
        if kind == 3:
            return r.choice(SPACES) + r.choice(DIGITS)
        if kind == 4:
            return "".join(r.choice(MARKS + ["a", "e", "\u0308", "\u0327", "\u0301"]) for _ in range(r.randrange(1, 5)))
        if kind == 5:
            return r.choice(["A", "\n", "us", "😀", " ", "0", "é", "ab", "="]) * r.randrange(1, 40)
        pools = [CONTRACTIONS, DIGITS, SPACES, CJK, EMOJI, CONTROLS, LOOKALIKES + CODE]
        return r.choice(pools[kind - 6])

    def one(self):
        return "".join(self.fragment() for _ in range(self.random.randrange(1, 9)))


def strings(count, seed=SEED):
    fixed = ["", " ", "Hello world", " Hello", "\u2581", "a  1", "\n"] + LOOKALIKES
    source = Strings(seed)
    return (fixed + [source.one() for _ in range(max(0, count - len(fixed)))])[:count]


# ------------------------------------------------------------------------------------------- the tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(use_regex=False, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def corpus():
    topics = pydoc_data.topics.topics
    return [topics[key] for key in sorted(topics)] + CJK * 20 + MARKS * 20 + EMOJI * 20 + CONTRACTIONS * 20 + DIGITS * 5


def train(pre_tokenizer, normalizer, size, alphabet):
    """Vocabulary and merges of a BPE trained on the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, limit_alphabet=400, show_progress=False, special_tokens=[]
        ),
    )
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def byte_level_tokenizer(pre, size, normalizer=None, **model):
    vocab, merges = train(pre, normalizer, size, pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab, merges, **model))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    return tokenizer


def fallback_tokenizer(size):
    """A BPE in the style of SentencePiece: unk, bos, eos, 256 bytes, then the trained tokens."""
    vocab, merges = train(pre_tokenizers.Metaspace(), None, size, [])
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + sorted(vocab, key=vocab.get)
    tokenizer = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def template(tokenizer, bos=None, eos=None):
    single = ([bos] if bos else []) + ["$A"] + ([eos] if eos else [])
    return processors.TemplateProcessing(
        single=" ".join(single), special_tokens=[(t, tokenizer.token_to_id(t)) for t in (bos, eos) if t]
    )


def gpt2(size):
    t = byte_level_tokenizer(byte_level(use_regex=True), size)
    t.add_special_tokens(["<|endoftext|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def smollm(size):
    t = byte_level_tokenizer(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)]), size
    )
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return t


def llama3(size):
    t = byte_level_tokenizer(pre_tokenizers.Sequence([split(LLAMA3), byte_level()]), size, ignore_merges=True)
    t.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    t.post_processor = processors.Sequence([processors.ByteLevel(), template(t, bos="<|begin_of_text|>")])
    return t


def qwen2(size):
    t = byte_level_tokenizer(pre_tokenizers.Sequence([split(QWEN2), byte_level()]), size, normalizers.NFC())
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.add_tokens(
        [
            AddedToken("<tool_call>", normalized=False, special=False),
            AddedToken("</tool_call>", normalized=False, special=False),
            AddedToken("q\u0307\u0323t", normalized=True, special=False),
        ]
    )
    return t


def tekken(size):
    t = byte_level_tokenizer(pre_tokenizers.Sequence([split(TEKKEN), byte_level()]), size, ignore_merges=True)
    t.add_special_tokens(["<s>", "</s>", "[INST]", "[/INST]"])
    t.post_processor = template(t, bos="<s>", eos="</s>")
    return t


def deepseek(size):
    t = byte_level_tokenizer(
        pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level()]),
        size,
    )
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True)])
    return t


def odd_splits(size):
    """Every behaviour of Split, and a prefix space."""
    t = byte_level_tokenizer(
        pre_tokenizers.Sequence(
            [
                split("[.!?]", "merged_with_previous"),
                split("[(«「]", "merged_with_next"),
                split("[=-]", "contiguous"),
                split("\x00", "removed"),
                split(r"[^\n]+", "isolated", invert=True),
                pre_tokenizers.Split("://", "isolated"),
                pre_tokenizers.Digits(individual_digits=False),
                byte_level(use_regex=True, add_prefix_space=True),
            ]
        ),
        size,
    )
    t.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("[INST]", rstrip=True)])
    return t


def llama2(size):
    t = fallback_tokenizer(size)
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    t.add_tokens([AddedToken("of the", normalized=True, special=False)])
    t.post_processor = template(t, bos="<s>")
    return t


def mistral(size):
    t = fallback_tokenizer(size)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    t.add_special_tokens(["[INST]", "[/INST]"])
    t.post_processor = template(t, bos="<s>")
    return t


def metaspace(size):
    t = fallback_tokenizer(size)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return t


def gemma(size):
    t = fallback_tokenizer(size)
    t.normalizer = normalizers.Replace(" ", "\u2581")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_special_tokens(["<start_of_turn>"])
    t.add_tokens(
        [
            AddedToken("\n\n", normalized=False, special=False),
            AddedToken("\u2581\u2581", normalized=True, special=False),
        ]
    )
    t.post_processor = template(t, bos="<s>")
    return t


FAMILIES = [gpt2, smollm, llama3, qwen2, tekken, deepseek, odd_splits, llama2, mistral, metaspace, gemma]


def smollm2_from_gguf(path):
    """The real one: vocabulary and merges from the GGUF, the pipeline as its authors' tokenizer.json has it."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, kinds) if kind == 3])
    return tokenizer


def to_json(tokenizer, merges_as_strings):
    file = json.loads(tokenizer.to_str())
    if merges_as_strings:  # as files had it before tokenizers 0.20
        file["model"]["merges"] = [" ".join(m) for m in file["model"]["merges"]]
    return file


# ------------------------------------------------------------------------------------------- comparing


def encode(tokenizer, texts, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    return [tokenizer.encode(text).ids for text in texts]


def live(args):
    texts = strings(args.count)
    cases = [(family.__name__, family(3000), None) for family in FAMILIES]
    if args.model:
        cases.insert(0, ("SmolLM2", smollm2_from_gguf(args.model), args.model))
    failed = False
    for number, (name, tokenizer, model) in enumerate(cases):
        with tempfile.TemporaryDirectory() as folder:
            source = model or folder
            if not model:
                path = pathlib.Path(folder) / "tokenizer.json"
                path.write_text(json.dumps(to_json(tokenizer, number % 2 == 0)))
            lines = []
            for parse_special in (True, False):
                for text, ids in zip(texts, encode(tokenizer, texts, parse_special)):
                    lines.append(
                        json.dumps(
                            {
                                "text": text,
                                "special": parse_special,
                                "ids": ids,
                                "decoded": tokenizer.decode(ids, skip_special_tokens=True),
                            }
                        )
                    )
            jsonl = pathlib.Path(folder) / "texts.jsonl"
            jsonl.write_text("\n".join(lines) + "\n")
            print(f"{name}: ", end="", flush=True)
            failed |= subprocess.run([args.program, source, jsonl]).returncode != 0
    return 1 if failed else 0


def fnv1a(ids):
    value = 0xCBF29CE484222325
    for number in ids:
        for byte in number.to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def hashes(tokenizer, texts):
    """One hash per text, over its ids with special tokens parsed, 2^32 - 1, its ids with them ignored."""
    pairs = zip(encode(tokenizer, texts, True), encode(tokenizer, texts, False))
    return [fnv1a(parsed + [2**32 - 1] + plain) for parsed, plain in pairs]


def golden(args):
    texts = strings(250)
    cases = []
    for number, family in enumerate(FAMILIES):
        tokenizer = family(420)
        cases.append(
            {
                "name": family.__name__,
                "tokenizer": to_json(tokenizer, number % 2 == 0),
                "hashes": hashes(tokenizer, texts),
            }
        )
    out = {
        "command": "tools/tokenizer_parity.py golden --model SmolLM2-135M-Instruct.Q4_1.gguf",
        "tokenizers": tokenizers.__version__,
        "seed": SEED,
        "hash": "FNV-1a 64 of the ids, 4 little-endian bytes each: " + " ".join(hashes.__doc__.split()),
        "texts": texts,
        "cases": cases,
    }
    if args.model:
        out["SmolLM2"] = hashes(smollm2_from_gguf(args.model), texts)
    path = ROOT / "tests/golden/tokenizers.json"
    body = json.dumps(out, separators=(",", ":"))
    path.write_text(re.sub(r',("(?:texts|cases|hashes|tokenizer|SmolLM2)":|{"name":)', r",\n\1", body) + "\n")
    print(f"{path}: {path.stat().st_size} bytes, {len(texts)} texts, {len(cases)} tokenizers")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["live", "golden"])
    parser.add_argument("--model", help="the SmolLM2 GGUF")
    parser.add_argument("--program", help="the C++ side, tests/load/tokenizer_parity of a build")
    parser.add_argument("--count", type=int, default=10000)
    args = parser.parse_args()
    if args.what == "live" and not args.program:
        parser.error("live needs --program")
    return live(args) if args.what == "live" else golden(args)


if __name__ == "__main__":
    sys.exit(main())
