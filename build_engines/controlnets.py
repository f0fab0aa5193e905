"""Opens the ControlNets of a build: diffusers folders that fit the pipeline's UNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from build_engines.checkpoint import Checkpoint, DiffusersFolder
from build_engines.errors import CheckpointError
from build_engines.requirements import Field
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
_SHARED = (
    "cross_attention_dim",
    "addition_embed_type",
    ADDITION_SIZE,
    ADDITION_INPUT,
)
"""Fields that must be equal in the configurations of the ControlNet and the UNet."""


def open_controlnets(
    folders: Mapping[str, Path], unet: Unet
) -> list[tuple[ControlNet, DiffusersFolder]]:
    """The ControlNets by name, each with the folder of its weights.

    Args:
        folders: name → a folder with config.json and diffusion_pytorch_model.safetensors.
        unet: the pipeline's.

    Raises:
        CheckpointError: the folder or a file is missing, it is no ControlNet, or it is for another
            UNet.
    """
    opened = []
    for name, path in folders.items():
        if not path.is_dir():
            raise CheckpointError(f"{path}: a ControlNet is given as a diffusers folder")
        folder = DiffusersFolder(path)
        for requirement in _REQUIREMENTS:
            requirement.check(folder)
        _check_fit(folder, unet)
        opened.append((ControlNet(name, folder.json(_CONFIG), unet.time_ids), folder))
    return opened


def controlnet_files(folders: Mapping[str, Path]) -> dict[str, Path]:
    """The source files by the names ``controlnets/NAME/FILE``.

    Raises:
        CheckpointError: one is missing, or there is only a pickle.
    """
    files = {}
    for name, path in folders.items():
        folder = DiffusersFolder(path)
        for file in (_CONFIG, *folder.weights(ControlNet.part)):
            files[f"controlnets/{name}/{Path(file)}"] = folder.path(file)
    return files


def _check_fit(checkpoint: Checkpoint, unet: Unet) -> None:
    config = checkpoint.json(_CONFIG)
    for field in _SHARED:
        if config.get(field) != unet.config.get(field):
            raise CheckpointError(
                f"{checkpoint.root}: the ControlNet does not fit the UNet: its {field} is "
                f"{config.get(field)!r}, the UNet's {unet.config.get(field)!r}"
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
