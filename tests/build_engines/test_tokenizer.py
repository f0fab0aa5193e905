"""tokenizer.json encodes exactly as transformers' CLIPTokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from build_engines.checkpoint import DiffusersFolder
from build_engines.errors import CheckpointError
from build_engines.pipeline import open_pipeline
from build_engines.tokenizer import write_tokenizer
from tests.conftest import CHECKPOINTS

TEXTS = [
    "",
    "a photo of a cat",
    "Highly Detailed FACE, 8k, (masterpiece:1.2)",
    "it's the dog's; we'll see, I'd say they've been 'round",
    "tabs\tand\nnew   lines  ",
    "naïve café — Ünïcödé “quotes” e\u0301",
    "人物の写真, портрет, 😀👩‍🚀",
    "1girl 1234567890 3.14",
    "<|startoftext|> and <|endoftext|>",
    "a" * 400,
    "word " * 200,
]


@pytest.fixture(scope="module")
def reference() -> CLIPTokenizer:
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(CHECKPOINTS / "sd15" / "tokenizer")
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_clip(repository: Path, reference: CLIPTokenizer, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(repository / "sd15_text_encoder" / "tokenizer.json"))
    expected = reference(text, add_special_tokens=False, truncation=False)["input_ids"]
    assert tokenizer.encode(text, add_special_tokens=False).ids == expected


def test_nothing_is_cut_or_padded(repository: Path) -> None:
    tokenizer = Tokenizer.from_file(str(repository / "sd15_text_encoder" / "tokenizer.json"))
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert len(tokenizer.encode("word " * 200, add_special_tokens=False).ids) == 200


def test_a_broken_vocabulary_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer" / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(CheckpointError, match=r"no <\|startoftext\|>"):
        write_tokenizer(DiffusersFolder(checkpoint), "tokenizer", tmp_path)


def test_merges_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with (checkpoint / "tokenizer" / "merges.txt").open("a") as file:
        file.write("neither\u0007 known\u0007\n")
    with pytest.raises(CheckpointError, match=r"merges\.txt"):
        write_tokenizer(DiffusersFolder(checkpoint), "tokenizer", tmp_path)


def test_a_vocabulary_that_the_text_encoder_lacks_is_refused_before_the_build(
    checkpoint: Path,
) -> None:
    file = checkpoint / "tokenizer" / "vocab.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"one more": 49408}))
    with pytest.raises(CheckpointError, match="'one more' has the id 49408; text_encoder has 4940"):
        open_pipeline("base", DiffusersFolder(checkpoint), {})
