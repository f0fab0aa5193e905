"""LoRAs are folded into the weights by the formula, whichever layout their file has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers.loaders
import pytest
import torch
from safetensors.torch import load_file

from build_engines import build, builder
from build_engines.checkpoint import Checkpoint, DiffusersFolder
from build_engines.errors import BuildError, CheckpointError
from build_engines.lora import WithLoras
from build_engines.weights import load_network
from networks import ClipTextEncoder, SdxlTextEncoder2, Unet
from tests.build_engines.conftest import snapshot
from tests.build_engines.lora_files import (
    ALPHA,
    CONV1,
    CONV3,
    KOHYA,
    LINEAR,
    RANK,
    SD15,
    SDXL,
    TEXT,
    UNET,
    WEIGHT,
    check,
    folded_unet,
    kohya,
    linear,
    peft,
    values,
    write,
)
from tests.build_engines.single_files import write_single_file

DIFFUSERS: Any = diffusers  # its classes are not typed


def test_linear(tmp_path: Path) -> None:
    lora = linear()
    folded = folded_unet(write(tmp_path / "l.safetensors", kohya(LINEAR, lora)))
    check(folded, {f"{LINEAR}.weight": KOHYA * lora["up"] @ lora["down"]})


def test_linear_with_a_matrix_in_the_middle(tmp_path: Path) -> None:
    lora = {**linear(), "mid": values(RANK, RANK)}
    folded = folded_unet(write(tmp_path / "l.safetensors", kohya(LINEAR, lora)))
    check(folded, {f"{LINEAR}.weight": KOHYA * lora["up"] @ lora["mid"] @ lora["down"]})


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
    assert "1 modules left out: there is no text_encoder_2" in caplog.text


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (kohya("down_blocks.7.conv", linear()), r"no modules lora_unet_down_blocks_7_conv"),
        (peft("nowhere", linear()), r"no modules unet\.nowhere"),
        (kohya(LINEAR, linear(64)), r"other shapes: lora_unet.*\[64, 4\].* for \[32, 32\]"),
        (kohya(LINEAR, {**linear(), "up": values(32, 5)}), "other shapes"),
        (kohya(LINEAR, {"down": values(0, 32), "up": values(32, 0)}), "other shapes"),
        (kohya(LINEAR, {"down": values(4), "up": values(4)}), "other shapes"),
        (kohya(LINEAR, {"down": values(RANK, 32)}), "has not both"),
        (kohya("text_projection", linear(), "lora_te2_"), "changes nothing.*text_encoder_2"),
        ({"emb_params": values(2, 32)}, "not a LoRA of a known layout: tensors emb_params"),
        ({}, "it is empty"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        folded_unet(write(tmp_path / "l.safetensors", tensors, format="pt"))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can run any code"):
        folded_unet(tmp_path / "l.pt")


def test_a_missing_file_and_a_wrong_weight_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such LoRA"):
        folded_unet(tmp_path / "l.safetensors")
    lora = write(tmp_path / "l.safetensors", kohya(LINEAR, linear()))
    with pytest.raises(CheckpointError, match=r"l\.safetensors is one, but '0\.8:abc'"):
        folded_unet(Path(f"{lora}:0.8:abc"))
    nan, inf = float("nan"), float("inf")
    for model, clip in ((nan, nan), (inf, 1.0), (1.0, nan)):
        with pytest.raises(BuildError, match=r"strengths .*(nan|inf).*; allowed: finite numbers"):
            WithLoras(DiffusersFolder(SD15), [(lora, model, clip)])


def both_parts() -> dict[str, torch.Tensor]:
    """A LoRA of the UNet and of the text encoder."""
    return kohya(LINEAR, linear()) | kohya(f"text_model.{TEXT}", linear(64), "lora_te_")


@pytest.mark.parametrize(
    ("model", "clip"), [(0.8, 0.5), (-0.6, -0.6), (0.8, 0.0), (0.0, 0.8), (-0.0, 0.0), (1.5, -2.0)]
)
def test_strengths_for_the_unet_and_the_text_encoders(
    tmp_path: Path, model: float, clip: float
) -> None:
    lora = write(tmp_path / "l.safetensors", both_parts())
    base = DiffusersFolder(SD15)
    checkpoint = WithLoras(base, [(lora, model, clip)])
    unet, text = linear(), linear(64)
    expected = {
        "unet": (LINEAR, model * ALPHA / RANK * unet["up"] @ unet["down"]),
        "text_encoder": (TEXT, clip * ALPHA / RANK * text["up"] @ text["down"]),
    }
    for part, (module, change) in expected.items():
        for before, after in zip(base.tensors(part), checkpoint.tensors(part), strict=True):
            added = change if before.name.endswith(f"{module}.weight") else torch.zeros(1)
            torch.testing.assert_close(after.read().float(), before.read().float() + added)
    (source,) = (name for name in checkpoint.source_files([], []) if name.startswith("loras/"))
    assert source == f"loras/0/l.safetensors:{model!r}:{clip!r}".replace(".0", "")


def test_one_strength_is_for_both(tmp_path: Path) -> None:
    lora = write(tmp_path / "l.safetensors", both_parts())
    base = DiffusersFolder(SD15)
    one, two = (WithLoras(base, [given]) for given in ((lora, 0.3), (lora, 0.3, 0.3)))
    assert one.source_files([], []) == two.source_files([], [])
    for part in ("unet", "text_encoder"):
        for first, second in zip(one.tensors(part), two.tensors(part), strict=True):
            assert torch.equal(first.read(), second.read())


@pytest.mark.parametrize(
    ("model", "clip", "changed"), [(0.0, 0.8, "sd15_text_encoder"), (0.8, 0.0, "sd15_unet")]
)
def test_a_strength_of_0_leaves_that_sides_network_as_it_was(
    tmp_path: Path, built: Path, model: float, clip: float, changed: str
) -> None:
    lora = write(tmp_path / "l.safetensors", both_parts())
    before = snapshot(built)
    build(SD15, "sd15", built, loras=[(lora, model, clip)])
    after = snapshot(built)
    models = {name.split("/")[0] for name in after if after[name] != before[name]}
    assert models == {"sd15.pipeline.json", changed}


def test_strength_0_builds_what_is_built_without_and_another_builds_anew(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = write(tmp_path / "l.safetensors", both_parts())
    before = snapshot(built)
    descriptor = build(SD15, "sd15", built, loras=[(lora, 0.0)])
    after = snapshot(built)
    assert {name for name in after if after[name] != before[name]} == {"sd15.pipeline.json"}
    assert "loras/0/l.safetensors:0:0" in descriptor.source

    def stop(*args: object) -> None:
        raise BuildError("started")

    monkeypatch.setattr(builder, "_build_models", stop)
    build(SD15, "sd15", built, loras=[(lora, 0.0, 0.0)])
    for model, clip in ((0.25, 0.0), (0.0, 0.25), (0.0, 1e-9)):
        with pytest.raises(BuildError, match="started"):
            build(SD15, "sd15", built, loras=[(lora, model, clip)])
    write(lora, both_parts(), changed="yes")
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
