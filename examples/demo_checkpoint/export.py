"""Writes the trained networks as a checkpoint in diffusers' layout, float16; and goes back."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from examples.demo_checkpoint import networks
from examples.demo_checkpoint.curves import draw_curves
from examples.demo_checkpoint.run import averaged_weights, has_state, is_done, write_whole
from examples.demo_checkpoint.stages import STAGES, trained_unet, trained_vae
from examples.demo_checkpoint.vae_stage import DecoderStage
from examples.demo_checkpoint.vocabulary import Vocabulary

CONTROLNET = "controlnet"
"""The ControlNet's folder within the checkpoint's."""
INPAINT = "unet_inpaint"
"""The 9-channel UNet's; :func:`inpaint_checkpoint` makes a checkpoint of it."""
_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_TOKENIZER_FILES = ("vocab.json", "merges.txt")

log = logging.getLogger("demo_checkpoint")


def export(state: Path, out: Path, tokenizer: Path) -> None:
    """Writes the checkpoint, its ControlNet and its inpainting UNet, and how they were trained.

    Stages that are not finished are written as they are; those not begun are left out.

    Args:
        state: the training's folder.
        out: the folder to write; what is in it is replaced.
        tokenizer: folder with CLIP's vocab.json and merges.txt.

    Raises:
        FileNotFoundError: neither VAE nor UNet have a state.
    """
    shutil.rmtree(out, ignore_errors=True)
    vocabulary = Vocabulary(tokenizer)
    trained_vae(state).half().save_pretrained(out / "vae")
    parts = trained_unet(state, vocabulary)
    parts["unet"].half().save_pretrained(out / "unet")
    _save_text_encoder(parts["text"], vocabulary, out / "text_encoder")
    _save_tokenizer(tokenizer, out / "tokenizer")
    _write_json(out / "scheduler" / "scheduler_config.json", networks.SCHEDULER)
    _write_json(out / "model_index.json", _INDEX)
    for stage, module, folder in (
        (CONTROLNET, networks.new_controlnet(parts["unet"]), CONTROLNET),
        ("inpaint", networks.new_unet(2 * networks.LATENT_CHANNELS + 1), INPAINT),
    ):
        if has_state(state / stage):
            part = "unet" if stage == "inpaint" else stage
            weights = averaged_weights(state / stage)
            module.load_state_dict(
                {name.removeprefix(f"{part}."): value for name, value in weights.items()}
            )
            module.half().save_pretrained(out / folder)
    _save_logs(state, out / "training")


def restore(checkpoint: Path, state: Path, tokenizer: Path) -> None:
    """Begins a training where an exported checkpoint ended.

    The autoencoder stays as it is; the other stages start from the checkpoint's weights.

    Args:
        checkpoint: what :func:`export` wrote.
        state: the training's folder, which must not have any of these stages yet.
        tokenizer: folder with CLIP's vocab.json and merges.txt.

    Raises:
        FileExistsError: the folder has a training already.
        FileNotFoundError: a network is missing.
    """
    begun = [stage for stage in STAGES if has_state(state / stage)]
    if begun:
        raise FileExistsError(f"{state}: has {', '.join(begun)} already; choose another --state")
    vae = networks.load_weights(checkpoint / "vae")
    decoder = {
        name: value for name, value in vae.items() if name.startswith(DecoderStage.part_names)
    }
    text = networks.load_weights(checkpoint / "text_encoder")
    vocabulary = Vocabulary(tokenizer)
    text.update({name: vocabulary.small_table(text[name]) for name in _token_tables(text)})
    unet = networks.load_weights(checkpoint / "unet")
    weights = {
        "vae/weights.pt": vae,
        "decoder/weights.pt": decoder,
        "unet/start.pt": {**_prefixed("unet", unet), **_prefixed("text", text)},
    }
    for stage, part, folder in (
        (CONTROLNET, CONTROLNET, CONTROLNET),
        ("inpaint", "unet", INPAINT),
    ):
        if (checkpoint / folder).exists():
            values = networks.load_weights(checkpoint / folder)
            weights[f"{stage}/start.pt"] = _prefixed(part, values)
    for name, values in weights.items():
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(state / name, values)


def _prefixed(part: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": value for name, value in weights.items()}


def inpaint_checkpoint(checkpoint: Path, out: Path) -> None:
    """Makes a checkpoint whose UNet is the inpainting one; all else is copied.

    Raises:
        OSError: a file cannot be read or written.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(
        checkpoint, out, ignore=shutil.ignore_patterns("unet", CONTROLNET, INPAINT, "training")
    )
    shutil.copytree(checkpoint / INPAINT, out / "unet")


def _save_text_encoder(small: Any, vocabulary: Vocabulary, folder: Path) -> None:
    weights = small.state_dict()
    weights.update({name: vocabulary.full_table(weights[name]) for name in _token_tables(weights)})
    encoder = networks.new_text_encoder()
    encoder.load_state_dict(weights)
    encoder.half().save_pretrained(folder)


def _token_tables(weights: Mapping[str, torch.Tensor]) -> list[str]:
    return [name for name in weights if name.endswith("token_embedding.weight")]


def _save_tokenizer(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in _TOKENIZER_FILES:
        shutil.copyfile(source / name, folder / name)
    _write_json(folder / "tokenizer_config.json", {"pad_token": "<|endoftext|>"})


def _save_logs(state: Path, folder: Path) -> None:
    folder.mkdir()
    for stage in STAGES:
        if not has_state(state / stage):
            continue
        if not is_done(state / stage):
            log.warning("%s is not trained to its end", stage)
        notes = state / stage / "log.jsonl"
        if notes.exists():
            shutil.copyfile(notes, folder / f"{stage}.jsonl")
            draw_curves(notes).save(folder / f"{stage}.png", optimize=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
