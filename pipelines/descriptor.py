"""The descriptor: a JSON file beside a pipeline's Triton models that describes their use.

build_engines writes ``DIR/NAME.pipeline.json`` last, so a pipeline without one is not finished.
The server reads it at start; nothing here imports torch.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DESCRIPTOR_SUFFIX = ".pipeline.json"

log = logging.getLogger(__name__)

FamilyName = Literal["sd1", "sd2", "sdxl", "sdxl_refiner"]
NetworkRole = Literal["text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder"]
TextRole = Literal["text_encoder", "text_encoder_2"]


TargetName = Literal["onnx", "openvino", "tensorrt", "torch"]
Precision = Literal["fp32", "fp16", "bf16"]
Quantization = Literal["int8", "fp8"]


class PipelineError(Exception):
    """A pipeline's files are missing, unreadable or of another version."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BatchBox(_Model):
    """The bound of one batch: up to ``rows`` rows, none larger than ``shape`` on any axis."""

    rows: Annotated[int, Field(ge=1)]
    shape: Annotated[tuple[int, ...], Field(description="of a row of the first input")]

    def holds(self, row_shape: Sequence[int]) -> bool:
        """Whether a row of this shape fits."""
        return all(size <= most for size, most in zip(row_shape, self.shape, strict=True))


class Network(_Model):
    """One Triton model of the pipeline."""

    model: Annotated[str, Field(description="name of the Triton model")]
    max_batch: Annotated[int, Field(ge=1, description="most rows in one call")]
    max_batch_elements: Annotated[
        int | None,
        Field(
            ge=1,
            description="most elements of the first input in one batch: bounds the memory of its "
            "activations; one row always goes",
        ),
    ] = None
    boxes: Annotated[
        tuple[BatchBox, ...],
        Field(description="what an engine was compiled for; nothing else goes. Empty: no bound"),
    ] = ()
    inputs: dict[str, str]
    """Tensor name → Triton data type, e.g. ``{"sample": "FP32"}``."""
    outputs: dict[str, str]
    files: dict[str, str]
    """SHA-256 (hex) of every file of the model, by its path relative to the descriptor; a
    ControlNet's ensemble counts as its own."""

    def batch_limit(self, row_shape: Sequence[int]) -> int:
        """Most rows in one batch by the shape of the first input's row; at least 1."""
        rows = self.max_batch
        if self.max_batch_elements is not None:
            rows = min(rows, self.max_batch_elements // math.prod(row_shape))
        if self.boxes:
            held = (box.rows for box in self.boxes if box.holds(row_shape))
            rows = min(rows, max(held, default=1))
        return max(1, rows)


class Schedule(_Model):
    """The noise schedule of the UNet's training."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    timesteps: Annotated[int, Field(ge=2)] = 1000
    beta_schedule: Literal["scaled_linear"] = "scaled_linear"
    zero_terminal_snr: Annotated[
        bool, Field(description="rescaled so that the last step is pure noise, arXiv 2305.08891")
    ] = False


class EdmSchedule(_Model):
    """Continuous noise levels as in EDM (arXiv 2206.00364) for data of spread 1, as CosXL's: any σ
    between two; the UNet is given ln σ / 4 as its timestep."""

    sigma_min: Annotated[float, Field(gt=0)]
    sigma_max: Annotated[float, Field(gt=0)]


NoiseSchedule = Schedule | EdmSchedule

EMBEDDING = re.compile(r"embedding:([^\s,()]+)")
"""A textual inversion's name in a prompt."""


class TextEncoderSpec(_Model):
    """The input of a text encoder. Its outputs are ``hidden_state`` and optionally ``pooled``."""

    role: TextRole
    tokenizer: Annotated[str, Field(description="tokenizer.json, relative to the descriptor")]
    start: Annotated[int, Field(description="id of the token that opens a chunk")]
    end: Annotated[int, Field(description="id of the token that closes a chunk")]
    padding: Annotated[int, Field(description="id of the token that fills a chunk")]
    pooled: bool = False
    embeddings: dict[str, tuple[int, ...]] = {}
    """Textual inversions: name → ids of their added tokens."""


class ControlNetSpec(_Model):
    """A ControlNet compiled with the pipeline."""

    network: Network
    """The ControlNet alone: its outputs are the residuals, in the order of the UNet's inputs."""
    unet: Annotated[str, Field(description="the ensemble of it and the UNet, a Triton model")]


class EngineSpec(_Model):
    """The TensorRT version and GPU of compiled engines, which run on no others."""

    tensorrt: Annotated[str, Field(description="version of libnvinfer, e.g. 11.2.1")]
    gpu: Annotated[str, Field(description="the GPU's name")]
    compute_capability: Annotated[str, Field(description="the GPU's, e.g. 9.0")]


class Quality(_Model):
    """Differences of a quantised UNet to the original: the worst over a set of requests that were
    not used for its calibration."""

    network_error: Annotated[
        float, Field(description="relative error of the UNet's output on the same inputs, a mean")
    ]
    latent_error: Annotated[float, Field(description="relative error of the final latent")]
    picture_difference: Annotated[
        float, Field(description="mean difference in grey levels where it was redrawn")
    ]


class Preview(_Model):
    """An approximation of a latent's colours without the VAE: RGB, 0…1, is
    ``factors · latent + bias`` in each cell."""

    factors: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    """A row for each colour, a column for each channel of the scaled latent."""
    bias: tuple[float, float, float]
    error: Annotated[
        float, Field(description="RMS difference from the VAE's pictures it was fitted to, 0…1")
    ]


class PipelineDescriptor(_Model):
    """A compiled checkpoint as sampling uses it."""

    version: Literal[1] = 1
    name: str
    family: FamilyName
    target: TargetName
    precision: Annotated[
        Precision, Field(description="of weights and activations; inputs and outputs are FP32")
    ] = "fp32"
    quantization: Annotated[
        Quantization | None, Field(description="of the UNet's weights and activations")
    ] = None
    quality: Annotated[
        Quality | None, Field(description="what the quantisation was accepted with")
    ] = None
    engine: Annotated[
        EngineSpec | None, Field(description="with what compiled engines were made; or none are")
    ] = None
    prediction: Literal["epsilon", "v_prediction"]
    clip_skip: Annotated[
        int | None,
        Field(
            ge=1,
            description="the text encoders' layer that is used, counted from the last one; null "
            "in older builds: the family's own",
        ),
    ] = None
    schedule: NoiseSchedule = Schedule()
    unet_channels: Annotated[
        Literal[4, 9], Field(description="9: latent, mask and masked latent, for inpainting")
    ] = 4
    latent_channels: Annotated[int, Field(ge=1)] = 4
    latent_scale: Annotated[float, Field(gt=0, description="the VAE's scaling factor")]
    preview: Annotated[
        Preview | None, Field(description="null in builds from before there were previews")
    ] = None
    context_dim: Annotated[int, Field(ge=1, description="width of the text conditioning")]
    text_encoders: tuple[TextEncoderSpec, ...]
    """In the order in which their hidden states are joined along the features."""
    networks: dict[NetworkRole, Network]
    residuals: dict[str, int] = {}
    """The UNet's residual inputs: name → channels. Empty if it was built without ControlNets."""
    controlnets: dict[str, ControlNetSpec] = {}
    source: dict[str, str]
    """SHA-256 of every source file by its path relative to the checkpoint. Additions are below
    ``controlnets/``, ``embeddings/`` and ``loras/``; a LoRA's path ends in its strengths for the
    UNet and the text encoders, as in ``loras/0/FILE:0.8:0.5``."""
    built_with: dict[str, str]
    """Target, precision, and versions of the build's libraries."""

    @property
    def all_networks(self) -> list[Network]:
        """The networks and the ControlNets."""
        return [*self.networks.values(), *(each.network for each in self.controlnets.values())]

    @property
    def models(self) -> list[str]:
        """Every Triton model, the ensembles included."""
        return [*(network.model for network in self.all_networks), *self.ensembles]

    @property
    def ensembles(self) -> dict[str, tuple[str, str]]:
        """Each ensemble's ControlNet and UNet, as Triton models."""
        return {
            each.unet: (each.network.model, self.networks["unet"].model)
            for each in self.controlnets.values()
        }


def load_all(repositories: Iterable[Path]) -> dict[str, tuple[PipelineDescriptor, Path]]:
    """Reads all descriptors in the repositories.

    Returns the pipelines by name, each with its folder.

    Raises:
        PipelineError: a descriptor is broken, or two share a name.
    """
    found: dict[str, tuple[PipelineDescriptor, Path]] = {}
    for folder in repositories:
        for path in sorted(folder.glob(f"*{DESCRIPTOR_SUFFIX}")):
            try:
                descriptor = PipelineDescriptor.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise PipelineError(f"{path.name}: not a pipeline descriptor: {error}") from error
            if descriptor.name in found:
                other = found[descriptor.name][1]
                raise PipelineError(f"pipeline {descriptor.name!r} is in {other} and in {folder}")
            found[descriptor.name] = (descriptor, folder)
    return found
