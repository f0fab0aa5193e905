"""Opens the ControlNets of a build: diffusers folders or single files that fit its UNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from build_engines.checkpoint import Checkpoint, DiffusersFolder
from build_engines.errors import CheckpointError, first_names
from build_engines.requirements import Field
from build_engines.single_file import open_single_controlnet
from networks import ControlNet, Unet
from networks.diffusion import ADDITION_INPUT, ADDITION_SIZE
from networks.residuals import residuals

_CONFIG = "config.json"
_PICTURE_SCALES = 4
"""Widths of the layers of the picture's input: three halvings, 8 pixels per latent cell."""
_REQUIREMENTS = (
    Field(_CONFIG, "_class_name", ("ControlNetModel",)),
    Field(_CONFIG, "in_channels", (4,), default=4),
    Field(_CONFIG, "conditioning_channels", (3,), default=3),
    Field(_CONFIG, "class_embed_type", (None,)),
    Field(_CONFIG, "num_class_embeds", (None,)),
    Field(_CONFIG, "encoder_hid_dim_type", (None,)),
)
_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""By the width of the text that the UNet takes."""
_SHARED = (
    "cross_attention_dim",
    "addition_embed_type",
    ADDITION_SIZE,
    ADDITION_INPUT,
)
"""Fields that must be equal in the configurations of the ControlNet and the UNet."""


def open_controlnets(paths: Mapping[str, Path], unet: Unet) -> list[tuple[ControlNet, Checkpoint]]:
    """The ControlNets by name, each with the folder or file of its weights.

    Args:
        paths: name → a folder with config.json and diffusion_pytorch_model.safetensors, or a
            safetensors file by diffusers' names or by the published ones.
        unet: the pipeline's.

    Raises:
        CheckpointError: the folder or a file is missing, it is no ControlNet, or it is for another
            UNet.
    """
    opened: list[tuple[ControlNet, Checkpoint]] = []
    for name, path in paths.items():
        checkpoint: Checkpoint
        if path.is_file():
            checkpoint = open_single_controlnet(path, unet.config)
        elif path.is_dir():
            checkpoint = DiffusersFolder(path)
        else:
            raise CheckpointError(f"{path}: no such ControlNet, neither a folder nor a file")
        for requirement in _REQUIREMENTS:
            requirement.check(checkpoint)
        _check_fit(checkpoint, unet)
        controlnet = ControlNet(name, checkpoint.json(_CONFIG), unet.time_ids)
        if path.is_file():
            _check_tensors(checkpoint, controlnet)
        opened.append((controlnet, checkpoint))
    return opened


def controlnet_files(paths: Mapping[str, Path]) -> dict[str, Path]:
    """The source files by the names ``controlnets/NAME/FILE``.

    Raises:
        CheckpointError: one is missing, or there is only a pickle.
    """
    files = {}
    for name, path in paths.items():
        if path.is_file():
            files[f"controlnets/{name}/{path.name}"] = path
            continue
        folder = DiffusersFolder(path)
        for file in (_CONFIG, *folder.weights(ControlNet.part)):
            files[f"controlnets/{name}/{Path(file)}"] = folder.path(file)
    return files


def _check_tensors(checkpoint: Checkpoint, controlnet: ControlNet) -> None:
    """Compares names and shapes of a file with those of its network, before anything is built."""
    state = controlnet.skeleton().model.state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items()}
    found = {tensor.name: tensor.shape for tensor in checkpoint.tensors(controlnet.part)}
    wrong = {
        "missing": [name for name in expected if name not in found],
        "of no ControlNet": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {list(found[name])} for {list(shape)}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
    }
    if reasons := [f"{what}: {first_names(names)}" for what, names in wrong.items() if names]:
        raise CheckpointError(f"{checkpoint.root}: tensors {'; '.join(reasons)}")


def _check_fit(checkpoint: Checkpoint, unet: Unet) -> None:
    config = checkpoint.json(_CONFIG)
    for field in _SHARED:
        if config.get(field) != unet.config.get(field):
            raise CheckpointError(
                f"{checkpoint.root}: the ControlNet does not fit the UNet: its {field} is "
                f"{_shown(config.get(field))}, the UNet's {_shown(unet.config.get(field))}"
            )
    own, expected = ([each.channels for each in residuals(c)] for c in (config, unet.config))
    if own != expected:
        raise CheckpointError(
            f"{checkpoint.root}: the ControlNet does not fit the UNet: its residuals have "
            f"{own} channels, the UNet takes {expected}"
        )
    scales = config.get("conditioning_embedding_out_channels", [0] * _PICTURE_SCALES)
    if len(scales) != _PICTURE_SCALES:
        raise CheckpointError(
            f"{checkpoint.root}: {_CONFIG} has conditioning_embedding_out_channels {scales}, "
            f"{_PICTURE_SCALES} widths are expected"
        )


def _shown(value: object) -> str:
    """A field's value; a text width with the family that has it."""
    family = _FAMILIES.get(value) if isinstance(value, int) else None
    return f"{value!r} ({family})" if family else repr(value)
