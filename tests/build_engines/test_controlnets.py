"""ControlNets: against diffusers, through the UNet that they control, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from build_engines import build
from build_engines.attention import FUSED
from build_engines.checkpoint import Checkpoint
from build_engines.controlnets import open_controlnets
from build_engines.errors import BuildError, CheckpointError
from build_engines.export import export_onnx
from build_engines.formats import open_checkpoint
from build_engines.verify import TOLERANCES, onnxruntime_runner, references, verify
from build_engines.weights import load_network
from networks import NetworkExport, SdxlUnet, Unet
from networks.residuals import residuals
from tests.build_engines.conftest import assert_close, edit, open_model, snapshot
from tests.conftest import CHECKPOINTS, CONTROLNET

SMALL = CHECKPOINTS / CONTROLNET
_CONTROLNET: Any = ControlNetModel  # diffusers' classes are not typed


@pytest.fixture
def controlnet(tmp_path: Path) -> Path:
    """A ControlNet's folder that a test may change."""
    return Path(shutil.copytree(SMALL, tmp_path / CONTROLNET))


def unet(name: str = "sd15", cls: type[Unet] = Unet) -> Unet:
    return cls(open_checkpoint(CHECKPOINTS / name).json("unet/config.json"), controlled=True)


def load(model: Any, folder: Path) -> Any:
    return model.from_pretrained(folder, torch_dtype=torch.float32).eval()


def latents(rows: int, height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn((rows, 4, height, width), generator=generator),
        "timestep": torch.linspace(3, 990, rows)[:, None],
        "encoder_hidden_states": torch.randn((rows, 154, 32), generator=generator),
    }


def run(repository: Path, model: str, inputs: dict[str, torch.Tensor]) -> list[Any]:
    feed = {name: value.numpy() for name, value in inputs.items()}
    outputs: list[Any] = open_model(repository, model).run(None, feed)
    return outputs


@pytest.mark.parametrize(("rows", "height", "width"), [(1, 19, 24), (3, 7, 13), (2, 16, 16)])
@torch.inference_mode()
def test_controlnet(repository: Path, rows: int, height: int, width: int) -> None:
    """Each row has its own strength; 0 gives nothing."""
    inputs = latents(rows, height, width)
    picture = torch.rand((rows, 3, 8 * height, 8 * width), generator=torch.Generator())
    scale = torch.linspace(1.3, 0, rows)[:, None]
    model = load(_CONTROLNET, SMALL)
    sample, timestep, text = inputs.values()
    down, mid = model(sample, timestep[:, 0], text, picture, return_dict=False)
    controls = {"controlnet_cond": picture, "conditioning_scale": scale}
    actual = run(repository, f"sd15_controlnet_{CONTROLNET}", {**inputs, **controls})
    assert len(actual) == len(down) + 1
    for output, expected in zip(actual, (*down, mid), strict=True):
        assert_close(output, expected * scale[:, :, None, None])


@pytest.mark.parametrize(
    ("widths", "layers", "count"),
    [((320, 640, 1280, 1280), 2, 12), ((320, 640, 1280), 2, 9), ((32, 64), 1, 4)],
)
def test_residuals_of_published_sizes(widths: tuple[int, ...], layers: int, count: int) -> None:
    blocks = ("DownBlock2D",) * len(widths)
    with torch.device("meta"):
        model = _CONTROLNET(
            down_block_types=blocks, block_out_channels=widths, layers_per_block=layers
        )
    *down, mid = residuals(model.config)
    assert [each.channels for each in down] == [
        block.out_channels for block in model.controlnet_down_blocks
    ]
    assert mid.channels == model.controlnet_mid_block.out_channels
    assert len(down) == count


@pytest.mark.parametrize(("height", "width"), [(19, 24), (7, 13), (16, 16)])
@pytest.mark.parametrize("full", [True, False])
@torch.inference_mode()
def test_residuals_are_added(repository: Path, height: int, width: int, full: bool) -> None:
    """At the size of the skip connections, and one value a channel."""
    generator = torch.Generator().manual_seed(2)
    inputs = latents(2, height, width)
    added = {}
    for residual in unet().residuals:
        sizes = residual.sizes(height, width).values() if full else (1, 1)
        shape = (2, residual.channels, *sizes)
        added[residual.name] = torch.randn(shape, generator=generator)
    *down, mid = added.values()
    model = load(UNet2DConditionModel, CHECKPOINTS / "sd15" / "unet")
    sample, timestep, text = inputs.values()
    expected = model(
        sample,
        timestep[:, 0],
        text,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    (actual,) = run(repository, "sd15_unet", {**inputs, **added})
    assert_close(actual, expected)


@torch.inference_mode()
def test_zeros_of_one_pixel_stand_for_no_controlnet(repository: Path, plain: Path) -> None:
    inputs = latents(2, 11, 10)
    zeros = {each.name: torch.zeros((2, each.channels, 1, 1)) for each in unet().residuals}
    (controlled,) = run(repository, "sd15_unet", {**inputs, **zeros})
    (alone,) = run(plain, "sd15_unet", inputs)
    assert_close(controlled, torch.from_numpy(alone))


def export(network: NetworkExport, checkpoint: Checkpoint, folder: Path) -> float:
    """Exports one network and compares it with torch, as a build does."""
    module = load_network(network, checkpoint)
    expected = references(network, module)
    network.prepare(module, FUSED)
    folder.mkdir()
    path = export_onnx(network, module, folder, FUSED.domains)
    with onnxruntime_runner(network, path, "fp32") as run:
        return verify(network, run, expected, "fp32")


@torch.no_grad()
def test_sdxl(tmp_path: Path) -> None:
    """A ControlNet of SDXL takes the size conditioning too."""
    small = open_checkpoint(CHECKPOINTS / "sdxl")
    model = _CONTROLNET.from_unet(
        load(UNet2DConditionModel, CHECKPOINTS / "sdxl" / "unet"),
        conditioning_embedding_out_channels=(16, 32, 96, 256),
    )
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "controlnet_" in name:  # zero in a ControlNet that is not trained yet
            parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path / "x")
    sdxl = unet("sdxl", SdxlUnet)
    ((controlnet, folder),) = open_controlnets({"x": tmp_path / "x"}, sdxl)
    assert {t.name: t.dims for t in controlnet.inputs}["time_ids"] == (6,)
    assert export(controlnet, folder, tmp_path / "controlnet") <= TOLERANCES["fp32"].error
    assert export(sdxl, small, tmp_path / "unet") <= TOLERANCES["fp32"].error


def test_pooled_residuals(controlnet: Path, tmp_path: Path) -> None:
    """A ControlNet may give one value a channel, which the UNet's graph takes."""
    edit(controlnet / "config.json", global_pool_conditions=True)
    ((network, folder),) = open_controlnets({"x": controlnet}, unet())
    assert export(network, folder, tmp_path / "export") <= TOLERANCES["fp32"].error
    (first, *_) = references(network, load_network(network, folder))
    assert first.outputs[0].shape[2:] == (1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cross_attention_dim": 48}, "its cross_attention_dim is 48, the UNet's 32"),
        ({"block_out_channels": [32, 96]}, r"\[32, 32, 32, 96, 96\] channels, the UNet takes"),
        ({"layers_per_block": 2}, "its residuals have .* the UNet takes"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type is 'text_time'"),
        ({"_class_name": "FluxControlNetModel"}, "'ControlNetModel' is expected"),
        ({"conditioning_channels": 4}, "conditioning_channels 4, 3 is expected"),
        ({"conditioning_embedding_out_channels": [16, 32]}, "4 widths are expected"),
    ],
)
def test_another_kind_is_refused(
    controlnet: Path, tmp_path: Path, values: dict[str, object], message: str
) -> None:
    edit(controlnet / "config.json", **values)
    with pytest.raises(CheckpointError, match=message):
        build(CHECKPOINTS / "sd15", "p", tmp_path / "repository", controlnets={"x": controlnet})
    assert not (tmp_path / "repository").exists()


def test_a_controlnet_of_another_family_is_refused() -> None:
    with pytest.raises(CheckpointError, match="does not fit the UNet"):
        open_controlnets({"x": SMALL}, unet("sdxl", SdxlUnet))


@pytest.mark.parametrize("file", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_missing_file_is_named(controlnet: Path, tmp_path: Path, file: str) -> None:
    (controlnet / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        build(CHECKPOINTS / "sd15", "p", tmp_path / "repository", controlnets={"x": controlnet})


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such ControlNet"):
        open_controlnets({"x": tmp_path / "nowhere"}, unet())


def test_another_pipelines_models_are_not_overwritten(built: Path) -> None:
    """``sd15_unet`` would be the new pipeline's ControlNet's, or its ensemble's, as well."""
    (built / "sd15.pipeline.json").rename(built / "p_unet.pipeline.json")
    text = (built / "p_unet.pipeline.json").read_text().replace("sd15_unet", "p_unet_unet")
    (built / "p_unet.pipeline.json").write_text(text)
    before = snapshot(built)
    with pytest.raises(BuildError, match=r"'p_unet' in .* has a 'p_unet_unet' too"):
        build(CHECKPOINTS / "sd15", "p", built, controlnets={"unet": SMALL})
    assert snapshot(built) == before


def test_a_wrong_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="controlnet: 'a/b'; allowed"):
        build(CHECKPOINTS / "sd15", "p", tmp_path / "repository", controlnets={"a/b": SMALL})
