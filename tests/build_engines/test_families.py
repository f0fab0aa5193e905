"""Each family: how it is recognised, what its descriptor says, what else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from build_engines import build
from build_engines.errors import CheckpointError
from build_engines.families import detect
from build_engines.formats import open_checkpoint
from build_engines.pipeline import open_pipeline
from pipelines.descriptor import Schedule, load_all
from tests.build_engines.conftest import (
    assert_close,
    copy_checkpoint,
    edit,
    make_sd2,
    open_model,
)
from tests.conftest import CHECKPOINTS, PIPELINES

FAMILY = {"sdxl": "sdxl", "sdxl-refiner": "sdxl_refiner"}
ENCODERS = {
    "sdxl": [("text_encoder", 49407, False), ("text_encoder_2", 0, True)],
    "sdxl-refiner": [("text_encoder_2", 0, True)],
}
"""Role, padding, and whether it has a pooled output."""


@pytest.mark.parametrize("name", PIPELINES)
def test_descriptor(repository: Path, name: str) -> None:
    descriptor, _ = load_all([repository])[name]
    assert descriptor.family == FAMILY.get(name, "sd1")
    assert descriptor.prediction == ("v_prediction" if name == "sd15-v" else "epsilon")
    assert descriptor.schedule == Schedule()
    assert descriptor.unet_channels == (9 if name == "sd15-inpaint" else 4)
    assert descriptor.latent_channels == 4
    assert descriptor.latent_scale == pytest.approx(0.13025 if name in FAMILY else 0.18215)
    assert descriptor.context_dim == (64 if name == "sdxl" else 32)
    encoders = ENCODERS.get(name, [("text_encoder", 49407, False)])
    assert [(e.role, e.padding, e.pooled) for e in descriptor.text_encoders] == encoders
    for encoder in descriptor.text_encoders:
        assert (encoder.start, encoder.end) == (49406, 49407)
        assert encoder.tokenizer == f"{name}_{encoder.role}/tokenizer.json"
        assert encoder.tokenizer in descriptor.networks[encoder.role].files
    assert bool(descriptor.residuals) == bool(descriptor.controlnets) == (name == "sd15")


def test_descriptor_of_residuals(repository: Path) -> None:
    descriptor, _ = load_all([repository])["sd15"]
    assert list(descriptor.residuals.items()) == [
        ("down_residual_0", 32),
        ("down_residual_1", 32),
        ("down_residual_2", 32),
        ("down_residual_3", 64),
        ("mid_residual", 64),
    ]
    (spec,) = descriptor.controlnets.values()
    assert list(spec.network.outputs) == list(descriptor.residuals)


@pytest.mark.parametrize(
    ("name", "file", "field", "value", "message"),
    [
        ("sdxl", "unet", "addition_embed_type", "image", "not a Stable Diffusion XL checkpoint"),
        ("sdxl", "unet", "class_embed_type", "projection", "None is expected"),
        ("sdxl", "text_encoder_2", "hidden_act", "quick_gelu", "'gelu' is expected"),
        ("sdxl", "vae", "latents_mean", [0.0], "None is expected"),
        ("sdxl", "vae", "latent_channels", 16, "4 is expected"),
        ("sdxl-refiner", "unet", "addition_embed_type", "text", "XL refiner checkpoint"),
        ("sd15", "unet", "time_cond_proj_dim", 256, "None is expected"),
        ("sd15", "vae", "shift_factor", 0.1, "None or 0 is expected"),
    ],
)
def test_what_differs_is_named(
    tmp_path: Path, name: str, file: str, field: str, value: object, message: str
) -> None:
    checkpoint = copy_checkpoint(name, tmp_path / "checkpoint")
    edit(checkpoint / file / "config.json", **{field: value})
    with pytest.raises(CheckpointError) as refused:
        detect(open_checkpoint(checkpoint))
    assert f"{file}/config.json has {field} {value!r}" in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "part", "values", "message"),
    [
        ("sd15", "unet", {"cross_attention_dim": 48}, "cross_attention_dim 48, 32 is what"),
        ("sdxl", "unet", {"cross_attention_dim": 32}, "cross_attention_dim 32, 64 is what"),
        (
            "sdxl",
            "unet",
            {"projection_class_embeddings_input_dim": 72},
            "input_dim 72, 80 is what the text encoders give with 6 sizes",
        ),
        ("sdxl", "text_encoder_2", {"projection_dim": 64}, "input_dim 80, 112 is what"),
    ],
)
def test_widths_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, part: str, values: dict[str, object], message: str
) -> None:
    checkpoint = copy_checkpoint(name, tmp_path / "checkpoint")
    edit(checkpoint / part / "config.json", **values)
    with pytest.raises(CheckpointError, match=message):
        open_pipeline("p", open_checkpoint(checkpoint), {})


@torch.inference_mode()
def test_sd2(tmp_path: Path) -> None:
    checkpoint = make_sd2(tmp_path / "checkpoint")
    repository = tmp_path / "repository"
    descriptor = build(checkpoint, "p", repository)
    assert (descriptor.family, descriptor.prediction) == ("sd2", "v_prediction")
    assert descriptor.schedule == Schedule(zero_terminal_snr=True)
    (encoder,) = descriptor.text_encoders
    assert (encoder.role, encoder.padding, encoder.pooled) == ("text_encoder", 0, False)

    def load(model: Any, part: str) -> Any:
        return model.from_pretrained(checkpoint / part, torch_dtype=torch.float32).eval()

    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 49408, (2, 77), generator=generator)
    feed = {"input_ids": ids.numpy().astype(np.int32)}
    (actual,) = open_model(repository, "p_text_encoder").run(None, feed)
    assert_close(actual, load(CLIPTextModel, "text_encoder")(ids).last_hidden_state)

    sample = torch.randn((2, 4, 9, 14), generator=generator)
    context = torch.randn((2, 77, 32), generator=generator)
    timestep = torch.tensor([[11.0], [800.0]])
    expected = load(UNet2DConditionModel, "unet")(sample, timestep[:, 0], context).sample
    inputs = {"sample": sample, "timestep": timestep, "encoder_hidden_states": context}
    feeds = {name: value.numpy() for name, value in inputs.items()}
    (actual,) = open_model(repository, "p_unet").run(None, feeds)
    assert_close(actual, expected)


def test_the_small_checkpoints_hold_each_part_once() -> None:
    """Parts that several checkpoints share are links inside the folder, as git keeps them."""
    links = [path for path in CHECKPOINTS.rglob("*") if path.is_symlink()]
    assert links
    for path in links:
        assert not path.readlink().is_absolute()
        assert path.resolve().is_relative_to(CHECKPOINTS.resolve())
    for name in PIPELINES:
        index = json.loads((CHECKPOINTS / name / "model_index.json").read_text())
        parts = [part for part, value in index.items() if isinstance(value, list) and value[0]]
        assert all((CHECKPOINTS / name / part).is_dir() for part in parts)


@pytest.mark.parametrize(
    "kind", ["FluxPipeline", "StableVideoDiffusionPipeline", "StableDiffusion3Pipeline"]
)
def test_a_folder_of_another_family_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(CheckpointError, match=f"not a Stable Diffusion .*, but a {kind}$"):
        detect(open_checkpoint(tmp_path))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "of Flux's kind"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "of Flux's kind"),
        ("model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight", "Diffusion 3"),
        ("model.diffusion_model.input_blocks.1.1.time_stack.0.norm1.weight", "a video model"),
        ("blocks.0.cross_attn.q.weight", "Wan"),
    ],
)
def test_a_file_of_another_family_is_named(tensor: str, words: str, tmp_path: Path) -> None:
    save_file({tensor: torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=f"{words}.*, which is not supported"):
        open_checkpoint(tmp_path / "other.safetensors")
