"""The checkpoint's CLIP vocabulary as one ``tokenizer.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from build_engines.checkpoint import Checkpoint
from build_engines.errors import CheckpointError
from networks import ClipTextEncoder
from pipelines.descriptor import TextEncoderSpec

TOKENIZER_FILE = "tokenizer.json"
_CLIP: Any = CLIPTokenizer  # its signature lacks the pairs that it accepts
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(checkpoint: Checkpoint, part: str, folder: Path) -> None:
    """Writes ``folder/tokenizer.json`` from ``part/vocab.json`` and ``part/merges.txt``.

    The file is in the format of the ``tokenizers`` library, without truncation or padding, and
    encodes as transformers' CLIPTokenizer does.

    Raises:
        CheckpointError: a file is missing or is no CLIP vocabulary.
    """
    vocab = checkpoint.json(f"{part}/vocab.json")
    missing = [token for token in (START, END) if token not in vocab]
    if missing:
        raise CheckpointError(f"{part}/vocab.json: not CLIP's vocabulary: no {missing[0]}")
    path = checkpoint.root / part / "merges.txt"
    merges = []
    for line in checkpoint.text(f"{part}/merges.txt").splitlines():
        pair = tuple(line.split(" "))
        if line.startswith("#version") or not line:
            continue
        if len(pair) != 2:
            raise CheckpointError(f"{path}: {line!r}: two tokens a line are expected")
        merges.append(pair)
    try:
        tokenizer = _CLIP(vocab=vocab, merges=merges)
    except Exception as error:  # the library raises no narrower class
        raise CheckpointError(f"{path}: does not fit vocab.json: {error}") from error
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))


def text_encoder_spec(
    checkpoint: Checkpoint, encoder: ClipTextEncoder, tokenizer: str
) -> TextEncoderSpec:
    """The encoder's special tokens; ``tokenizer`` is the path of its tokenizer.json.

    Raises:
        CheckpointError: the padding token of the tokenizer's configuration is not in the
            vocabulary.
    """
    part = encoder.tokenizer
    vocab = checkpoint.json(f"{part}/vocab.json")
    padding = checkpoint.json(f"{part}/tokenizer_config.json").get("pad_token", END)
    if isinstance(padding, dict):  # the form of older configurations
        padding = padding["content"]
    if padding not in vocab:
        raise CheckpointError(f"{part}/tokenizer_config.json: pad_token {padding!r} is unknown")
    return TextEncoderSpec(
        role=encoder.role,
        tokenizer=tokenizer,
        start=vocab[START],
        end=vocab[END],
        padding=vocab[padding],
        pooled=encoder.pooled,
        embeddings=checkpoint.embeddings(encoder.part),
    )
