"""A single file is read as the diffusers folder that it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file

from build_engines.checkpoint import Checkpoint, DiffusersFolder
from build_engines.errors import CheckpointError
from build_engines.families import SD1, SD2, detect
from build_engines.formats import open_checkpoint
from build_engines.pipeline import open_pipeline
from build_engines.single_file import vocabulary
from build_engines.weights import load_network
from examples.random_checkpoint import write_checkpoint
from examples.random_checkpoint import write_single_file as write_random_file
from networks import ClipTextEncoder, Unet, VaeDecoder
from tests.build_engines.conftest import edit
from tests.build_engines.single_files import single_file_tensors, write_single_file
from tests.conftest import CHECKPOINTS

SD15 = CHECKPOINTS / "sd15"
DIFFUSERS: Any = single_file_utils  # its functions are not typed
FAMILIES = [("sd15", "sd1"), ("sdxl", "sdxl"), ("sdxl-refiner", "sdxl_refiner")]
NOT_IN_SHAPES = {"num_attention_heads", "attention_head_dim", "projection_dim"}


def values(checkpoint: Checkpoint, part: str) -> dict[str, torch.Tensor]:
    """The tensors of a part by the names of today's transformers."""
    found = {}
    for tensor in checkpoint.tensors(part):
        value = tensor.read()
        assert tuple(value.shape) == tensor.shape
        found[tensor.name.removeprefix("text_model.")] = value
    return found


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda pair: str(pair[1]))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A diffusers folder, and the single file made of it."""
    name, family = request.param
    path = tmp_path_factory.mktemp("single") / f"{name}.safetensors"
    return CHECKPOINTS / name, write_single_file(path, CHECKPOINTS / name, family)


def parts(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/*.safetensors"))


def test_all_tensors_are_those_of_the_folder(pair: tuple[Path, Path]) -> None:
    folder, file = (open_checkpoint(path) for path in pair)
    for part in parts(folder.root):
        assert same(values(file, part), values(folder, part)), part


def test_all_sizes_are_those_of_the_folder(pair: tuple[Path, Path]) -> None:
    folder, file = (open_checkpoint(path) for path in pair)
    for part in parts(folder.root):
        found, expected = file.json(f"{part}/config.json"), folder.json(f"{part}/config.json")
        depth = expected.get("transformer_layers_per_block")
        if isinstance(depth, int):
            expected["transformer_layers_per_block"] = [depth] * len(expected["block_out_channels"])
        for field in found.keys() - NOT_IN_SHAPES:
            assert found[field] == expected[field], f"{part}: {field}"


def test_modules_load_as_the_folders(pair: tuple[Path, Path]) -> None:
    """The whole way of a build up to the loaded networks."""
    file, folder = (open_pipeline("x", open_checkpoint(path), {}) for path in reversed(pair))
    assert file.family is folder.family
    assert (file.schedule, file.prediction) == (folder.schedule, folder.prediction)
    for (own, one), (theirs, other) in zip(file.exports, folder.exports, strict=True):
        assert own.role == theirs.role
        assert same(
            load_network(own, one).state_dict(), load_network(theirs, other).state_dict()
        ), own.role


def test_tensors_are_those_of_diffusers_converters(pair: tuple[Path, Path]) -> None:
    folder, path = pair
    file, configs = open_checkpoint(path), DiffusersFolder(folder)
    raw = dict(single_file_tensors(folder, dict(FAMILIES)[folder.name]))
    unet = DIFFUSERS.convert_ldm_unet_checkpoint(raw, configs.json("unet/config.json"))
    vae = DIFFUSERS.convert_ldm_vae_checkpoint(raw, configs.json("vae/config.json"))
    assert same(values(file, "unet"), unet)
    assert same(values(file, "vae"), vae)


def test_vocabulary_is_that_of_the_folder(pair: tuple[Path, Path]) -> None:
    folder, file = (open_checkpoint(path) for path in pair)
    for part in sorted(path.parent.name for path in pair[0].glob("*/vocab.json")):
        own, theirs = file.vocabulary(part), folder.vocabulary(part)
        assert (own.tokens, own.merges, own.padding) == (
            theirs.tokens,
            theirs.merges,
            theirs.padding,
        )


def sd1_file(folder: Path, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**single_file_tensors(folder, "sd1"), **more}


@pytest.fixture(scope="module")
def sd15_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single_file(tmp_path_factory.mktemp("sd15") / "m.safetensors", SD15, "sd1")


@torch.inference_mode()
@pytest.mark.parametrize("network", [ClipTextEncoder, Unet, VaeDecoder])
def test_networks_load_and_compute_the_same(
    sd15_file: Path, checkpoint: Path, network: type[Any]
) -> None:
    # Heads 64 wide are the family's; the folder's are 8 wide.
    edit(checkpoint / "text_encoder/config.json", num_attention_heads=1)
    results = []
    for opened in (open_checkpoint(sd15_file), open_checkpoint(checkpoint)):
        export = network(opened.json(f"{network.part}/config.json"))
        inputs = export.example(export.cases()[0], torch.Generator().manual_seed(0))
        results.append(load_network(export, opened)(*inputs.values()))
    assert torch.equal(*results)


def test_only_the_parts_are_read(tmp_path: Path) -> None:
    """Averages, losses and constants of the training are in many files."""
    extra = {
        "model_ema.decay": torch.zeros(()),
        "alphas_cumprod": torch.ones(1000),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    path = tmp_path / "m.safetensors"
    save_file(sd1_file(SD15, **extra), path)
    file, folder = open_checkpoint(path), open_checkpoint(SD15)
    assert same(values(file, "vae"), values(folder, "vae"))
    encoder = ClipTextEncoder(file.json("text_encoder/config.json"))
    assert load_network(encoder, file).state_dict()


def _old_clip(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.replace(".transformer.text_model.", ".transformer."): tensors[name] for name in tensors
    }


def _clip_projection(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CLIP's own projection beside the first encoder, which does not use it."""
    (stem,) = {name.split("text_model.")[0] for name in tensors if ".text_model." in name}
    extra = {
        f"{stem}text_projection.weight": torch.zeros(32, 32),
        f"{stem}logit_scale": torch.ones(()),
    }
    return {**tensors, **extra}


def _linear_projection(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP's projection as the weight of a layer."""
    (name,) = (name for name in tensors if name.endswith(".text_projection"))
    rest = {key: value for key, value in tensors.items() if key != name}
    return {**rest, f"{name}.weight": tensors[name].T.contiguous()}


def _new_vae_attention(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The VAE's attention by diffusers' names, as some trainers write it, each [C, C]."""
    new = {".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".proj_out.": ".to_out.0."}
    renamed = {}
    for name, value in tensors.items():
        if name.startswith("first_stage_model.") and ".attn_1." in name:
            for old, current in new.items():
                name = name.replace(old, current)
            value = value.flatten(1) if value.dim() == 4 else value
        renamed[name] = value
    assert renamed.keys() != tensors.keys()
    return renamed


Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
SPELLINGS: list[tuple[str, str, Change]] = [
    ("sd15", "sd1", _old_clip),
    ("sd15", "sd1", _clip_projection),
    ("sd15", "sd1", _new_vae_attention),
    ("sdxl", "sdxl", _old_clip),
    ("sdxl", "sdxl", _clip_projection),
    ("sdxl", "sdxl", _linear_projection),
    ("sdxl", "sdxl", _new_vae_attention),
    ("sdxl-refiner", "sdxl_refiner", _linear_projection),
]


def networks(path: Path) -> list[dict[str, torch.Tensor]]:
    """The weights of all networks, as a build loads them."""
    pipeline = open_pipeline("x", open_checkpoint(path), {}, "epsilon")
    return [load_network(own, one).state_dict() for own, one in pipeline.exports]


@pytest.mark.parametrize(("name", "family", "change"), SPELLINGS)
def test_other_spellings_of_the_same_checkpoint(
    tmp_path: Path, name: str, family: str, change: Change
) -> None:
    plain = write_single_file(tmp_path / "plain.safetensors", CHECKPOINTS / name, family)
    other = tmp_path / "other.safetensors"
    save_file(change(load_file(plain)), other)
    assert all(map(same, networks(other), networks(plain)))


def test_two_spellings_of_one_tensor_are_refused(tmp_path: Path) -> None:
    tensors = sd1_file(SD15)
    name = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
    tensors[name.replace(".text_model.", ".")] = tensors[name].clone()
    message = refusal(tmp_path / "m.safetensors", tensors)
    assert "are the same" in message


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_every_type_of_stored_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: value.to(dtype) for name, value in sd1_file(SD15).items()}
    save_file(stored, tmp_path / "m.safetensors")
    rounded = {name: value.float() for name, value in stored.items()}
    save_file(rounded, tmp_path / "rounded.safetensors")
    found, expected = (networks(tmp_path / f"{name}.safetensors") for name in ("m", "rounded"))
    assert all(map(same, found, expected))


def test_nine_channels(tmp_path: Path) -> None:
    folder = CHECKPOINTS / "sd15-inpaint"
    path = write_single_file(tmp_path / "m.safetensors", folder, "sd1")
    assert open_checkpoint(path).json("unet/config.json")["in_channels"] == 9


@pytest.mark.parametrize(("last", "used"), [(4, 3), (23, 23)])
def test_sd2_leaves_out_the_last_text_layer(tmp_path: Path, last: int, used: int) -> None:
    """Its published files have one layer more than is run; converted ones have lost it."""
    tensors = single_file_tensors(SD15, "sd2")
    stem = "cond_stage_model.model.transformer.resblocks."
    for name in [name for name in tensors if name.startswith(f"{stem}2.")]:
        for layer in range(3, last):
            tensors[name.replace(f"{stem}2.", f"{stem}{layer}.")] = tensors[name].clone()
    tensors["cond_stage_model.model.logit_scale"] = torch.ones(())
    tensors["cond_stage_model.model.text_projection"] = torch.ones((32, 32))
    save_file(tensors, tmp_path / "m.safetensors")
    file = open_checkpoint(tmp_path / "m.safetensors")
    config = file.json("text_encoder/config.json")
    assert (config["num_hidden_layers"], config["hidden_act"]) == (used, "gelu")
    assert file.vocabulary("tokenizer").padding == "!"
    found, expected = values(file, "text_encoder"), values(open_checkpoint(SD15), "text_encoder")
    assert same({name: found[name] for name in expected}, expected)
    assert {name.split(".")[2] for name in found if ".layers." in name} == {
        str(layer) for layer in range(used)
    }


def refusal(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as refused:
        open_checkpoint(path)
    return str(refused.value)


def test_an_unknown_file_is_refused_with_what_was_found(tmp_path: Path) -> None:
    message = refusal(
        tmp_path / "m.safetensors",
        {f"other_blocks.{i}.img_attn.weight": torch.zeros(1) for i in range(3)},
    )
    for text in ("Looked for", "Stable Diffusion 1.x: cond_stage_model", "other_blocks.0 (1)"):
        assert text in message


def test_a_file_without_a_vae_is_refused(tmp_path: Path) -> None:
    whole = sd1_file(SD15)
    tensors = {name: v for name, v in whole.items() if not name.startswith("first_stage_model.")}
    message = refusal(tmp_path / "m.safetensors", tensors)
    assert "no first_stage_model.decoder.conv_in.weight" in message


def test_text_of_another_width_is_refused(tmp_path: Path) -> None:
    tensors = sd1_file(SD15)
    tensors["model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"] = (
        torch.zeros((64, 48))
    )
    message = refusal(tmp_path / "m.safetensors", tensors)
    assert "the UNet takes text 48 wide" in message


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = sd1_file(SD15)
    del tensors["model.diffusion_model.out.2.weight"]
    message = refusal(tmp_path / "m.safetensors", tensors)
    assert "model.diffusion_model.out.2.weight is missing" in message


def test_a_stray_tensor_is_refused_when_loaded(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(sd1_file(SD15, **{"model.diffusion_model.stray.weight": torch.zeros(1)}), path)
    file = open_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"1 extra \(stray\.weight\)"):
        load_network(Unet(file.json("unet/config.json")), file)


def test_a_cut_off_file_is_refused(sd15_file: Path, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(sd15_file.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        open_checkpoint(tmp_path / "m.safetensors")


def test_a_missing_vocabulary_says_what_to_install(
    sd15_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(vocabulary, "distribution", absent)
    with pytest.raises(CheckpointError, match="pip install openai-clip"):
        open_checkpoint(sd15_file).source_files(["unet"], ["tokenizer"])


def test_source_files_do_not_depend_on_the_place(sd15_file: Path) -> None:
    files = open_checkpoint(sd15_file).source_files(["unet", "vae"], ["tokenizer"])
    assert files.keys() == {"m.safetensors", "tokenizer/bpe_simple_vocab_16e6.txt.gz"}


def test_other_files_are_named_when_asked_for(sd15_file: Path) -> None:
    file = open_checkpoint(sd15_file)
    assert file.has("unet")
    assert not file.has("text_encoder_2")
    with pytest.raises(CheckpointError, match=r"Diffusion 1\.x file has no tokenizer_2"):
        file.vocabulary("tokenizer_2")
    with pytest.raises(CheckpointError, match=r"no text_encoder_2/config\.json"):
        file.json("text_encoder_2/config.json")
    assert json.dumps(file.json("unet/config.json"))


def test_both_layouts_of_a_random_checkpoint_are_the_same(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "folder", "tiny", SD15 / "tokenizer")
    write_random_file(tmp_path / "m.safetensors", "tiny")
    folder, file = (open_checkpoint(tmp_path / name) for name in ("folder", "m.safetensors"))
    for part in parts(tmp_path / "folder"):
        assert same(values(file, part), values(folder, part))
    assert detect(file) is detect(folder) is SD1


def test_sd2_is_told_from_sd1(checkpoint: Path, tmp_path: Path) -> None:
    unet = checkpoint / "unet/diffusion_pytorch_model.safetensors"
    linear = {
        name: value.flatten(1) if name.endswith(("proj_in.weight", "proj_out.weight")) else value
        for name, value in load_file(unet).items()
    }
    save_file(linear, unet)
    edit(checkpoint / "unet/config.json", use_linear_projection=True)
    tensors = single_file_tensors(checkpoint, "sd2")
    stem = "cond_stage_model.model.transformer.resblocks."
    for name in [name for name in tensors if name.startswith(f"{stem}2.")]:
        tensors[name.replace(f"{stem}2.", f"{stem}3.")] = tensors[name].clone()
    save_file(tensors, tmp_path / "m.safetensors")
    pipeline = open_pipeline("x", open_checkpoint(tmp_path / "m.safetensors"), {}, "v_prediction")
    assert (pipeline.family, pipeline.prediction) == (SD2, "v_prediction")
    state = load_network(pipeline.unet, pipeline.checkpoint).state_dict()
    assert same(state, {f"model.{name}": value.float() for name, value in linear.items()})
    (encoder,) = pipeline.text_encoders
    assert load_network(encoder, pipeline.checkpoint).state_dict()
