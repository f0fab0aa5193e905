"""A single safetensors file as a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from build_engines.checkpoint import Checkpoint, StoredTensor, read_metadata, read_tensors
from build_engines.errors import CheckpointError
from build_engines.options import PredictionType
from build_engines.single_file.configs import read_configs
from build_engines.single_file.convert import (
    clip_tensors,
    openclip_tensors,
    unet_tensors,
    vae_tensors,
)
from build_engines.single_file.declared import declared_prediction, declared_schedule
from build_engines.single_file.layout import UNET_PREFIX, VAE_PREFIX, Layout, find_layout
from build_engines.single_file.names import clip_tensor
from build_engines.single_file.vocabulary import clip_merges, clip_vocabulary, vocabulary_file
from build_engines.vocabulary import END, Vocabulary, parse_merges
from pipelines.descriptor import NoiseSchedule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SingleFile(Checkpoint):
    """A checkpoint in one file, in the layout of one family."""

    root: Path
    layout: Layout
    configs: Mapping[str, Mapping[str, Any]]
    """The networks' configurations, by part."""
    noise: NoiseSchedule

    def has(self, part: str) -> bool:
        return part in self.configs or part in self._tokenizers

    def vocabulary(self, tokenizer: str) -> Vocabulary:
        if tokenizer not in self._tokenizers:
            raise CheckpointError(f"{self.root}: a {self.layout.title} file has no {tokenizer}")
        file = vocabulary_file()
        merges = clip_merges(file)
        return Vocabulary(
            clip_vocabulary(merges),
            parse_merges("\n".join(merges), str(file)),
            self._tokenizers[tokenizer],
            str(file),
        )

    def schedule(self) -> NoiseSchedule:
        return self.noise

    def prediction(self) -> PredictionType | None:
        return declared_prediction(self.root, _tensors(self.root), read_metadata(self.root))

    def json(self, relative: str) -> dict[str, Any]:
        part, _, file = relative.partition("/")
        if part in self.configs and file == "config.json":
            return dict(self.configs[part])
        raise CheckpointError(f"{self.root}: a {self.layout.title} file has no {relative}")

    def tensors(self, part: str) -> Iterator[StoredTensor]:
        prefix, convert = self._conversion(part)
        for name, tensor in _tensors(self.root).items():
            if name.startswith(prefix):
                yield from convert(replace(tensor, name=name.removeprefix(prefix)))

    def source_files(self, parts: Iterable[str], tokenizers: Iterable[str]) -> dict[str, Path]:
        vocabulary = vocabulary_file()
        return {self.root.name: self.root, f"tokenizer/{vocabulary.name}": vocabulary}

    @property
    def _tokenizers(self) -> dict[str, str]:
        """The padding token by the tokenizer's part; OpenCLIP pads with id 0."""
        return {text.tokenizer: "!" if text.openclip else END for text in self.layout.text}

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
        CheckpointError: it is broken, of no known family, or of another kind of diffusion.
    """
    tensors = _tensors(path)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    layout = find_layout(path, shapes)
    configs = read_configs(path, shapes, layout)
    schedule = declared_schedule(path, tensors, read_metadata(path))
    log.info("%s: %s", path.name, layout.title)
    return SingleFile(path, layout, configs, schedule)


def _tensors(path: Path) -> dict[str, StoredTensor]:
    """The file's tensors by their present names."""
    found: dict[str, StoredTensor] = {}
    for tensor in read_tensors(path):
        name = clip_tensor(tensor.name)
        if name in found:
            raise CheckpointError(f"{path}: {tensor.name} and {found[name].name} are the same")
        found[name] = tensor
    return found
