"""The checkpoint's CLIP vocabulary as one ``tokenizer.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from build_engines.checkpoint import Checkpoint
from build_engines.errors import CheckpointError
from build_engines.vocabulary import END, START
from networks import ClipTextEncoder
from pipelines.descriptor import TextEncoderSpec

TOKENIZER_FILE = "tokenizer.json"
_CLIP: Any = CLIPTokenizer  # its signature lacks the pairs that it accepts


def write_tokenizer(checkpoint: Checkpoint, part: str, folder: Path) -> None:
    """Writes ``folder/tokenizer.json`` from the vocabulary of a tokenizer's part.

    The file is in the format of the ``tokenizers`` library, without truncation or padding, and
    encodes as transformers' CLIPTokenizer does.

    Raises:
        CheckpointError: a file is missing or is no CLIP vocabulary.
    """
    found = checkpoint.vocabulary(part)
    try:
        tokenizer = _CLIP(vocab=dict(found.tokens), merges=list(found.merges))
    except Exception as error:  # the library raises no narrower class
        raise CheckpointError(
            f"{found.source}: merges and tokens do not fit each other: {error}"
        ) from error
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))


def text_encoder_spec(
    checkpoint: Checkpoint, encoder: ClipTextEncoder, tokenizer: str
) -> TextEncoderSpec:
    """The encoder's special tokens; ``tokenizer`` is the path of its tokenizer.json.

    Raises:
        CheckpointError: a file is missing or is no CLIP vocabulary.
    """
    found = checkpoint.vocabulary(encoder.tokenizer)
    return TextEncoderSpec(
        role=encoder.role,
        tokenizer=tokenizer,
        start=found.tokens[START],
        end=found.tokens[END],
        padding=found.tokens[found.padding],
        pooled=encoder.pooled,
        embeddings=checkpoint.embeddings(encoder.part),
    )
