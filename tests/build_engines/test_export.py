"""The exported networks against the libraries' own, at shapes that the build did not check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from build_engines.attention import CONTRIB_DOMAIN
from networks.text_encoder import END_TOKEN
from tests.build_engines.conftest import assert_close, open_model
from tests.conftest import CHECKPOINTS, CONTROLNET, PIPELINES

WITHOUT_CONTROLNETS = [name for name in PIPELINES if name != "sd15"]
ADDED = {"sdxl": 6, "sdxl-refiner": 5}
"""Numbers of the size conditioning."""


def load(model: Any, name: str, part: str) -> Any:
    return model.from_pretrained(CHECKPOINTS / name / part, torch_dtype=torch.float32).eval()


def check_unet(folder: Path, name: str, rows: int, height: int, width: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(1)
    unet = load(UNet2DConditionModel, name, "unet")
    size = (rows, unet.config.in_channels, height, width)
    inputs = {
        "sample": torch.randn(size, generator=generator),
        "timestep": torch.linspace(3, 990, rows)[:, None],
        "encoder_hidden_states": torch.randn(
            (rows, tokens, unet.config.cross_attention_dim), generator=generator
        ),
    }
    added = None
    if name in ADDED:
        sizes = torch.randint(0, 1024, (rows, ADDED[name]), generator=generator)
        embeds = torch.randn((rows, 32), generator=generator)
        added = {"text_embeds": embeds, "time_ids": sizes.to(torch.float32)}
    sample, timestep, context = inputs.values()
    expected = unet(sample, timestep[:, 0], context, added_cond_kwargs=added).sample
    feed = {key: value.numpy() for key, value in {**inputs, **(added or {})}.items()}
    (actual,) = open_model(folder, f"{name}_unet").run(["out_sample"], feed)
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("rows", "height", "width", "tokens"),
    [(1, 19, 24, 77), (3, 19, 24, 77), (2, 7, 33, 231), (5, 9, 9, 77), (1, 64, 64, 154)],
)
@torch.inference_mode()
def test_unet(plain: Path, rows: int, height: int, width: int, tokens: int) -> None:
    check_unet(plain, "sd15", rows, height, width, tokens)


@pytest.mark.parametrize("name", WITHOUT_CONTROLNETS)
@torch.inference_mode()
def test_unet_of_every_family(repository: Path, name: str) -> None:
    check_unet(repository, name, 3, 7, 13, 231)


def test_unet_rows_do_not_depend_on_each_other(plain: Path) -> None:
    rng = np.random.default_rng(2)
    feed = {
        "sample": rng.standard_normal((4, 4, 11, 10), dtype=np.float32),
        "timestep": np.array([[1], [250], [500], [999]], dtype=np.float32),
        "encoder_hidden_states": rng.standard_normal((4, 77, 32), dtype=np.float32),
    }
    unet = open_model(plain, "sd15_unet")
    (together,) = unet.run(None, feed)
    for row in range(4):
        (alone,) = unet.run(None, {name: value[row : row + 1] for name, value in feed.items()})
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 16])
@torch.inference_mode()
def test_text_encoder(repository: Path, rows: int) -> None:
    ids = torch.randint(0, 49408, (rows, 77), generator=torch.Generator().manual_seed(1))
    expected = load(CLIPTextModel, "sd15", "text_encoder")(ids).last_hidden_state
    feed = {"input_ids": ids.numpy().astype(np.int32)}
    (actual,) = open_model(repository, "sd15_text_encoder").run(["hidden_state"], feed)
    assert_close(actual, expected)


def prompts(padding: int) -> torch.Tensor:
    """Rows of one chunk [3, 77]: empty, some words, full; the rest is filled with ``padding``."""
    ids = torch.full((3, 77), padding)
    for row, words in enumerate((0, 9, 75)):
        ids[row, 0] = 49406
        ids[row, 1 : words + 1] = torch.arange(1000, 1000 + words)
        ids[row, words + 1] = END_TOKEN
    return ids


@torch.inference_mode()
def test_sdxl_text_encoder(repository: Path) -> None:
    ids = prompts(padding=END_TOKEN)
    encoder = load(CLIPTextModel, "sdxl", "text_encoder")
    expected = encoder(ids, output_hidden_states=True).hidden_states[-2]
    feed = {"input_ids": ids.numpy().astype(np.int32)}
    (actual,) = open_model(repository, "sdxl_text_encoder").run(["hidden_state"], feed)
    assert_close(actual, expected)


@pytest.mark.parametrize("name", ["sdxl", "sdxl-refiner"])
@pytest.mark.parametrize("padding", [0, END_TOKEN])
@torch.inference_mode()
def test_sdxl_text_encoder_2(repository: Path, name: str, padding: int) -> None:
    ids = prompts(padding)
    encoder = load(CLIPTextModelWithProjection, name, "text_encoder_2")
    expected = encoder(ids, output_hidden_states=True)
    feed = {"input_ids": ids.numpy().astype(np.int32)}
    session = open_model(repository, f"{name}_text_encoder_2")
    hidden, pooled = session.run(["hidden_state", "pooled"], feed)
    assert_close(hidden, expected.hidden_states[-2])
    assert_close(pooled, expected.text_embeds)


@pytest.mark.parametrize(
    ("rows", "height", "width"), [(1, 64, 64), (3, 152, 104), (4, 40, 72), (1, 72, 512)]
)
@torch.inference_mode()
def test_vae_encoder(repository: Path, rows: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    sample = torch.rand((rows, 3, height, width), generator=generator) * 2 - 1
    expected = load(AutoencoderKL, "sd15", "vae").encode(sample).latent_dist.mean
    feed = {"sample": sample.numpy()}
    (actual,) = open_model(repository, "sd15_vae_encoder").run(["latent_mean"], feed)
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("rows", "height", "width"), [(1, 8, 8), (3, 19, 13), (4, 5, 9), (1, 9, 64)]
)
@torch.inference_mode()
def test_vae_decoder(repository: Path, rows: int, height: int, width: int) -> None:
    latent = torch.randn((rows, 4, height, width), generator=torch.Generator().manual_seed(1))
    expected = load(AutoencoderKL, "sd15", "vae").decode(latent).sample
    feed = {"latent_sample": latent.numpy()}
    (actual,) = open_model(repository, "sd15_vae_decoder").run(["sample"], feed)
    assert_close(actual, expected)


@pytest.mark.parametrize(
    "model",
    [
        *(f"sd15_{role}" for role in ("text_encoder", "unet", "vae_encoder", "vae_decoder")),
        *(f"sdxl_{role}" for role in ("text_encoder", "text_encoder_2", "unet")),
        f"sd15_controlnet_{CONTROLNET}",
    ],
)
def test_graph_is_lean(repository: Path, model: str) -> None:
    """Attention is the fused operator, and nothing acts on a weight alone at run time."""
    path = repository / model / "1" / "model.onnx"
    graph = onnx.load(path, load_external_data=False).graph
    operators = {(node.domain, node.op_type) for node in graph.node}
    assert (CONTRIB_DOMAIN, "MultiHeadAttention") in operators
    assert ("", "Softmax") not in operators
    weights = {tensor.name for tensor in graph.initializer}
    assert weights and all(
        tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer
    )
    layout = [
        node.op_type
        for node in graph.node
        if node.op_type in ("Transpose", "Unsqueeze") and node.input[0] in weights
    ]
    assert layout == []
