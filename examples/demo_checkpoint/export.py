"""Writes the trained networks as a checkpoint in diffusers' layout, float16."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.demo_checkpoint import networks
from examples.demo_checkpoint.curves import draw_curves
from examples.demo_checkpoint.run import averaged_weights, has_state, is_done
from examples.demo_checkpoint.stages import STAGES, trained_unet, trained_vae
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
    tables = [name for name in weights if name.endswith("token_embedding.weight")]
    weights.update({name: vocabulary.full_table(weights[name]) for name in tables})
    encoder = networks.new_text_encoder()
    encoder.load_state_dict(weights)
    encoder.half().save_pretrained(folder)


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
