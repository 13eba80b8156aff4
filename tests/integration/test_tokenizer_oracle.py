"""The tokenizer in C++ against Hugging Face `tokenizers`, the library that made the files.

Environment: GMA_BUILD_DIR (default build/release) holds tests/tokenize_lines; GMA_DATA_DIR
(default ../shared/data) holds the large texts, whose parts are skipped where it is missing;
GMA_MODEL_DIR (default build/models/default) is the default model, written by set-up.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / os.environ.get("GMA_BUILD_DIR", "build/release") / "tests" / "tokenize_lines"
DATA = ROOT / os.environ.get("GMA_DATA_DIR", "../shared/data")
DEFAULT_MODEL = ROOT / os.environ.get("GMA_MODEL_DIR", "build/models/default")
TINY_MODEL = ROOT / "deploy/models/tiny/converted"
PLAY = ROOT / "tests/integration/data/shakespeare.txt"  # public domain
RANDOM_STRINGS = 100_000
SEED = 20261123

EDGES = [
    "", " ", "  ", "\n", " \n\n x", "a   ", "   a", "a\u00a0b", "a\u3000\u3000b", "x\t\ty \r\n z",
    "I'm you're we've she'll he'd it's can't IT'S ''s 's 'S ' s", "1234 5.67 x9y ²³ ٣٤ Ⅷ 1   2",
    "naïve café e\u0301 中文 русский עברית हिन्दी 👩‍👩‍👧 🇫🇷", "<|endoftext|",
    "<|im_start|>user\nhi<|im_end|>", "<|im_start|><|im_end|><|im_start|", "\u0004a\u0006",
    "\0\x01\x7f\x85", "a" * 5000, " " * 3000 + "b", "ab" * 4000,
    "\ufeff\ufffd\uffff\U0010ffff\U00040000",
]  # fmt: skip


@dataclass
class Vocabulary:
    """One tokenizer.json and the library's view of it."""

    directory: Path
    theirs: tokenizers.Tokenizer
    missing: bytes  # bytes without a token: both sides leave them out

    @classmethod
    def open(cls, directory: Path) -> Vocabulary:
        """Opens `directory`/tokenizer.json."""
        path = directory / "tokenizer.json"
        vocab = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [b for b in range(256) if b not in own]
        spelling = {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(others)}
        missing = bytes(b for b in range(256) if spelling[b] not in vocab)
        return cls(directory, tokenizers.Tokenizer.from_file(str(path)), missing)

    def ours(self, mode: str, records: list[bytes]) -> Iterator[tuple[list[int], bytes]]:
        """Tokens of each record and what they decode to, from the C++ side."""
        stdin = b"".join(struct.pack("<I", len(r)) + r for r in records)
        out = subprocess.run(
            [BINARY, self.directory, mode], input=stdin, stdout=subprocess.PIPE, check=True
        ).stdout
        position = 0
        for _ in records:
            (count,) = struct.unpack_from("<I", out, position)
            tokens = list(struct.unpack_from(f"<{count}i", out, position + 4))
            position += 4 + 4 * count
            (length,) = struct.unpack_from("<I", out, position)
            yield tokens, out[position + 4 : position + 4 + length]
            position += 4 + length
        assert position == len(out)

    def check(self, mode: str, records: list[bytes]) -> int:
        """Compares every record; returns how many were UTF-8, which the library can take."""
        self.theirs.encode_special_tokens = mode == "text"  # True: specials are ordinary text
        valid = []
        for record in records:
            with contextlib.suppress(UnicodeDecodeError):
                valid.append(record.decode())
        encodings = self.theirs.encode_batch_fast(valid, add_special_tokens=False)
        expected = [encoding.ids for encoding in encodings]
        texts = iter(self.theirs.decode_batch(expected, skip_special_tokens=False))
        by_record = dict(zip((v.encode() for v in valid), expected, strict=True))
        for record, (tokens, decoded) in zip(records, self.ours(mode, records), strict=True):
            assert decoded == record.translate(None, self.missing), record
            if record in by_record:
                assert tokens == by_record[record], record
                assert decoded.decode(errors="replace") == next(texts), record
        return len(valid)


def train(directory: Path, digits: bool) -> Path:
    """A tokenizer of 2,000 tokens on the whole byte alphabet, from the play."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if digits:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if digits else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_start|>user"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(PLAY)], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def vocabulary(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Vocabulary:
    """The vocabulary named by the parameter: of a model, or trained here."""
    if request.param.startswith("trained"):
        directory = tmp_path_factory.mktemp(request.param)
        return Vocabulary.open(train(directory, digits=request.param == "trained_digits"))
    directory = DEFAULT_MODEL if request.param == "default" else TINY_MODEL
    if not (directory / "tokenizer.json").exists():
        pytest.skip(f"no model in {directory}: run tools/setup")
    return Vocabulary.open(directory)


every_vocabulary = pytest.mark.parametrize(
    "vocabulary", ["default", "tiny", "trained", "trained_digits"], indirect=True, scope="module"
)


def wikitext() -> list[str]:
    """Lines of WikiText-2 raw, test."""
    with lzma.open(DATA / "wikitext-2/wiki.test.raw.xz", "rt", encoding="utf-8") as file:
        return list(file)


def dolly() -> list[str]:
    """Every text field of Dolly."""
    with lzma.open(DATA / "dolly-15k/dolly-15k.jsonl.xz", "rt", encoding="utf-8") as file:
        return [text for line in file for text in json.loads(line).values()]


@every_vocabulary
@pytest.mark.parametrize("mode", ["text", "template"])
def test_play_and_edges(vocabulary: Vocabulary, mode: str) -> None:
    """The whole play at once, its lines, and texts made to be awkward."""
    play = PLAY.read_text(encoding="utf-8")
    records = [t.encode() for t in [play, *play.splitlines(keepends=True), *EDGES]]
    assert vocabulary.check(mode, records) == len(records)


@pytest.mark.parametrize(
    ("vocabulary", "read"),
    [("default", wikitext), ("default", dolly), ("trained", wikitext)],
    indirect=["vocabulary"],
)
def test_corpus(vocabulary: Vocabulary, read: Callable[[], list[str]]) -> None:
    """Real text, line by line."""
    if not DATA.is_dir():
        pytest.skip(f"no texts in {DATA}: set GMA_DATA_DIR")
    records = [text.encode() for text in read()]
    assert len(records) > 4000
    assert vocabulary.check("text", records) == len(records)


def random_record(source: random.Random) -> bytes:
    """Up to 40 bytes: noise, ASCII, characters of any script, or such characters cut anywhere."""
    kind = source.randrange(5)
    length = source.randrange(24)
    if kind == 0:
        return source.randbytes(length)
    if kind == 1:
        return "".join(source.choices(" \n\t'slrev019az.,!<|>", k=length)).encode()
    if kind == 2:
        return "".join(
            source.choices(["<|im_start|>", "user", "<|im_end|>", "<|", " "], k=5)
        ).encode()
    tops = (0x80, 0x800, 0x3100, 0xD800, 0x110000)
    points = (source.randrange(source.choice(tops)) for _ in range(length // 2))
    text = "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000).encode()
    return (
        text if kind == 3 else text[source.randrange(4) : max(4, len(text) - source.randrange(4))]
    )


@every_vocabulary
@pytest.mark.parametrize("mode", ["text", "template"])
def test_random_bytes(vocabulary: Vocabulary, mode: str) -> None:
    """100,000 random strings: all come back, and those that are UTF-8 equal the library's."""
    source = random.Random(SEED)
    records = [random_record(source) for _ in range(RANDOM_STRINGS)]
    valid = vocabulary.check(mode, records)
    assert RANDOM_STRINGS * 0.6 < valid < RANDOM_STRINGS * 0.9


def test_classes_are_those_of_the_library() -> None:
    """The tables of character classes, for every code point."""
    subprocess.run([sys.executable, ROOT / "tools/unicode_tables.py", "--check"], check=True)
