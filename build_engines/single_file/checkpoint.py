"""A single safetensors file as a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from build_engines.checkpoint import (
    SCHEDULER_CONFIG,
    Checkpoint,
    StoredTensor,
    read_metadata,
    read_tensors,
)
from build_engines.errors import CheckpointError
from build_engines.single_file.configs import read_configs
from build_engines.single_file.convert import (
    clip_tensors,
    openclip_tensors,
    unet_tensors,
    vae_tensors,
)
from build_engines.single_file.layout import UNET_PREFIX, VAE_PREFIX, Layout, find_layout
from build_engines.single_file.vocabulary import clip_merges, clip_vocabulary, vocabulary_file

log = logging.getLogger(__name__)

_V_PREDICTION_KEYS = ("v_pred", "ztsnr")
_ZERO_SNR_KEY = "ztsnr"
_PREDICTION_METADATA = "modelspec.prediction_type"
_PREDICTIONS = {
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
}


@dataclass(frozen=True)
class SingleFile(Checkpoint):
    """A checkpoint in one file, in the layout of one family."""

    root: Path
    layout: Layout
    configs: Mapping[str, Mapping[str, Any]]
    """The configurations of the networks and of the scheduler, by part."""

    def has(self, part: str) -> bool:
        return part in self.configs or part in self._tokenizers

    def text(self, relative: str) -> str:
        part, _, file = relative.partition("/")
        if part in self._tokenizers and file == "merges.txt":
            return "\n".join(["#version: 0.2", *clip_merges(vocabulary_file()), ""])
        raise CheckpointError(f"{self.root}: a single file has no {relative}")

    def json(self, relative: str) -> dict[str, Any]:
        part, _, file = relative.partition("/")
        if part in self._tokenizers and file == "vocab.json":
            return dict(clip_vocabulary(clip_merges(vocabulary_file())))
        if part in self._tokenizers and file == "tokenizer_config.json":
            return {"pad_token": self._tokenizers[part]}
        if part in self.configs and (file == "config.json" or relative == SCHEDULER_CONFIG):
            return dict(self.configs[part])
        raise CheckpointError(f"{self.root}: a {self.layout.title} file has no {relative}")

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        prefix, convert = self._conversion(part)
        for tensor in read_tensors(self.root):
            if tensor.name.startswith(prefix):
                yield from convert(replace(tensor, name=tensor.name.removeprefix(prefix)))

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        vocabulary = vocabulary_file()
        return {self.root.name: self.root, f"tokenizer/{vocabulary.name}": vocabulary}

    @property
    def _tokenizers(self) -> dict[str, str]:
        """The padding token by the tokenizer's part; OpenCLIP pads with id 0."""
        return {
            text.tokenizer: "!" if text.openclip else "<|endoftext|>" for text in self.layout.text
        }

    def _conversion(self, part: str) -> tuple[str, Any]:
        """The prefix of a part's tensors, and the function that converts each to diffusers'."""
        if part == "unet":
            layers = self.configs["unet"]["layers_per_block"]
            return UNET_PREFIX, partial(unet_tensors, layers_per_block=layers)
        if part == "vae":
            blocks = len(self.configs["vae"]["block_out_channels"])
            return VAE_PREFIX, partial(vae_tensors, blocks=blocks)
        for text in self.layout.text:
            if text.part == part and not text.openclip:
                return text.prefix, clip_tensors
            if text.part == part:
                layers = self.configs[part]["num_hidden_layers"]
                return text.prefix, partial(
                    openclip_tensors, layers=layers, projection=text.projection
                )
        raise CheckpointError(f"{self.root}: a {self.layout.title} file has no {part}")


def open_single_file(path: Path) -> SingleFile:
    """Opens a safetensors file and finds its family by its tensors' names and shapes.

    Raises:
        CheckpointError: it is broken, or of no known family.
    """
    shapes = {tensor.name: tensor.shape for tensor in read_tensors(path)}
    layout = find_layout(path, shapes)
    configs = read_configs(path, shapes, layout)
    configs["scheduler"] = _scheduler_config(path, shapes)
    log.info("%s: %s", path.name, layout.title)
    return SingleFile(path, layout, configs)


def _scheduler_config(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """The scheduler's configuration: the same betas for all families. The prediction type is read
    from keys or metadata of newer files; the default is epsilon."""
    found = set(names)
    prediction = _PREDICTIONS.get(
        stated := read_metadata(path).get(_PREDICTION_METADATA, "epsilon")
    )
    if prediction is None:
        log.warning("%s: %s %r is unknown", path.name, _PREDICTION_METADATA, stated)
        prediction = "epsilon"
    if found.intersection(_V_PREDICTION_KEYS):
        prediction = "v_prediction"
    return {
        "prediction_type": prediction,
        "rescale_betas_zero_snr": _ZERO_SNR_KEY in found,
    }
