"""LoRAs are folded into the weights by the formula, whichever layout their file has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers.loaders
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines import build, builder
from build_engines.checkpoint import Checkpoint, DiffusersFolder
from build_engines.errors import BuildError, CheckpointError
from build_engines.formats import open_checkpoint
from build_engines.lora import WithLoras
from build_engines.weights import load_network
from networks import ClipTextEncoder, SdxlTextEncoder2, Unet
from tests.build_engines.conftest import snapshot
from tests.build_engines.single_files import write_single_file
from tests.conftest import CHECKPOINTS

DIFFUSERS: Any = diffusers  # its classes are not typed
SD15, SDXL = CHECKPOINTS / "sd15", CHECKPOINTS / "sdxl"
UNET = SD15 / "unet/diffusion_pytorch_model.safetensors"
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # [32, 32]
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"  # [32, 32]
CONV1 = "down_blocks.0.attentions.0.proj_in"  # [32, 32, 1, 1]
CONV3 = "down_blocks.1.resnets.0.conv1"  # [64, 32, 3, 3]
TEXT = "encoder.layers.0.mlp.fc1"  # [64, 32]
RANK, ALPHA, WEIGHT = 4, 2.0, 0.8


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def flat(name: str) -> str:
    return name.replace(".", "_")


Matrices = dict[str, torch.Tensor]


def kohya(name: str, matrices: Matrices, prefix: str = "lora_unet_") -> Matrices:
    return {f"{prefix}{flat(name)}.lora_{role}.weight": v for role, v in matrices.items()} | {
        f"{prefix}{flat(name)}.alpha": torch.tensor(ALPHA)
    }


def peft(name: str, matrices: Matrices, prefix: str = "unet.") -> Matrices:
    letters = {"down": "A", "up": "B"}
    return {f"{prefix}{name}.lora_{letters[role]}.weight": v for role, v in matrices.items()}


def linear(out: int = 32, inputs: int = 32) -> Matrices:
    return {"down": values(RANK, inputs), "up": values(out, RANK)}


def write(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> Path:
    save_file(dict(tensors), path, metadata)
    return path


def folded_unet(lora: Path, weight: float = WEIGHT, base: Path = SD15) -> dict[str, torch.Tensor]:
    checkpoint = WithLoras(open_checkpoint(base), [(lora, weight)])
    state = load_network(Unet(checkpoint.json("unet/config.json")), checkpoint).state_dict()
    return {name.removeprefix("model."): value for name, value in state.items()}


def check(folded: Mapping[str, torch.Tensor], changes: Mapping[str, torch.Tensor]) -> None:
    """Whether the changed weights are the old ones plus the change, and all others as before."""
    for name, value in load_file(UNET).items():
        expected = value.float()
        if name in changes:
            assert changes[name].abs().max() > 0.1
            expected = expected + changes[name]
        torch.testing.assert_close(folded[name], expected, rtol=1e-6, atol=1e-6)


KOHYA = WEIGHT * ALPHA / RANK


def test_linear(tmp_path: Path) -> None:
    lora = linear()
    folded = folded_unet(write(tmp_path / "l.safetensors", kohya(LINEAR, lora)))
    check(folded, {f"{LINEAR}.weight": KOHYA * lora["up"] @ lora["down"]})


@pytest.mark.parametrize("shape", [(RANK, 32, 1, 1), (RANK, 32)])
def test_convolution_of_one_pixel(tmp_path: Path, shape: tuple[int, ...]) -> None:
    lora = {"down": values(*shape), "up": values(32, RANK, *shape[2:])}
    folded = folded_unet(write(tmp_path / "l.safetensors", kohya(CONV1, lora)))
    change = KOHYA * lora["up"].flatten(1) @ lora["down"].flatten(1)
    check(folded, {f"{CONV1}.weight": change[..., None, None]})


def test_convolution_is_the_two_in_sequence(tmp_path: Path) -> None:
    lora = {"down": values(RANK, 32, 3, 3), "up": values(64, RANK, 1, 1)}
    folded = folded_unet(write(tmp_path / "l.safetensors", kohya(CONV3, lora)))
    picture = values(1, 32, 9, 7)
    change = folded[f"{CONV3}.weight"] - load_file(UNET)[f"{CONV3}.weight"].float()
    inner = torch.conv2d(picture, lora["down"])
    expected = KOHYA * torch.conv2d(inner, lora["up"])
    torch.testing.assert_close(torch.conv2d(picture, change), expected, rtol=1e-4, atol=1e-3)


def test_convolution_with_a_matrix_in_the_middle(tmp_path: Path) -> None:
    lora = {
        "down": values(RANK, 32, 1, 1),
        "mid": values(RANK, RANK, 3, 3),
        "up": values(64, RANK, 1, 1),
    }
    folded = folded_unet(write(tmp_path / "l.safetensors", kohya(CONV3, lora)))
    picture = values(1, 32, 9, 7)
    change = folded[f"{CONV3}.weight"] - load_file(UNET)[f"{CONV3}.weight"].float()
    inner = torch.conv2d(torch.conv2d(picture, lora["down"]), lora["mid"])
    expected = KOHYA * torch.conv2d(inner, lora["up"])
    torch.testing.assert_close(torch.conv2d(picture, change), expected, rtol=1e-4, atol=1e-3)


def diffusers_layouts() -> dict[str, Callable[[str, str], str]]:
    return {
        "peft": lambda name, role: f"unet.{name}.lora_{'A' if role == 'down' else 'B'}.weight",
        "adapter": lambda name, role: (
            f"unet.{name}.lora_{'A' if role == 'down' else 'B'}.default.weight"
        ),
        "lora": lambda name, role: f"unet.{name}.lora.{role}.weight",
        "processor": lambda name, role: (
            f"unet.{name.removesuffix('.0').replace('.to_', '.processor.to_')}_lora.{role}.weight"
        ),
    }


@pytest.mark.parametrize("layout", diffusers_layouts())
@pytest.mark.parametrize("target", [LINEAR, OUT])
def test_diffusers_layouts(tmp_path: Path, layout: str, target: str) -> None:
    lora = linear()
    key = diffusers_layouts()[layout]
    tensors = {key(target, role): value for role, value in lora.items()}
    folded = folded_unet(write(tmp_path / "l.safetensors", tensors))
    check(folded, {f"{target}.weight": WEIGHT * lora["up"] @ lora["down"]})


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"unet.lora_alpha": 2, "unet.r": RANK}, 2 / 4),
        ({"unet.lora_alpha": 2, "unet.use_rslora": True}, 2 / 2),
        ({"unet.lora_alpha": 2, "unet.alpha_pattern": {LINEAR: 6}}, 6 / 4),
        ({"text_encoder.lora_alpha": 2}, 1.0),
    ],
)
def test_alpha_of_the_metadata(tmp_path: Path, settings: dict[str, Any], scale: float) -> None:
    lora = linear()
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    folded = folded_unet(write(tmp_path / "l.safetensors", peft(LINEAR, lora), **metadata))
    check(folded, {f"{LINEAR}.weight": WEIGHT * scale * lora["up"] @ lora["down"]})


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("input_blocks_1_1_transformer_blocks_0_attn1_to_q", LINEAR),
        ("input_blocks_1_1_proj_in", CONV1),
        ("input_blocks_3_0_in_layers_2", CONV3),
        ("middle_block_1_transformer_blocks_0_attn1_to_k", "mid_block.attentions.0."
         "transformer_blocks.0.attn1.to_k"),
        ("output_blocks_1_1_conv", "up_blocks.0.upsamplers.0.conv"),
        ("time_embed_0", "time_embedding.linear_1"),
        ("out_2", "conv_out"),
    ],
)  # fmt: skip
def test_published_names_of_the_unet(tmp_path: Path, published: str, name: str) -> None:
    weight = load_file(UNET)[f"{name}.weight"]
    lora = {
        "down": values(RANK, *weight.shape[1:]),
        "up": values(weight.shape[0], RANK, *(1 for _ in weight.shape[2:])),
    }
    folded = folded_unet(write(tmp_path / "l.safetensors", kohya(published, lora)))
    product = lora["up"].flatten(1) @ lora["down"].flatten(1)
    check(folded, {f"{name}.weight": KOHYA * product.reshape(weight.shape)})


def test_a_single_file_takes_the_same_lora(tmp_path: Path) -> None:
    single = write_single_file(tmp_path / "m.safetensors", SD15, "sd1")
    lora = write(tmp_path / "l.safetensors", kohya(LINEAR, linear()))
    folder = folded_unet(lora)
    for name, value in folded_unet(lora, base=single).items():
        assert torch.equal(value, folder[name])


@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        (kohya(f"text_model.{TEXT}", linear(64), "lora_te1_"), "text_encoder"),
        (kohya(f"text_model.{TEXT}", linear(64), "lora_te2_"), "text_encoder_2"),
        (peft(f"text_model.{TEXT}", linear(64), "text_encoder."), "text_encoder"),
        (peft(f"text_model.{TEXT}", linear(64), "text_encoder_2."), "text_encoder_2"),
        (kohya("text_projection", linear(), "lora_te2_"), "text_encoder_2"),
    ],
)
def test_text_encoders(tmp_path: Path, tensors: dict[str, torch.Tensor], part: str) -> None:
    base = DiffusersFolder(SDXL)
    lora = write(tmp_path / "l.safetensors", tensors)
    checkpoint = WithLoras(base, [(lora, WEIGHT)])
    network = {"text_encoder": ClipTextEncoder, "text_encoder_2": SdxlTextEncoder2}[part]
    config = base.json(f"{part}/config.json")
    before, after = (
        load_network(network(config), each).state_dict() for each in (base, checkpoint)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    (name,) = changed
    assert name.endswith((f"{TEXT}.weight", "text_projection.weight"))
    up, down = (v for k, v in sorted(tensors.items(), reverse=True) if v.ndim == 2)
    if up.shape[0] == RANK:
        up, down = down, up
    scale = WEIGHT * (ALPHA / RANK if any(k.endswith("alpha") for k in tensors) else 1)
    torch.testing.assert_close(after[name], before[name] + scale * up @ down)


def test_loras_add_up(tmp_path: Path) -> None:
    first, second = linear(), {"down": values(1, 32), "up": values(32, 1)}
    loras = [
        (write(tmp_path / "a.safetensors", kohya(LINEAR, first)), WEIGHT),
        (write(tmp_path / "b.safetensors", peft(LINEAR, second)), -0.5),
    ]
    checkpoint = WithLoras(DiffusersFolder(SD15), loras)
    state = load_network(Unet(checkpoint.json("unet/config.json")), checkpoint).state_dict()
    change = KOHYA * first["up"] @ first["down"] - 0.5 * second["up"] @ second["down"]
    check({k.removeprefix("model."): v for k, v in state.items()}, {f"{LINEAR}.weight": change})


def test_parts_that_the_checkpoint_lacks_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = kohya(LINEAR, linear()) | kohya(f"text_model.{TEXT}", linear(64), "lora_te2_")
    with caplog.at_level("INFO"):
        folded_unet(write(tmp_path / "l.safetensors", tensors))
    assert "1 modules left out: the checkpoint has no text_encoder_2" in caplog.text


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (kohya("down_blocks.7.conv", linear()), r"no modules lora_unet_down_blocks_7_conv"),
        (peft("nowhere", linear()), r"no modules unet\.nowhere"),
        (kohya(LINEAR, linear(64)), r"other shapes: lora_unet.*\[64, 4\].* for \[32, 32\]"),
        (kohya(LINEAR, {**linear(), "up": values(32, 5)}), "other shapes"),
        (kohya(LINEAR, {"down": values(RANK, 32)}), "has not both"),
        (kohya("text_projection", linear(), "lora_te2_"), "changes nothing.*text_encoder_2"),
        ({"lora_unet_x.hada_w1_a": values(2, 2)}, r"unknown tensors lora_unet_x\.hada_w1_a"),
        ({f"unet.{LINEAR}.dora_scale": values(2, 2)}, "unknown tensors"),
        ({"emb_params": values(2, 32)}, "unknown tensors emb_params"),
        ({}, "it is empty"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        folded_unet(write(tmp_path / "l.safetensors", tensors, format="pt"))


@pytest.mark.parametrize(
    ("settings", "message"), [('{"unet.use_dora": true}', "a DoRA"), ("{", "not readable")]
)
def test_metadata_that_changes_the_formula_is_refused(
    tmp_path: Path, settings: str, message: str
) -> None:
    path = tmp_path / "l.safetensors"
    write(path, peft(LINEAR, linear()), lora_adapter_metadata=settings)
    with pytest.raises(CheckpointError, match=message):
        folded_unet(path)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can run any code"):
        folded_unet(tmp_path / "l.pt")


def test_a_missing_file_and_a_wrong_weight_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such LoRA"):
        folded_unet(tmp_path / "l.safetensors")
    lora = write(tmp_path / "l.safetensors", kohya(LINEAR, linear()))
    with pytest.raises(BuildError, match="weight nan"):
        folded_unet(lora, float("nan"))


def test_weight_0_builds_what_is_built_without_and_another_weight_builds_anew(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = write(tmp_path / "l.safetensors", kohya(LINEAR, linear()))
    before = snapshot(built)
    descriptor = build(SD15, "sd15", built, loras=[(lora, 0.0)])
    after = snapshot(built)
    assert {name for name in after if after[name] != before[name]} == {"sd15.pipeline.json"}
    assert "loras/0/l.safetensors:0" in descriptor.source

    def stop(*args: object) -> None:
        raise BuildError("started")

    monkeypatch.setattr(builder, "_build_models", stop)
    build(SD15, "sd15", built, loras=[(lora, 0.0)])
    with pytest.raises(BuildError, match="started"):
        build(SD15, "sd15", built, loras=[(lora, 0.25)])
    write(lora, kohya(LINEAR, linear()), changed="yes")
    with pytest.raises(BuildError, match="started"):
        build(SD15, "sd15", built, loras=[(lora, 0.0)])


def test_another_prediction_builds_anew(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise BuildError("started")

    monkeypatch.setattr(builder, "_build_models", stop)
    build(SD15, "sd15", built, prediction="epsilon")
    with pytest.raises(BuildError, match="started"):
        build(SD15, "sd15", built, prediction="v_prediction")


@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_diffusers_folds_the_same(tmp_path: Path, layout: str) -> None:
    pytest.importorskip("peft")
    mixin = DIFFUSERS.loaders.StableDiffusionLoraLoaderMixin
    make = {"kohya": kohya, "peft": peft}[layout]
    conv = {"down": values(RANK, 32, 3, 3), "up": values(64, RANK, 1, 1)}
    tensors = make(LINEAR, linear()) | make(CONV3, conv)
    folded = folded_unet(write(tmp_path / "l.safetensors", tensors))
    model = DIFFUSERS.UNet2DConditionModel.from_pretrained(SD15 / "unet", torch_dtype=torch.float32)
    state, alphas, *_ = mixin.lora_state_dict(tmp_path / "l.safetensors", unet_config=model.config)
    model.load_lora_adapter(state, network_alphas=alphas, prefix="unet")
    model.fuse_lora(lora_scale=WEIGHT)
    model.unload_lora()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(folded[name], value, rtol=1e-5, atol=1e-5)


def names(checkpoint: Checkpoint) -> list[str]:
    return [tensor.name for tensor in checkpoint.tensors("unet")]


def test_names_and_order_stay(tmp_path: Path) -> None:
    base = DiffusersFolder(SD15)
    lora = write(tmp_path / "l.safetensors", kohya(LINEAR, linear()))
    assert names(WithLoras(base, [(lora, 1.0)])) == names(base)
