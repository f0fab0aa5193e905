"""Small checkpoints and compiled pipelines, some to be changed by a test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines import build
from tests.conftest import CHECKPOINTS

Array = npt.NDArray[np.float32]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint folder that a test may change."""
    return copy_checkpoint("sd15", tmp_path / "checkpoint")


@pytest.fixture(scope="session")
def plain() -> Path:
    """A repository with the pipeline ``sd15`` without ControlNets, kept between runs."""
    folder = Path(__file__).parent.parent.parent / "build" / "tests_plain"
    build(CHECKPOINTS / "sd15", "sd15", folder)
    return folder


@pytest.fixture
def built(plain: Path, tmp_path: Path) -> Path:
    """A copy of that repository that a test may change."""
    return Path(shutil.copytree(plain, tmp_path / "repository"))


def copy_checkpoint(name: str, target: Path) -> Path:
    """A copy of one of the small checkpoints, without links to the others."""
    return Path(shutil.copytree(CHECKPOINTS / name, target))


def edit(path: Path, **values: object) -> None:
    """Changes fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def make_sd2(folder: Path) -> Path:
    """The small SD1 checkpoint in SD2's form: linear projections, heads by number, gelu."""
    checkpoint = copy_checkpoint("sd15", folder)
    unet = checkpoint / "unet"
    edit(unet / "config.json", use_linear_projection=True, attention_head_dim=[4, 8])
    weights = unet / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    for name in state:
        if name.endswith(("proj_in.weight", "proj_out.weight")):
            state[name] = state[name][:, :, 0, 0].contiguous()
    save_file(state, weights)
    edit(checkpoint / "text_encoder/config.json", hidden_act="gelu")
    edit(checkpoint / "tokenizer/tokenizer_config.json", pad_token="!")
    scheduler = checkpoint / "scheduler/scheduler_config.json"
    edit(scheduler, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return checkpoint


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def open_model(repository: Path, model: str) -> onnxruntime.InferenceSession:
    """The exported network of a Triton model."""
    path = repository / model / "1" / "model.onnx"
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def assert_close(actual: Array, expected: torch.Tensor) -> None:
    """Same shape, and values that differ by at most 1e-4 of the greatest."""
    reference = expected.numpy()
    assert actual.shape == reference.shape
    assert np.abs(actual - reference).max() <= 1e-4 * np.abs(reference).max()
