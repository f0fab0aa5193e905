"""LoRA files as tests write them, and what becomes of a UNet that one is folded into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from build_engines.checkpoint import DiffusersFolder
from build_engines.formats import open_checkpoint
from build_engines.lora import WithLoras
from build_engines.weights import load_network
from networks import ClipTextEncoder, NetworkExport, SdxlTextEncoder2, Unet
from tests.conftest import CHECKPOINTS

SD15, SDXL = CHECKPOINTS / "sd15", CHECKPOINTS / "sdxl"
UNET = SD15 / "unet/diffusion_pytorch_model.safetensors"
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # [32, 32]
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"  # [32, 32]
CONV1 = "down_blocks.0.attentions.0.proj_in"  # [32, 32, 1, 1]
CONV3 = "down_blocks.1.resnets.0.conv1"  # [64, 32, 3, 3]
TEXT = "encoder.layers.0.mlp.fc1"  # [64, 32]
RANK, ALPHA, WEIGHT = 4, 2.0, 0.8


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def flat(name: str) -> str:
    return name.replace(".", "_")


Matrices = dict[str, torch.Tensor]


def kohya(name: str, matrices: Matrices, prefix: str = "lora_unet_") -> Matrices:
    return {f"{prefix}{flat(name)}.lora_{role}.weight": v for role, v in matrices.items()} | {
        f"{prefix}{flat(name)}.alpha": torch.tensor(ALPHA)
    }


def peft(name: str, matrices: Matrices, prefix: str = "unet.") -> Matrices:
    letters = {"down": "A", "up": "B"}
    return {f"{prefix}{name}.lora_{letters[role]}.weight": v for role, v in matrices.items()}


def linear(out: int = 32, inputs: int = 32) -> Matrices:
    return {"down": values(RANK, inputs), "up": values(out, RANK)}


def write(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> Path:
    save_file(dict(tensors), path, metadata)
    return path


def folded_unet(lora: Path, weight: float = WEIGHT, base: Path = SD15) -> dict[str, torch.Tensor]:
    checkpoint = WithLoras(open_checkpoint(base), [(lora, weight)])
    state = load_network(Unet(checkpoint.json("unet/config.json")), checkpoint).state_dict()
    return {name.removeprefix("model."): value for name, value in state.items()}


def check(folded: Mapping[str, torch.Tensor], changes: Mapping[str, torch.Tensor]) -> None:
    """Whether the changed weights are the old ones plus the change, and all others as before."""
    for name, value in load_file(UNET).items():
        expected = value.float()
        if name in changes:
            assert changes[name].abs().max() > 0.1
            expected = expected + changes[name]
        torch.testing.assert_close(folded[name], expected, rtol=1e-6, atol=1e-6)


KOHYA = WEIGHT * ALPHA / RANK


ROLES = {
    "PEFT": ("lora_A.weight", "lora_B.weight"),
    "PEFT's adapter": ("lora_A.default.weight", "lora_B.default.weight"),
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "diffusers": ("lora.down.weight", "lora.up.weight"),
    "diffusers, linear": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}


def named(stem: str, matrices: Matrices, roles: tuple[str, str] = ROLES["PEFT"]) -> Matrices:
    return {
        f"{stem}.{role}": matrices[key] for role, key in zip(roles, ("down", "up"), strict=True)
    }


def changed_text(part: str, lora: Path, base: Path) -> dict[str, torch.Tensor]:
    """What the LoRA adds to a text encoder's tensors, where it is not 0."""
    folder = DiffusersFolder(base)
    config = folder.json(f"{part}/config.json")
    network: NetworkExport = {"text_encoder": ClipTextEncoder, "text_encoder_2": SdxlTextEncoder2}[
        part
    ](config)
    before = load_network(network, folder).state_dict()
    after = load_network(network, WithLoras(folder, [(lora, WEIGHT)])).state_dict()
    changes = {name: after[name] - before[name] for name in before}
    return {name: change for name, change in changes.items() if bool(change.any())}
