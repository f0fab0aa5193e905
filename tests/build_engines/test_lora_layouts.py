"""LoRA files as people have them: every spelling of names is read, the rest refused."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from build_engines.checkpoint import DiffusersFolder
from build_engines.errors import CheckpointError
from build_engines.lora import WithLoras
from tests.build_engines.lora_files import (
    ALPHA,
    CONV1,
    CONV3,
    LINEAR,
    OUT,
    RANK,
    ROLES,
    SD15,
    SDXL,
    UNET,
    WEIGHT,
    Matrices,
    changed_text,
    check,
    folded_unet,
    kohya,
    linear,
    named,
    peft,
    values,
    write,
)

NORM = "down_blocks.0.attentions.0.norm"
DOTTED = (
    *("unet.", "", "base_model.model.", "unet.base_model.model.", "base_model.model.unet."),
    *("diffusion_model.", "model.diffusion_model."),
)
PUBLISHED = {
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q": LINEAR,
    "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0": OUT,
    "input_blocks.1.1.proj_in": CONV1,
    "input_blocks.3.0.in_layers.2": CONV3,
    "middle_block.1.transformer_blocks.0.attn1.to_k": (
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    ),
    "middle_block.2.emb_layers.1": "mid_block.resnets.1.time_emb_proj",
    "output_blocks.1.1.conv": "up_blocks.0.upsamplers.0.conv",
    "time_embed.0": "time_embedding.linear_1",
    "out.2": "conv_out",
}


@pytest.mark.parametrize(("prefix", "roles"), list(product(DOTTED, ROLES)))
@pytest.mark.parametrize("target", [LINEAR, OUT])
def test_dotted_names_of_the_unet(tmp_path: Path, prefix: str, roles: str, target: str) -> None:
    lora = linear()
    tensors = named(f"{prefix}{target}", lora, ROLES[roles])
    folded = folded_unet(write(tmp_path / "l.safetensors", tensors))
    check(folded, {f"{target}.weight": WEIGHT * lora["up"] @ lora["down"]})


@pytest.mark.parametrize("prefix", ["unet.", ""])
@pytest.mark.parametrize("target", [LINEAR, OUT])
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_names_of_attention_processors(
    tmp_path: Path, prefix: str, target: str, alpha: float | None
) -> None:
    lora = linear()
    stem = f"{prefix}{target.removesuffix('.0').replace('.to_', '.processor.to_')}_lora"
    tensors = named(stem, lora, ("down.weight", "up.weight"))
    if alpha is not None:
        tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    folded = folded_unet(write(tmp_path / "l.safetensors", tensors))
    scale = WEIGHT * (1 if alpha is None else alpha / RANK)
    check(folded, {f"{target}.weight": scale * lora["up"] @ lora["down"]})


@pytest.mark.parametrize("prefix", [*DOTTED, "lora_unet_"])
@pytest.mark.parametrize("published", PUBLISHED)
def test_published_names_of_the_unet(tmp_path: Path, prefix: str, published: str) -> None:
    name = PUBLISHED[published]
    weight = load_file(UNET)[f"{name}.weight"]
    lora = {
        "down": values(RANK, *weight.shape[1:]),
        "up": values(weight.shape[0], RANK, *(1 for _ in weight.shape[2:])),
    }
    stem = prefix + (published.replace(".", "_") if prefix == "lora_unet_" else published)
    tensors = named(stem, lora, ROLES["kohya"])
    folded = folded_unet(write(tmp_path / "l.safetensors", tensors))
    change = lora["up"].flatten(1) @ lora["down"].flatten(1)
    check(folded, {f"{name}.weight": WEIGHT * change.reshape(weight.shape)})


@pytest.mark.parametrize(
    ("prefix", "base", "part"),
    [
        *((prefix, SD15, "text_encoder") for prefix in ("", "base_model.model.", "lora_te_")),
        *(
            (prefix, base, "text_encoder")
            for base in (SD15, SDXL)
            for prefix in (
                *("lora_te1_", "text_encoder.", "text_encoder.base_model.model."),
                *("base_model.model.text_encoder.", "text_encoders.clip_l.transformer."),
            )
        ),
        ("text_encoders.clip_h.transformer.", SD15, "text_encoder"),
        ("lora_te2_", SDXL, "text_encoder_2"),
        ("text_encoder_2.", SDXL, "text_encoder_2"),
        ("text_encoder_2.base_model.model.", SDXL, "text_encoder_2"),
        ("text_encoders.clip_g.transformer.", SDXL, "text_encoder_2"),
    ],
)
@pytest.mark.parametrize("text_model", ["text_model.", ""])
def test_names_of_text_encoders(
    tmp_path: Path, prefix: str, base: Path, part: str, text_model: str
) -> None:
    name, lora = "encoder.layers.0.self_attn.q_proj", linear()
    module = f"{text_model}{name}"
    stem = prefix + (module.replace(".", "_") if prefix.startswith("lora_te") else module)
    file = write(tmp_path / "l.safetensors", named(stem, lora))
    ((found, change),) = changed_text(part, file, base).items()
    assert found.endswith(f"{name}.weight")
    torch.testing.assert_close(change, WEIGHT * lora["up"] @ lora["down"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["q", "k", "v", "out"])
def test_old_names_of_a_text_encoders_projections(tmp_path: Path, which: str) -> None:
    layer, lora = "text_encoder.text_model.encoder.layers.0.self_attn", linear()
    tensors = named(f"{layer}.to_{which}_lora", lora, ("down.weight", "up.weight"))
    ((found, _),) = changed_text(
        "text_encoder", write(tmp_path / "l.safetensors", tensors), SD15
    ).items()
    assert found.endswith(f"encoder.layers.0.self_attn.{which}_proj.weight")


def test_a_name_without_prefix_goes_to_the_one_network_that_has_the_module(tmp_path: Path) -> None:
    file = write(tmp_path / "l.safetensors", named("text_projection", linear()))
    assert len(changed_text("text_encoder_2", file, SDXL)) == 1
    assert changed_text("text_encoder", file, SDXL) == {}


def test_a_name_without_prefix_that_two_networks_have_is_refused(tmp_path: Path) -> None:
    name = "text_model.encoder.layers.0.self_attn.q_proj"
    file = write(tmp_path / "l.safetensors", named(name, linear()))
    with pytest.raises(
        CheckpointError, match=f"{name} is in text_encoder and in text_encoder_2: its name needs"
    ):
        WithLoras(DiffusersFolder(SDXL), [(file, 1.0)])


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        (f"diffusion_model.{CONV3}.diff", f"{CONV3}.weight"),
        ("diffusion_model.input_blocks.3.0.in_layers.2.diff_b", f"{CONV3}.bias"),
        (f"lora_unet_{NORM.replace('.', '_')}.w_norm", f"{NORM}.weight"),
        (f"lora_unet_{NORM.replace('.', '_')}.b_norm", f"{NORM}.bias"),
        (f"unet.{NORM}.diff", f"{NORM}.weight"),
    ],
)
def test_differences_of_whole_tensors_are_added(tmp_path: Path, key: str, tensor: str) -> None:
    difference = values(*load_file(UNET)[tensor].shape)
    folded = folded_unet(write(tmp_path / "l.safetensors", {key: difference}))
    check(folded, {tensor: WEIGHT * difference})


def test_a_difference_of_the_bias_beside_matrices(tmp_path: Path) -> None:
    lora, bias = linear(), values(32)
    tensors = kohya(OUT, lora) | {f"lora_unet_{OUT.replace('.', '_')}.diff_b": bias}
    folded = folded_unet(write(tmp_path / "l.safetensors", tensors))
    change = WEIGHT * ALPHA / RANK * lora["up"] @ lora["down"]
    check(folded, {f"{OUT}.weight": change, f"{OUT}.bias": WEIGHT * bias})


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector", "DoRA"),
        ("lora_magnitude_vector.default.weight", "DoRA"),
        ("hada_w1_a", "LoHa"),
        ("hada_t2", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("lokr_w2_b", "LoKr"),
        ("oft_blocks", "OFT"),
        ("boft_R", "OFT"),
        ("a1.weight", "GLoRA"),
        ("on_input", "IA3"),
        ("scalar", "LyCORIS' trained scalar"),
        ("lora_embedding_A", "LoRA of an embedding"),
        ("lora_B.bias", "LoRA with a bias"),
        ("lora_B.default.bias", "LoRA with a bias"),
        ("set_weight", "replaced weight"),
        ("modules_to_save.weight", "replaced weight"),
        ("weight", "whole weight"),
    ],
)
@pytest.mark.parametrize("stem", [f"unet.{LINEAR}", "lora_unet_mid_block_resnets_0_conv1"])
def test_other_kinds_are_refused_by_module_and_kind(
    tmp_path: Path, stem: str, key: str, kind: str
) -> None:
    tensors = named(stem, linear()) | {f"{stem}.{key}": values(2, 2)}
    with pytest.raises(CheckpointError, match=rf"l\.safetensors: .*, not {kind} of {stem}$"):
        folded_unet(write(tmp_path / "l.safetensors", tensors))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("role", ["lora_down.weight", "lora_up.weight", "alpha", "diff_b"])
def test_values_that_are_not_finite_are_refused_when_the_file_is_opened(
    tmp_path: Path, value: float, role: str
) -> None:
    stem = f"lora_unet_{OUT.replace('.', '_')}"
    tensors = kohya(OUT, linear()) | {f"{stem}.diff_b": values(32)}
    tensors[f"{stem}.{role}"].view(-1)[-1] = value
    file = write(tmp_path / "l.safetensors", tensors)
    with pytest.raises(
        CheckpointError, match=rf"l\.safetensors: {stem}\.{role} has values that are NaN or infin"
    ):
        WithLoras(DiffusersFolder(SD15), [(file, 0.0)])


def test_a_change_beyond_float32_is_refused_when_it_is_folded_in(tmp_path: Path) -> None:
    tensors = {name: 1e30 * value for name, value in peft(LINEAR, linear()).items()}
    with pytest.raises(CheckpointError, match=rf"l\.safetensors: unet\.{LINEAR}: .*beyond float32"):
        folded_unet(write(tmp_path / "l.safetensors", tensors))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (kohya(LINEAR, linear()), "are one module"),
        (named(f"unet.{LINEAR}", linear(), ROLES["diffusers"]), "two tensors of one role"),
        ({f"unet.{LINEAR}.alpha": values(2)}, r"alpha has shape \[2\]; one number"),
        ({f"unet.{OUT}.alpha": torch.tensor(1.0)}, "has not both"),
        ({f"unet.{OUT}.lora_mid.weight": values(2, 2)}, "has not both"),
        (
            {f"unet.{OUT}.diff": values(32, 32), f"unet.{OUT}.alpha": torch.tensor(1.0)},
            "an alpha, but no matrices",
        ),
        ({f"unet.{OUT}.diff": values(32, 31)}, r"other shapes: unet.* for \[32, 32\]"),
        ({f"unet.{OUT}.diff_b": values(31)}, r"other shapes: unet.* for \[32\]"),
        ({f"unet.{LINEAR}.diff_b": values(32)}, f"no modules unet.{LINEAR}"),  # it has no bias
        (named(f"unet.{NORM}", linear()), r"other shapes: .* for \[32\]"),
    ],
)
def test_files_that_contradict_themselves_or_the_checkpoint(
    tmp_path: Path, more: Matrices, message: str
) -> None:
    tensors = named(f"unet.{LINEAR}", linear()) | more
    with pytest.raises(CheckpointError, match=message):
        folded_unet(write(tmp_path / "l.safetensors", tensors))
