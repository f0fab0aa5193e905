"""Checkpoints as the pinned diffusers and transformers save them build the same networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from build_engines.checkpoint import DiffusersFolder
from build_engines.errors import CheckpointError
from build_engines.formats import open_checkpoint
from build_engines.pipeline import SourcePipeline, open_pipeline
from build_engines.tokenizer import TOKENIZER_FILE, text_encoder_spec, write_tokenizer
from build_engines.weights import load_network
from tests.build_engines.conftest import copy_checkpoint, edit, make_sd2
from tests.build_engines.test_tokenizer import TEXTS
from tests.conftest import CHECKPOINTS, CONTROLNET, PIPELINES

_PIPELINE: Any = DiffusionPipeline  # diffusers' classes are not typed
_CONTROLNET: Any = ControlNetModel
FAMILIES = ("sd15", "sd15-inpaint", "sd15-v", "sd2", "sdxl", "sdxl-refiner")
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "sharded": {"max_shard_size": "500KB"},
    "variant": {"variant": "non_ema"},
    "sharded variant": {"max_shard_size": "500KB", "variant": "fp16"},
}
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=FAMILIES)
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param in PIPELINES:
        return CHECKPOINTS / str(request.param)
    return make_sd2(tmp_path_factory.mktemp("sd2") / "sd2")


def same_networks(one: SourcePipeline, other: SourcePipeline) -> bool:
    assert one.family is other.family
    assert (one.schedule, one.prediction) == (other.schedule, other.prediction)
    for (network, source), (twin, copy) in zip(one.exports, other.exports, strict=True):
        left, right = (
            load_network(*each).state_dict() for each in ((network, source), (twin, copy))
        )
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left), network.role
    return True


def same_text(one: SourcePipeline, other: SourcePipeline, folder: Path) -> None:
    """The tokenizers have the same file and the same special tokens."""
    for encoder, twin in zip(one.text_encoders, other.text_encoders, strict=True):
        files = []
        for name, pipeline in (("one", one), ("other", other)):
            (folder / name).mkdir(exist_ok=True)
            write_tokenizer(pipeline.checkpoint, encoder.tokenizer, folder / name)
            files.append((folder / name / TOKENIZER_FILE).read_bytes())
        assert files[0] == files[1]
        specs = [
            text_encoder_spec(pipeline.checkpoint, each, "x")
            for pipeline, each in ((one, encoder), (other, twin))
        ]
        assert specs[0] == specs[1]


@pytest.fixture(scope="module")
def loaded(original: Path) -> Any:
    """diffusers' pipeline."""
    return _PIPELINE.from_pretrained(original, torch_dtype=torch.float32)


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_pipeline_is_the_same(
    original: Path, loaded: Any, tmp_path: Path, way: str
) -> None:
    saved = tmp_path / "saved"
    loaded.save_pretrained(saved, **WAYS[way])
    assert not list(saved.glob("tokenizer*/vocab.json"))
    assert bool(list(saved.glob("unet/*.index.*json"))) is way.startswith("sharded")
    one, other = (open_pipeline("x", open_checkpoint(path), {}) for path in (original, saved))
    assert same_networks(one, other)
    same_text(one, other, tmp_path)
    for path in sorted(saved.glob("unet/*")):
        assert path in other.sources.values(), path


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_controlnet_is_the_same(tmp_path: Path, way: str) -> None:
    loaded = _CONTROLNET.from_pretrained(CHECKPOINTS / CONTROLNET, torch_dtype=torch.float32)
    loaded.save_pretrained(tmp_path / "saved", **WAYS[way])
    checkpoint = open_checkpoint(CHECKPOINTS / "sd15")
    one, other = (
        open_pipeline("x", checkpoint, {CONTROLNET: path})
        for path in (CHECKPOINTS / CONTROLNET, tmp_path / "saved")
    )
    assert same_networks(one, other)
    names = {name for name in other.sources if name.startswith("controlnets/")}
    assert names == {f"controlnets/{CONTROLNET}/{p.name}" for p in (tmp_path / "saved").iterdir()}


@pytest.fixture(scope="module")
def saved_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that transformers makes of a checkpoint's tokenizer: one file and its settings."""
    folder = tmp_path_factory.mktemp("saved") / "tokenizer"
    CLIPTokenizer.from_pretrained(CHECKPOINTS / "sd15/tokenizer").save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer_json(checkpoint: Path, saved_tokenizer: Path) -> Path:
    """The one file of a checkpoint's tokenizer."""
    folder = checkpoint / "tokenizer"
    shutil.rmtree(folder)
    shutil.copytree(saved_tokenizer, folder)
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def tokenizers(
    saved_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, CLIPTokenizer]:
    """Ours of the one file, and transformers' of the checkpoint."""
    folder = tmp_path_factory.mktemp("written")
    write_tokenizer(DiffusersFolder(saved_tokenizer.parent), "tokenizer", folder)
    reference = CLIPTokenizer.from_pretrained(CHECKPOINTS / "sd15/tokenizer")
    return Tokenizer.from_file(str(folder / TOKENIZER_FILE)), reference


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_a_tokenizer_json_are_those_of_clip(
    tokenizers: tuple[Tokenizer, CLIPTokenizer], text: str
) -> None:
    ours, reference = tokenizers
    expected = reference(text, add_special_tokens=False, truncation=False)["input_ids"]
    assert ours.encode(text, add_special_tokens=False).ids == expected


def test_merges_as_text_are_read_too(checkpoint: Path, tokenizer_json: Path) -> None:
    """As older versions of the tokenizers library wrote them."""
    expected = DiffusersFolder(checkpoint).vocabulary("tokenizer")
    content = json.loads(tokenizer_json.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    tokenizer_json.write_text(json.dumps(content))
    assert DiffusersFolder(checkpoint).vocabulary("tokenizer") == expected


def test_both_forms_are_read_as_the_older_one(checkpoint: Path, tokenizer_json: Path) -> None:
    alone = DiffusersFolder(checkpoint).vocabulary("tokenizer")
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(CHECKPOINTS / "sd15/tokenizer" / file, tokenizer_json.parent)
    both = DiffusersFolder(checkpoint).vocabulary("tokenizer")
    assert both.source.endswith("merges.txt")
    assert (both.tokens, both.merges, both.padding) == (alone.tokens, alone.merges, alone.padding)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "type"), "WordPiece", "type BPE is expected"),
        (("model",), None, "type BPE is expected"),
        (("model", "end_of_word_suffix"), "", "end_of_word_suffix '', '</w>' is expected"),
        (("model", "vocab"), None, "vocab and merges is expected"),
        (("model", "merges"), None, "vocab and merges is expected"),
        (("model", "vocab"), {"a": 0}, r"no <\|startoftext\|>"),
        (("model", "merges"), ["a"], "'a': two tokens are expected"),
        (("model", "merges"), [["a", "b", "c"]], "two tokens are expected"),
        (("model", "merges"), [[1, 2]], "two tokens are expected"),
        (("added_tokens",), ["<my-cat>"], "added_tokens .*a list of objects is expected"),
        (("added_tokens",), {"<my-cat>": 1}, "added_tokens .*a list of objects is expected"),
        (("added_tokens",), 5, "added_tokens 5; a list of objects is expected"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    checkpoint: Path, tokenizer_json: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    content = json.loads(tokenizer_json.read_text())
    parent = content
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    tokenizer_json.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"tokenizer/tokenizer\.json: .*{message}"):
        DiffusersFolder(checkpoint).vocabulary("tokenizer")


def test_a_padding_token_outside_the_vocabulary_is_refused(
    checkpoint: Path, tokenizer_json: Path
) -> None:
    edit(tokenizer_json.parent / "tokenizer_config.json", pad_token="<pad>")
    with pytest.raises(CheckpointError, match="pad_token '<pad>'"):
        DiffusersFolder(checkpoint).vocabulary("tokenizer")


def test_a_missing_configuration_of_the_tokenizer_is_named(
    checkpoint: Path, tokenizer_json: Path
) -> None:
    (tokenizer_json.parent / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer/tokenizer_config\.json is missing"):
        DiffusersFolder(checkpoint).vocabulary("tokenizer")


def test_added_tokens_are_warned_of(
    checkpoint: Path, tokenizer_json: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = CLIPTokenizer.from_pretrained(tokenizer_json.parent)
    loaded.add_tokens(["<my-cat>"])
    loaded.save_pretrained(tokenizer_json.parent)
    assert "<my-cat>" not in DiffusersFolder(checkpoint).vocabulary("tokenizer").tokens
    assert "added tokens are not used: <my-cat>" in caplog.text
    assert "--embedding" in caplog.text


@pytest.fixture(scope="module")
def saved_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_checkpoint("sd15", tmp_path_factory.mktemp("saved") / "sharded")
    loaded = _PIPELINE.from_pretrained(folder, torch_dtype=torch.float32).unet
    shutil.rmtree(folder / "unet")
    loaded.save_pretrained(folder / "unet", max_shard_size="1MB")
    return folder


@pytest.fixture
def sharded(saved_shards: Path, tmp_path: Path) -> Path:
    """A checkpoint whose UNet is in several files."""
    return Path(shutil.copytree(saved_shards, tmp_path / "sharded"))


def shards(folder: Path) -> list[Path]:
    found = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(found) > 2
    return found


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_missing_shard_is_named(sharded: Path, which: int) -> None:
    (lost := shards(sharded)[which]).unlink()
    with pytest.raises(CheckpointError, match=f"unet/{lost.name} is missing, a shard that "):
        open_pipeline("x", open_checkpoint(sharded), {})


def test_a_missing_index_is_named(sharded: Path) -> None:
    (sharded / f"{UNET}.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"one of several files; their index .* is missing"):
        open_pipeline("x", open_checkpoint(sharded), {})


def test_a_tensor_that_its_shard_lacks_is_named(sharded: Path) -> None:
    shard = shards(sharded)[1]
    state = load_file(shard)
    lost, _ = state.popitem()
    save_file(state, shard)
    with pytest.raises(CheckpointError, match=f"unet/{shard.name} lacks {lost}, which"):
        list(DiffusersFolder(sharded).tensors("unet"))


def test_only_what_the_index_names_is_read(sharded: Path) -> None:
    """A shard of an earlier, larger model may have further tensors."""
    expected = {tensor.name for tensor in DiffusersFolder(sharded).tensors("unet")}
    shard = shards(sharded)[0]
    save_file({**load_file(shard), "stale": torch.zeros(1)}, shard)
    assert {tensor.name for tensor in DiffusersFolder(sharded).tensors("unet")} == expected


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"weight_map": {}},
        {"weight_map": []},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": "../../secret.safetensors"}},
        {"weight_map": {"a": "/etc/secret.safetensors"}},
        {"weight_map": {"a": "unet.bin"}},
    ],
    ids=str,
)
def test_a_broken_index_is_refused(sharded: Path, content: object) -> None:
    (sharded / f"{UNET}.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map "):
        open_pipeline("x", open_checkpoint(sharded), {})


def rename(folder: Path, *names: str) -> None:
    """Puts the UNet's weights under these names instead."""
    source = folder / UNET
    content = source.read_bytes()
    source.unlink()
    for name in names:
        (source.parent / name).write_bytes(content)


STEM = "diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (("fp16", "non_ema", ""), ""),
        (("fp16", "non_ema"), "fp16"),
        (("bf16", "fp16"), "fp16"),
        (("fp32", "fp16"), "fp32"),
        (("non_ema", "mine"), "non_ema"),
        (("mine",), "mine"),
    ],
)
def test_the_best_variant_is_taken(checkpoint: Path, names: tuple[str, ...], taken: str) -> None:
    files = {each: f"{STEM}{f'.{each}' if each else ''}.safetensors" for each in names}
    rename(checkpoint, *files.values())
    assert DiffusersFolder(checkpoint).weights("unet") == (f"unet/{files[taken]}",)


def test_two_unknown_variants_are_refused(checkpoint: Path) -> None:
    rename(checkpoint, f"{STEM}.one.safetensors", f"{STEM}.two.safetensors")
    with pytest.raises(CheckpointError, match=r"Leave one of .*one\.safetensors, .*two\.safe"):
        DiffusersFolder(checkpoint).weights("unet")


def test_a_whole_file_is_preferred_to_shards(sharded: Path) -> None:
    shutil.copy(CHECKPOINTS / "sd15" / UNET, sharded / UNET)
    assert DiffusersFolder(sharded).weights("unet") == (UNET,)


@pytest.mark.parametrize(
    "names",
    [
        ("diffusion_pytorch_model.bin",),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"),
        ("diffusion_pytorch_model.fp16.bin",),
    ],
)
def test_pickles_alone_are_refused_with_the_reason(
    checkpoint: Path, names: tuple[str, ...]
) -> None:
    (checkpoint / UNET).unlink()
    for name in names:
        (checkpoint / "unet" / name).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"\.bin: pickle .* any code .* safetensors"):
        DiffusersFolder(checkpoint).weights("unet")


def test_pickles_beside_safetensors_are_left_alone(checkpoint: Path) -> None:
    (checkpoint / "unet/diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert DiffusersFolder(checkpoint).weights("unet") == (UNET,)
