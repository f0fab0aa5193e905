"""The exported networks against the libraries' own, at shapes that the build did not check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from build_engines.attention import CONTRIB_DOMAIN
from tests.conftest import CHECKPOINTS

SD15 = CHECKPOINTS / "sd15"
Array = npt.NDArray[np.float32]


def session(repository: Path, role: str) -> onnxruntime.InferenceSession:
    path = repository / f"sd15_{role}" / "1" / "model.onnx"
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def assert_close(actual: Array, expected: torch.Tensor) -> None:
    reference = expected.numpy()
    assert actual.shape == reference.shape
    assert np.abs(actual - reference).max() <= 1e-4 * np.abs(reference).max()


def load(model: Any, part: str) -> Any:
    return model.from_pretrained(SD15 / part, torch_dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("rows", "height", "width", "tokens"),
    [(1, 19, 24, 77), (3, 19, 24, 77), (2, 7, 33, 231), (5, 9, 9, 77), (1, 64, 64, 154)],
)
@torch.inference_mode()
def test_unet(repository: Path, rows: int, height: int, width: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn((rows, 4, height, width), generator=generator)
    timestep = torch.linspace(3, 990, rows)[:, None]
    context = torch.randn((rows, tokens, 32), generator=generator)
    expected = load(UNet2DConditionModel, "unet")(sample, timestep[:, 0], context).sample
    inputs = {"sample": sample, "timestep": timestep, "encoder_hidden_states": context}
    feed = {name: value.numpy() for name, value in inputs.items()}
    (actual,) = session(repository, "unet").run(["out_sample"], feed)
    assert_close(actual, expected)


def test_unet_rows_do_not_depend_on_each_other(repository: Path) -> None:
    rng = np.random.default_rng(2)
    feed = {
        "sample": rng.standard_normal((4, 4, 11, 10), dtype=np.float32),
        "timestep": np.array([[1], [250], [500], [999]], dtype=np.float32),
        "encoder_hidden_states": rng.standard_normal((4, 77, 32), dtype=np.float32),
    }
    unet = session(repository, "unet")
    (together,) = unet.run(None, feed)
    for row in range(4):
        (alone,) = unet.run(None, {name: value[row : row + 1] for name, value in feed.items()})
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 16])
@torch.inference_mode()
def test_text_encoder(repository: Path, rows: int) -> None:
    ids = torch.randint(0, 49408, (rows, 77), generator=torch.Generator().manual_seed(1))
    expected = load(CLIPTextModel, "text_encoder")(ids).last_hidden_state
    feed = {"input_ids": ids.numpy().astype(np.int32)}
    (actual,) = session(repository, "text_encoder").run(["hidden_state"], feed)
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("rows", "height", "width"), [(1, 64, 64), (3, 152, 104), (4, 40, 72), (1, 72, 512)]
)
@torch.inference_mode()
def test_vae_encoder(repository: Path, rows: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(1)
    sample = torch.rand((rows, 3, height, width), generator=generator) * 2 - 1
    expected = load(AutoencoderKL, "vae").encode(sample).latent_dist.mean
    feed = {"sample": sample.numpy()}
    (actual,) = session(repository, "vae_encoder").run(["latent_mean"], feed)
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("rows", "height", "width"), [(1, 8, 8), (3, 19, 13), (4, 5, 9), (1, 9, 64)]
)
@torch.inference_mode()
def test_vae_decoder(repository: Path, rows: int, height: int, width: int) -> None:
    latent = torch.randn((rows, 4, height, width), generator=torch.Generator().manual_seed(1))
    expected = load(AutoencoderKL, "vae").decode(latent).sample
    feed = {"latent_sample": latent.numpy()}
    (actual,) = session(repository, "vae_decoder").run(["sample"], feed)
    assert_close(actual, expected)


@pytest.mark.parametrize("role", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_graph_is_lean(repository: Path, role: str) -> None:
    """Attention is the fused operator, and nothing acts on a weight alone at run time."""
    path = repository / f"sd15_{role}" / "1" / "model.onnx"
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
