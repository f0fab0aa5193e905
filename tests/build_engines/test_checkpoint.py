"""What is refused, and that the message says what and why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines.checkpoint import DiffusersFolder, read_tensors
from build_engines.errors import CheckpointError
from build_engines.families import SD1, detect
from build_engines.formats import open_checkpoint
from build_engines.weights import load_network
from networks import ClipTextEncoder, VaeDecoder
from tests.build_engines.conftest import edit

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def test_the_small_checkpoint_is_sd1(checkpoint: Path) -> None:
    assert detect(open_checkpoint(checkpoint)) is SD1


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "pytorch_model.bin"])
def test_a_pickle_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="can run any code"):
        open_checkpoint(tmp_path / name)


def test_a_pickle_in_the_folder_is_refused(checkpoint: Path) -> None:
    (checkpoint / UNET).rename((checkpoint / UNET).with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"model\.bin: pickle .* can run any code"):
        SD1.source_files(open_checkpoint(checkpoint))


@pytest.mark.parametrize(
    "file",
    ["unet/config.json", "vae/config.json", "tokenizer/merges.txt", "tokenizer/vocab.json"],
)
def test_a_missing_file_is_named(checkpoint: Path, file: str) -> None:
    (checkpoint / file).unlink()
    with pytest.raises(CheckpointError, match=f"{file} is missing"):
        opened = open_checkpoint(checkpoint)
        detect(opened).source_files(opened)


@pytest.mark.parametrize("file", [UNET, TEXT, VAE])
def test_missing_weights_are_named(checkpoint: Path, file: str) -> None:
    (checkpoint / file).unlink()
    with pytest.raises(CheckpointError, match=f"{file.split('/')[0]} has no weights"):
        SD1.source_files(open_checkpoint(checkpoint))


def test_a_path_with_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a file"):
        open_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("unet/config.json", "in_channels", 8),
        ("unet/config.json", "addition_embed_type", "text_time"),
        ("text_encoder/config.json", "hidden_act", "gelu"),
    ],
)
def test_another_family_is_refused(checkpoint: Path, file: str, field: str, value: object) -> None:
    edit(checkpoint / file, **{field: value})
    with pytest.raises(CheckpointError, match=f"{file} has {field} {value!r}"):
        detect(open_checkpoint(checkpoint))


@pytest.mark.parametrize("name", ["text_projection.weight", "logit_scale"])
def test_what_a_text_encoder_does_not_use_is_left_out(checkpoint: Path, name: str) -> None:
    """As saved with CLIP's projection, which Stable Diffusion 1.x has no use for."""
    state = load_file(checkpoint / TEXT)
    save_file({**state, name: torch.zeros(32, 32)}, checkpoint / TEXT)
    assert load_network(text_encoder(checkpoint), DiffusersFolder(checkpoint)).state_dict().keys()


def test_broken_json_is_refused(checkpoint: Path) -> None:
    (checkpoint / "unet/config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not readable as JSON"):
        detect(open_checkpoint(checkpoint))


def text_encoder(checkpoint: Path) -> ClipTextEncoder:
    return ClipTextEncoder(DiffusersFolder(checkpoint).json("text_encoder/config.json"))


def test_a_cut_off_weight_file_is_refused(checkpoint: Path) -> None:
    content = (checkpoint / TEXT).read_bytes()
    (checkpoint / TEXT).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_network(text_encoder(checkpoint), DiffusersFolder(checkpoint))


def test_tensors_that_do_not_fit_are_named(checkpoint: Path) -> None:
    state = load_file(checkpoint / TEXT)
    state["stray"] = state.pop("final_layer_norm.bias")
    save_file(state, checkpoint / TEXT)
    with pytest.raises(CheckpointError, match=r"1 missing \(final_layer_norm.*1 extra \(stray\)"):
        load_network(text_encoder(checkpoint), DiffusersFolder(checkpoint))


def test_a_tensor_of_another_shape_is_named(checkpoint: Path) -> None:
    edit(checkpoint / "text_encoder/config.json", intermediate_size=96)
    with pytest.raises(CheckpointError, match=r"shape \[64\].*asks for \[96\]"):
        load_network(text_encoder(checkpoint), DiffusersFolder(checkpoint))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_when_they_are_read(
    checkpoint: Path, dtype: torch.dtype, value: float
) -> None:
    state = load_file(checkpoint / TEXT)
    spoilt = state["final_layer_norm.bias"]
    spoilt[-1] = value
    save_file({**state, "final_layer_norm.bias": spoilt.to(dtype)}, checkpoint / TEXT)
    with pytest.raises(
        CheckpointError,
        match=r"text_encoder/model\.safetensors: final_layer_norm\.bias has values that are NaN or",
    ):
        load_network(text_encoder(checkpoint), DiffusersFolder(checkpoint))


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_the_ends_of_each_type_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    ends = torch.tensor([limits.min, limits.max]).to(dtype)
    save_file({"ends": ends, "none": ends[:0]}, tmp_path / "m.safetensors")
    found = {each.name: each.read() for each in read_tensors(tmp_path / "m.safetensors")}
    assert found["ends"].float().tolist() == [limits.min, limits.max]
    assert found["none"].dtype == dtype


def test_values_beyond_float32_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([0, 1e39], dtype=torch.float64)}, tmp_path / "m.safetensors")
    (tensor,) = read_tensors(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="a has values that are NaN or infinite"):
        tensor.read()


@torch.inference_mode()
def test_older_names_of_the_text_encoder(checkpoint: Path) -> None:
    ids = torch.arange(77)[None]
    expected = load_network(text_encoder(checkpoint), DiffusersFolder(checkpoint))(ids)
    state = {f"text_model.{k}": v for k, v in load_file(checkpoint / TEXT).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, checkpoint / TEXT)
    assert torch.equal(
        load_network(text_encoder(checkpoint), DiffusersFolder(checkpoint))(ids), expected
    )


@torch.inference_mode()
def test_older_names_of_the_vae(checkpoint: Path) -> None:
    opened = DiffusersFolder(checkpoint)
    vae = VaeDecoder(opened.json("vae/config.json"))
    latent = torch.randn((1, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    expected = load_network(vae, opened)(latent)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = load_file(checkpoint / VAE)
    for new, name in old.items():
        state = {key.replace(new, name): value for key, value in state.items()}
    assert any(".query." in key for key in state)
    save_file(state, checkpoint / VAE)
    assert torch.equal(load_network(vae, opened)(latent), expected)
