"""ControlNets in single files: equal to the folder that they were made of, or refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from build_engines import build
from build_engines.checkpoint import Checkpoint, DiffusersFolder
from build_engines.controlnets import controlnet_files, open_controlnets
from build_engines.errors import CheckpointError
from build_engines.weights import load_network
from networks import ControlNet, SdxlUnet, Unet
from tests.build_engines.single_files import published_controlnet
from tests.conftest import CHECKPOINTS, CONTROLNET

SMALL = CHECKPOINTS / CONTROLNET
WEIGHTS = "diffusion_pytorch_model.safetensors"
_CONTROLNET: Any = ControlNetModel  # diffusers' classes are not typed
_UNET: Any = UNet2DConditionModel
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": {},
    "sd1, two layers": {"layers_per_block": 2},
    "sd2": {"use_linear_projection": True, "attention_head_dim": [4, 8], "cross_attention_dim": 48},
    "sdxl": {"sdxl": True},
    "sdxl, three sizes": {
        "sdxl": True,
        "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 3],
        "attention_head_dim": [2, 4, 8],
        "layers_per_block": 2,
    },
}
"""What each family's UNet has otherwise than the small SD 1.x one, or, if "sdxl", SDXL one."""
Layout = Callable[[Path], dict[str, torch.Tensor]]
LAYOUTS: dict[str, Layout] = {
    "diffusers": lambda folder: load_file(folder / WEIGHTS),
    "published": published_controlnet,
    "published, with prefix": lambda folder: {
        f"control_model.{name}": value for name, value in published_controlnet(folder).items()
    },
    "beside a whole checkpoint": lambda folder: {
        **{f"control_model.{name}": value for name, value in published_controlnet(folder).items()},
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(32, 3, 3, 3),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(32),
    },
}


def family_unet(family: str) -> Unet:
    changes = dict(CONFIGS[family])
    sdxl = changes.pop("sdxl", False)
    folder = CHECKPOINTS / ("sdxl" if sdxl else "sd15") / "unet"
    config = json.loads((folder / "config.json").read_text()) | changes
    return SdxlUnet(config, controlled=True) if sdxl else Unet(config, controlled=True)


def write_controlnet(folder: Path, unet: Unet, **changes: Any) -> Path:
    """A ControlNet for a UNet, with random weights."""
    torch.manual_seed(0)
    widths = (16, 32, 96, 256)
    model = _CONTROLNET.from_unet(
        _UNET.from_config(dict(unet.config)), conditioning_embedding_out_channels=widths
    )
    if changes:
        config = {name: value for name, value in model.config.items() if name[0] != "_"}
        model = _CONTROLNET.from_config({**config, **changes})
    for name, parameter in model.named_parameters():
        if "controlnet_" in name:  # zero in a ControlNet that is not trained yet
            parameter.data.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def opened(path: Path, unet: Unet) -> tuple[ControlNet, Checkpoint]:
    (one,) = open_controlnets({"x": path}, unet)
    return one


def outputs(controlnet: ControlNet, checkpoint: Checkpoint) -> list[torch.Tensor]:
    """What the network makes of fixed inputs."""
    module = load_network(controlnet, checkpoint)
    example = controlnet.example(controlnet.cases()[-1], torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found: tuple[torch.Tensor, ...] = module(*example.values())
    return list(found)


def one_file(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_file_equals_the_folder_that_it_was_made_of(
    tmp_path: Path, family: str, layout: str
) -> None:
    unet = family_unet(family)
    folder = write_controlnet(tmp_path / "folder", unet)
    file = one_file(tmp_path / "x.safetensors", LAYOUTS[layout](folder))
    expected, actual = (opened(path, unet) for path in (folder, file))
    assert actual[0].inputs == expected[0].inputs
    assert actual[0].outputs == expected[0].outputs
    for one, other in zip(outputs(*actual), outputs(*expected), strict=True):
        assert other.abs().max() > 0
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_of_any_floating_type_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: value.to(dtype) for name, value in published_controlnet(SMALL).items()}
    loaded = outputs(*opened(one_file(tmp_path / "x.safetensors", tensors), family_unet("sd1")))
    for one, other in zip(loaded, outputs(*opened(SMALL, family_unet("sd1"))), strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("is_folder", [True, False])
def test_values_that_are_not_finite_are_refused_by_file_and_tensor(
    tmp_path: Path, is_folder: bool
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(SMALL, folder)
    state = load_file(folder / WEIGHTS)
    state["conv_in.bias"][0] = float("nan")
    file, name = one_file(folder / WEIGHTS, state), "conv_in.bias"
    if not is_folder:
        file = one_file(tmp_path / "x.safetensors", published_controlnet(folder))
        name = "input_blocks.0.0.bias"
    controlnet = opened(folder if is_folder else file, family_unet("sd1"))
    words = re.escape(f"{file}: {name} has values that are NaN or infinite")
    with pytest.raises(CheckpointError, match=words):
        load_network(*controlnet)


def test_a_file_is_one_source_of_the_build(tmp_path: Path) -> None:
    file = one_file(tmp_path / "canny.safetensors", published_controlnet(SMALL))
    assert controlnet_files({"edges": file}) == {"controlnets/edges/canny.safetensors": file}


def test_a_build_from_a_file_has_the_folders_models(tmp_path: Path) -> None:
    file = one_file(tmp_path / "canny.safetensors", published_controlnet(SMALL))
    paths = {"folder": SMALL, "file": file}
    built = {
        name: build(CHECKPOINTS / "sd15", "p", tmp_path / name, controlnets={"edges": path})
        for name, path in paths.items()
    }
    assert built["file"].controlnets == built["folder"].controlnets
    assert "controlnets/edges/canny.safetensors" in built["file"].source


def test_the_name_of_a_file_decides_whether_outputs_are_averaged(tmp_path: Path) -> None:
    unet = family_unet("sd1")
    folder = write_controlnet(tmp_path / "folder", unet, global_pool_conditions=True)
    tensors = published_controlnet(folder)
    pooled = opened(one_file(tmp_path / "v11e_sd15_Shuffle_fp16.safetensors", tensors), unet)
    for one, other in zip(outputs(*pooled), outputs(*opened(folder, unet)), strict=True):
        assert one.shape[2:] == (1, 1)
        torch.testing.assert_close(one, other)
    full = outputs(*opened(one_file(tmp_path / "canny.safetensors", tensors), unet))
    assert full[0].shape[2:] != (1, 1)


def test_a_controlnet_without_attention(tmp_path: Path) -> None:
    """As the small ones of SDXL, which take no text."""
    unet = family_unet("sdxl")
    changes = {"down_block_types": ["DownBlock2D"] * 2, "mid_block_type": "UNetMidBlock2D"}
    folder = write_controlnet(tmp_path / "folder", unet, **changes)
    file = one_file(tmp_path / "x.safetensors", load_file(folder / WEIGHTS))
    for path in (folder, file):
        module = load_network(*opened(path, unet)).model
        assert module.config["mid_block_type"] == "UNetMidBlock2D"
        assert not [name for name in module.state_dict() if "attentions" in name]


def small(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    return published_controlnet(SMALL) | more


def without(name: str) -> dict[str, torch.Tensor]:
    tensors = small()
    del tensors[name]
    return tensors


ZERO = torch.zeros(1)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (small(difference=ZERO), "has difference: differences from the UNet of a base model"),
        (small(lora_controlnet=ZERO), "has lora_controlnet: a Control-LoRA"),
        (
            {**load_file(SMALL / WEIGHTS), "task_embedding": ZERO},
            r"has task_embedding: a ControlNet\+\+ union",
        ),
        ({"spatial_ch_projs.weight": ZERO}, r"a ControlNet\+\+ union"),
        ({"lllite_unet_input_blocks_4_1_attn1_to_q.down.0.weight": ZERO}, "a ControlNet-LLLite"),
        ({"body.0.in_conv.weight": ZERO, "conv_in.weight": ZERO}, "a T2I-Adapter"),
        ({"adapter.body.0.resnets.0.block1.weight": ZERO}, "a T2I-Adapter"),
        ({"image_proj.proj.weight": ZERO}, "an IP-Adapter"),
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": ZERO}, "a LoRA"),
        ({"down_blocks.0.motion_modules.0.proj_in.weight": ZERO}, "a SparseCtrl"),
        ({"controlnet_blocks.0.weight": ZERO}, "for a transformer such as SD 3 or Flux"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": ZERO},
            r"not a ControlNet of a known layout. Looked for .* found: model.diffusion_model \(1\)",
        ),
        ({}, "not a ControlNet of a known layout.*no tensors"),
        (small(**{"extra.weight": ZERO}), r"of no ControlNet: extra\.weight"),
        (
            {**{f"control_model.{k}": v for k, v in small().items()}, "extra.weight": ZERO},
            r"tensors of no ControlNet: extra\.weight",
        ),
        (small(**{"output_blocks.0.0.in_layers.0.weight": ZERO}), "of no ControlNet: up_blocks"),
        (small(**{"input_blocks.0.0.op.weight": ZERO}), "of no ControlNet|missing"),
        (without("zero_convs.1.0.weight"), r"missing: controlnet_down_blocks\.1\.weight"),
        (without("middle_block_out.0.bias"), r"missing: controlnet_mid_block\.bias"),
        (without("middle_block.1.norm.bias"), r"missing: mid_block\.attentions\.0\.norm\.bias"),
        (without("input_hint_block.6.weight"), r"missing: controlnet_cond_embedding\.blocks\.2"),
        (without("input_blocks.0.0.weight"), r"conv_in\.weight is missing"),
        (
            small(**{"zero_convs.0.0.weight": torch.zeros(32, 31, 1, 1)}),
            r"of another shape: controlnet_down_blocks\.0\.weight \[32, 31, 1, 1\] for \[32, 32,",
        ),
        (
            small(**{"input_hint_block.0.weight": torch.zeros(16, 4, 3, 3)}),
            "conditioning_channels 4, 3 is expected",
        ),
    ],
)
def test_another_file_is_refused_with_the_reason(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    file = one_file(tmp_path / "x.safetensors", tensors)
    with pytest.raises(CheckpointError, match=message):
        opened(file, family_unet("sd1"))


@pytest.mark.parametrize("layout", ["diffusers", "published"])
@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ("sd1", "sdxl", "its cross_attention_dim is 32, the UNet's 64"),
        ("sdxl", "sd1", "its cross_attention_dim is 64, the UNet's 32"),
        ("sd2", "sd1", "its cross_attention_dim is 48, the UNet's 32"),
        ("sd1", "sd1, two layers", "its residuals have"),
        ("sdxl", "sdxl, three sizes", "its residuals have"),
    ],
)
def test_a_file_of_another_family_is_refused(
    tmp_path: Path, own: str, other: str, message: str, layout: str
) -> None:
    folder = write_controlnet(tmp_path / "folder", family_unet(own))
    file = one_file(tmp_path / "x.safetensors", LAYOUTS[layout](folder))
    with pytest.raises(CheckpointError, match=message):
        opened(file, family_unet(other))


def test_the_families_of_published_widths_are_named(tmp_path: Path) -> None:
    wide = {"cross_attention_dim": 768}
    folder = write_controlnet(tmp_path / "folder", family_unet("sd1"), **wide)
    unet = family_unet("sdxl")
    unet = SdxlUnet({**unet.config, "cross_attention_dim": 2048}, controlled=True)
    with pytest.raises(CheckpointError, match=r"is 768 \(SD 1\.x\), the UNet's 2048 \(SDXL\)"):
        opened(one_file(tmp_path / "x.safetensors", load_file(folder / WEIGHTS)), unet)


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.pth", "can run any code"), ("x.safetensors", "not a readable safetensors file")],
)
def test_pickles_and_broken_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path / name, family_unet("sd1"))


def test_the_weights_inside_a_folder_are_refused_for_the_folder() -> None:
    """The configuration beside them may say more than their shapes."""
    with pytest.raises(CheckpointError, match=f"give the folder .*{CONTROLNET}"):
        opened(SMALL / WEIGHTS, family_unet("sd1"))


def test_the_published_file_has_the_folders_names(tmp_path: Path) -> None:
    file = one_file(tmp_path / "x.safetensors", published_controlnet(SMALL))
    _, checkpoint = opened(file, family_unet("sd1"))
    expected = {tensor.name for tensor in DiffusersFolder(SMALL).tensors(".")}
    assert {tensor.name for tensor in checkpoint.tensors(".")} == expected
