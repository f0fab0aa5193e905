"""A LoRA's alpha, from tensors and from PEFT's settings, and files that the libraries saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from build_engines.checkpoint import DiffusersFolder
from build_engines.errors import CheckpointError
from build_engines.lora import WithLoras
from tests.build_engines.lora_files import (
    ALPHA,
    CONV3,
    LINEAR,
    OUT,
    RANK,
    SD15,
    WEIGHT,
    changed_text,
    check,
    folded_unet,
    kohya,
    linear,
    named,
    peft,
    write,
)
from tests.conftest import DATA

SAVED = DATA / "loras"
"""Saved by PEFT 0.21.2 and diffusers 0.41: ``save_pretrained`` of a UNet and of a text encoder,
``save_lora_adapter`` of the UNet, ``save_lora_weights`` of both."""


@pytest.mark.parametrize(
    "alpha", [torch.tensor(ALPHA), torch.tensor([ALPHA]), torch.tensor(2), torch.tensor(2.0).half()]
)
@pytest.mark.parametrize(
    "stem", [f"unet.{LINEAR}", LINEAR, f"lora_unet_{LINEAR.replace('.', '_')}"]
)
def test_alpha_as_a_tensor(tmp_path: Path, alpha: torch.Tensor, stem: str) -> None:
    lora = linear()
    tensors = named(stem, lora) | {f"{stem}.alpha": alpha}
    folded = folded_unet(write(tmp_path / "l.safetensors", tensors))
    check(folded, {f"{LINEAR}.weight": WEIGHT * ALPHA / RANK * lora["up"] @ lora["down"]})


SETTINGS: list[tuple[dict[str, Any], float]] = [
    ({"lora_alpha": 2, "r": RANK}, 2 / 4),
    ({"lora_alpha": 2, "use_rslora": True}, 2 / 2),
    ({"lora_alpha": 2, "alpha_pattern": {LINEAR: 6}}, 6 / 4),
    ({"lora_alpha": 2, "alpha_pattern": {"attn1.to_q": 6, "to_q": 8}}, 6 / 4),
    ({"lora_alpha": 2, "alpha_pattern": {rf"^{LINEAR}": 6}}, 6 / 4),
    ({"lora_alpha": 2, "alpha_pattern": {"^to_q": 6, "q": 8, "attn2.to_q": 9}}, 2 / 4),
    ({"lora_alpha": 2, "rank_pattern": {"to_q": 4}, "r": 64}, 2 / 4),
    ({"r": RANK}, 1.0),
    ({"peft_type": "LORA", "init_lora_weights": True, "use_dora": False}, 1.0),
    ({"lora_alpha": 2, "use_rslora": False, "use_dora": None}, 2 / 4),
]


@pytest.mark.parametrize(("settings", "scale"), SETTINGS)
@pytest.mark.parametrize(
    ("prefix", "where"),
    [("unet.", "metadata"), ("", "metadata"), ("base_model.model.", "beside")],
)
def test_alpha_of_pefts_settings(
    tmp_path: Path, prefix: str, where: str, settings: dict[str, Any], scale: float
) -> None:
    lora, tensors = linear(), named(f"{prefix}{LINEAR}", linear())
    path = tmp_path / "adapter_model.safetensors"
    if where == "metadata":
        text = json.dumps({f"{prefix}{name}": value for name, value in settings.items()})
        write(path, tensors, lora_adapter_metadata=text)
    else:
        write(path, tensors)
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    check(folded_unet(path), {f"{LINEAR}.weight": WEIGHT * scale * lora["up"] @ lora["down"]})


def test_settings_of_another_network_and_alpha_tensors_are_kept_apart(tmp_path: Path) -> None:
    lora = linear()
    text = json.dumps({"text_encoder.lora_alpha": 2})
    path = write(tmp_path / "a.safetensors", peft(LINEAR, lora), lora_adapter_metadata=text)
    check(folded_unet(path), {f"{LINEAR}.weight": WEIGHT * lora["up"] @ lora["down"]})
    text = json.dumps({"unet.lora_alpha": 8, "lora_alpha": 8})
    path = write(tmp_path / "b.safetensors", kohya(LINEAR, lora), lora_adapter_metadata=text)
    change = WEIGHT * ALPHA / RANK * lora["up"] @ lora["down"]
    check(folded_unet(path), {f"{LINEAR}.weight": change})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"unet.use_dora": true}', r"a DoRA \(use_dora\)"),
        ('{"peft_type": "LOHA"}', "peft_type LOHA; only LoRA"),
        ('{"unet.init_lora_weights": "pissa_niter_4"}', "init_lora_weights 'pissa_niter_4'"),
        ('{"unet.alpha_pattern": {"attn[12].to_q": 4}}', r"alpha_pattern 'attn\[12\]\.to_q'"),
        ('{"unet.lora_alpha": "many"}', f"alpha 'many' of {LINEAR}"),
        ('{"unet.lora_alpha": "8"}', f"alpha '8' of {LINEAR}; a finite number"),
        ('{"unet.lora_alpha": true}', f"alpha True of {LINEAR}; a finite number"),
        ('{"unet.use_rslora": "false"}', "use_rslora 'false'; true or false is expected"),
        ('{"use_rslora": 1}', "use_rslora 1; true or false is expected"),
        ('{"unet.use_dora": "false"}', "use_dora 'false'; true or false is expected"),
        ('{"unet.lora_alpha": NaN}', f"alpha nan of {LINEAR}; a finite number"),
        ('{"lora_alpha": Infinity}', f"alpha inf of {LINEAR}; a finite number"),
        ('{"alpha_pattern": {"to_q": 1' + "0" * 400 + "}}", f"alpha 10+ of {LINEAR}"),
        ('{"unet.alpha_pattern": [1]}', "alpha_pattern is not a JSON object"),
        ("{", r"l\.safetensors: lora_adapter_metadata: not readable as JSON"),
        ("[]", "lora_adapter_metadata: a JSON object is expected"),
    ],
)
def test_settings_that_are_no_plain_loras_are_refused(
    tmp_path: Path, settings: str, message: str
) -> None:
    path = tmp_path / "l.safetensors"
    write(path, peft(LINEAR, linear()), lora_adapter_metadata=settings)
    with pytest.raises(CheckpointError, match=message):
        folded_unet(path)


TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SAVED_SCALES = {f"{TO_K}.weight": 5 / 1, f"{OUT}.weight": 3 / 2, f"{CONV3}.weight": 3 / 2}


@pytest.mark.parametrize("name", ["peft_unet", "diffusers_unet", "diffusers_pipeline"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_what_the_libraries_save_is_read_with_its_alpha(name: str, as_folder: bool) -> None:
    (file,) = (SAVED / name).glob("*.safetensors")
    stored = {
        key.removeprefix("base_model.model.").removeprefix("unet."): value
        for key, value in load_file(file).items()
    }
    changes = {}
    for tensor, scale in SAVED_SCALES.items():
        up, down = (stored[tensor.replace(".weight", f".lora_{x}.weight")] for x in "BA")
        product = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        changes[tensor] = WEIGHT * scale * product
    check(folded_unet(SAVED / name if as_folder else file), changes)


@pytest.mark.parametrize("name", ["peft_text", "diffusers_pipeline"])
def test_a_saved_text_encoder_is_rank_stabilised(name: str) -> None:
    (file,) = (SAVED / name).glob("*.safetensors")
    stored = {key: value for key, value in load_file(file).items() if "q_proj" in key}
    changes = changed_text("text_encoder", SAVED / name, SD15)
    assert len(changes) == 3
    for found, change in changes.items():
        stem = found.removesuffix(".weight").split("encoder.layers")[1]
        up, down = (
            next(v for k, v in stored.items() if k.endswith(f"{stem}.lora_{x}.weight"))
            for x in "BA"
        )
        expected = WEIGHT * 4 / 2**0.5 * up @ down
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)


def test_the_settings_beside_a_file_are_part_of_the_source(tmp_path: Path) -> None:
    base = DiffusersFolder(SD15)
    sources = WithLoras(base, [(SAVED / "peft_unet", 1.0)]).source_files([], [])
    assert [name for name in sources if name.startswith("loras/")] == [
        "loras/0/adapter_model.safetensors:1:1",
        "loras/0/adapter_config.json",
    ]


def test_a_folder_without_a_lora_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors and no py"):
        folded_unet(tmp_path)
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(CheckpointError, match="can run any code"):
        folded_unet(tmp_path)


@pytest.mark.parametrize("name", ["peft_unet", "diffusers_unet", "diffusers_pipeline"])
def test_peft_merges_the_same(tmp_path: Path, name: str) -> None:
    peft_library = pytest.importorskip("peft")
    import diffusers

    library: Any = diffusers  # its classes are not typed
    model = library.UNet2DConditionModel.from_pretrained(SD15 / "unet", torch_dtype=torch.float32)
    if name == "peft_unet":
        model = peft_library.PeftModel.from_pretrained(model, SAVED / name).merge_and_unload()
    elif name == "diffusers_unet":
        model.load_lora_adapter(
            SAVED / name, prefix=None, weight_name="pytorch_lora_weights.safetensors"
        )
        model.fuse_lora()
        model.unload_lora()
    else:
        loader = library.StableDiffusionPipeline
        state, alphas, metadata = loader.lora_state_dict(SAVED / name, return_lora_metadata=True)
        loader.load_lora_into_unet(state, alphas, model, metadata=metadata)
        model.fuse_lora()
        model.unload_lora()
    folded = folded_unet(SAVED / name, 1.0)
    for tensor, value in model.state_dict().items():
        torch.testing.assert_close(folded[tensor], value, rtol=1e-5, atol=1e-5)
