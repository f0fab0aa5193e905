"""A checkpoint of continuous noise levels, built and served: against a loop of diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EDMEulerScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from build_engines import build
from pipelines.descriptor import EdmSchedule, load_all
from preprocessing.prepare import RequestTensors
from runners.in_process import LocalDetailer
from segs_client.messages import build as message
from segs_client.messages import parse
from tests.build_engines.conftest import copy_checkpoint
from tests.conftest import CHECKPOINTS

_SCHEDULER: Any = EDMEulerScheduler  # diffusers' classes are not typed
SIDE, STEPS, SEED = 64, 6, 11
PROMPT = "a smiling face"
CONFIG = {
    "_class_name": "EDMEulerScheduler",
    "prediction_type": "v_prediction",
    "sigma_data": 1.0,
    "sigma_min": 0.002,
    "sigma_max": 120.0,
}


@pytest.fixture(scope="module")
def continuous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the pipeline ``cos``, whose weights are those of ``sd15-v``."""
    folder = tmp_path_factory.mktemp("continuous")
    checkpoint = copy_checkpoint("sd15-v", folder / "checkpoint")
    (checkpoint / "scheduler/scheduler_config.json").write_text(json.dumps(CONFIG))
    build(checkpoint, "cos", folder / "pipelines")
    return folder / "pipelines"


def picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@torch.inference_mode()
def expected() -> np.ndarray[Any, np.dtype[np.float32]]:
    """The picture after diffusers' scheduler and networks, in grey levels [h, w, 3]."""
    source = CHECKPOINTS / "sd15-v"

    def load(model: Any, part: str) -> Any:
        return model.from_pretrained(source / part, torch_dtype=torch.float32).eval()

    vae, unet = load(AutoencoderKL, "vae"), load(UNet2DConditionModel, "unet")
    tokens = CLIPTokenizer.from_pretrained(source / "tokenizer")(
        PROMPT, padding="max_length", max_length=77, return_tensors="pt"
    )
    text = load(CLIPTextModel, "text_encoder")(tokens.input_ids).last_hidden_state
    pixels = torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255
    latent = vae.encode(2 * pixels - 1).latent_dist.mean * vae.config.scaling_factor
    scheduler = _SCHEDULER.from_config(CONFIG)
    scheduler.set_timesteps(STEPS)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(SEED + 1))
    x = noise * scheduler.init_noise_sigma + latent
    for time in scheduler.timesteps:
        v = unet(scheduler.scale_model_input(x, time), time, text).sample
        x = scheduler.step(v, time, x, return_dict=False)[0]
    made = vae.decode(x / vae.config.scaling_factor).sample
    grey: np.ndarray[Any, np.dtype[np.float32]] = ((made + 1) / 2).clamp(0, 1)[0].numpy() * 255
    return grey.transpose(1, 2, 0)


def test_the_descriptor_has_the_noise_levels(continuous: Path) -> None:
    descriptor, _ = load_all([continuous])["cos"]
    assert descriptor.schedule == EdmSchedule(sigma_min=0.002, sigma_max=120.0)
    assert descriptor.prediction == "v_prediction"


def test_the_picture_is_that_of_diffusers(continuous: Path) -> None:
    options = {"guide_size": SIDE, "crop_factor": 1.0, "noise_mask": False, "denoise": 1.0}
    sampling = {"sampler_name": "euler", "scheduler": "karras", "steps": STEPS, "seed": SEED}
    boxes = [(0, 0, SIDE, SIDE)]
    built = message(
        picture(),
        boxes,
        pipeline="cos",
        prompt=PROMPT,
        cfg=1.0,
        output={"seg_images": "png"},
        **options,
        **sampling,
    )
    done = LocalDetailer([continuous]).detail(
        RequestTensors(
            *(built.request.model_dump_json().encode(), built.image, built.masks),
            *(built.seg_images, built.control_images),
        )
    )
    report = done.report.model_dump_json()
    (seg,) = parse(built, report, done.image, done.seg_images, done.control_images).segs
    assert seg.image is not None
    assert np.abs(255 * seg.image - expected()).max() <= 2
