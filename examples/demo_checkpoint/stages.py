"""The stages in order: which networks each trains, and what it takes from those before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from examples.demo_checkpoint import networks
from examples.demo_checkpoint.diffusion_stage import DiffusionStage
from examples.demo_checkpoint.run import Pace, averaged_weights, has_state, is_done, train
from examples.demo_checkpoint.shards import open_shards
from examples.demo_checkpoint.vae_stage import DecoderStage, VaeStage, normalize_latents
from examples.demo_checkpoint.vocabulary import Vocabulary

STAGES = ("vae", "decoder", "unet", "controlnet", "inpaint")


@dataclass(frozen=True)
class Plan:
    """How the training is run.

    ``steps`` by stage; ``scale`` times as many examples per step as a CPU is given; ``shards`` of
    ``shard_size`` portraits each, drawn by ``workers`` processes; ``sample_steps`` for each sheet.
    """

    state: Path
    tokenizer: Path
    device: torch.device
    steps: Mapping[str, int]
    scale: int = 1
    shards: int = 40
    shard_size: int = 256
    workers: int = 0
    sample_steps: int = 20
    compiled: bool = False


def train_all(plan: Plan, pace: Pace) -> bool:
    """Trains the stages that are not finished; returns whether all are."""
    for name in STAGES:
        if is_done(plan.state / name):
            continue
        if not train(_stage(plan, name), plan.state / name, pace):
            return False
    return True


def _stage(plan: Plan, name: str) -> Any:
    if name == "vae":
        return VaeStage(plan.device, plan.steps[name], plan.scale, plan.workers, plan.compiled)
    vae = trained_vae(plan.state).to(plan.device)
    if name == "decoder":
        return DecoderStage(vae, plan.device, plan.steps[name], plan.scale, plan.workers)
    vocabulary = Vocabulary(plan.tokenizer)
    folder = plan.state / "shards"
    shards = open_shards(folder, vae, plan.device, plan.shards, plan.shard_size, plan.workers)
    parts, trained = _networks(plan, name, vocabulary)
    return DiffusionStage(
        name=name,
        parts=parts,
        trained=trained,
        shards=shards,
        vae=vae,
        vocabulary=vocabulary,
        device=plan.device,
        steps=plan.steps[name],
        scale=plan.scale,
        sample_steps=plan.sample_steps,
        compiled=plan.compiled,
    )


def _networks(
    plan: Plan, name: str, vocabulary: Vocabulary
) -> tuple[dict[str, Any], tuple[str, ...]]:
    torch.manual_seed(0)
    if name == "unet":
        text = networks.new_text_encoder()
        vocabulary.shrink(text)
        return {"unet": networks.new_unet(), "text": text}, ("unet", "text")
    parts = trained_unet(plan.state, vocabulary)
    if name == "controlnet":
        return {**parts, "controlnet": networks.new_controlnet(parts["unet"])}, ("controlnet",)
    return {"unet": networks.widened(parts["unet"]), "text": parts["text"]}, ("unet",)


def trained_vae(state: Path) -> Any:
    """The VAE as trained so far, its latents normalized, with the decoder's further training.

    Raises:
        FileNotFoundError: its stage has no state.
    """
    vae = networks.new_vae()
    vae.load_state_dict(averaged_weights(state / "vae"))
    vae.requires_grad_(False)
    normalize_latents(vae)
    if has_state(state / "decoder"):
        vae.load_state_dict(averaged_weights(state / "decoder"), strict=False)
    return vae.eval()


def trained_unet(state: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """``unet`` and ``text`` as trained so far.

    Raises:
        FileNotFoundError: their stage has no state.
    """
    text = networks.new_text_encoder()
    vocabulary.shrink(text)
    parts = torch.nn.ModuleDict({"unet": networks.new_unet(), "text": text})
    parts.load_state_dict(averaged_weights(state / "unet"))
    return dict(parts.items())
