"""Textual inversions become rows of the token table, and ids in the descriptor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines import build, builder
from build_engines.checkpoint import Checkpoint, DiffusersFolder
from build_engines.embeddings import WithEmbeddings
from build_engines.errors import BuildError, CheckpointError
from build_engines.weights import load_network
from networks import ClipTextEncoder, NetworkExport, SdxlTextEncoder2
from tests.conftest import CHECKPOINTS

SD15, SDXL, REFINER = (CHECKPOINTS / name for name in ("sd15", "sdxl", "sdxl-refiner"))
VOCABULARY = 49408
START, END = 49406, 49407


def vectors(count: int, width: int = 32) -> torch.Tensor:
    return torch.randn((count, width), generator=torch.Generator().manual_seed(count))


def write(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path)
    return path


def encoder(checkpoint: Checkpoint, part: str = "text_encoder") -> NetworkExport:
    network = {"text_encoder": ClipTextEncoder, "text_encoder_2": SdxlTextEncoder2}[part]
    return network(checkpoint.json(f"{part}/config.json"))


def table(checkpoint: Checkpoint, part: str = "text_encoder") -> torch.Tensor:
    found: dict[str, torch.Tensor] = load_network(
        encoder(checkpoint, part), checkpoint
    ).state_dict()
    (name,) = (name for name in found if "token_embedding" in name)
    return found[name]


@pytest.mark.parametrize("key", ["emb_params", "<cat-toy>", "clip_l"])
def test_vectors_are_rows_after_the_vocabulary(tmp_path: Path, key: str) -> None:
    first, second = vectors(3), vectors(2).half()
    checkpoint = WithEmbeddings(
        DiffusersFolder(SD15),
        {
            "cat": write(tmp_path / "a.safetensors", **{key: first}),
            "bad_hand": write(tmp_path / "b.safetensors", emb_params=second),
        },
    )
    assert checkpoint.embeddings("text_encoder") == {
        "cat": (VOCABULARY, VOCABULARY + 1, VOCABULARY + 2),
        "bad_hand": (VOCABULARY + 3, VOCABULARY + 4),
    }
    found = table(checkpoint)
    stored = load_file(SD15 / "text_encoder/model.safetensors")
    torch.testing.assert_close(
        found,
        torch.cat([stored["embeddings.token_embedding.weight"].float(), first, second.float()]),
        rtol=0,
        atol=0,
    )


def test_a_single_vector_may_be_flat(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", **{"<cat>": vectors(1)[0]})
    checkpoint = WithEmbeddings(DiffusersFolder(SD15), {"cat": path})
    assert checkpoint.embeddings("text_encoder") == {"cat": (VOCABULARY,)}
    assert torch.equal(table(checkpoint)[-1], vectors(1)[0])


def test_each_encoder_gets_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", clip_l=vectors(2), clip_g=vectors(2) + 1)
    checkpoint = WithEmbeddings(DiffusersFolder(SDXL), {"cat": path})
    for part, expected in (("text_encoder", vectors(2)), ("text_encoder_2", vectors(2) + 1)):
        assert checkpoint.embeddings(part) == {"cat": (VOCABULARY, VOCABULARY + 1)}
        assert torch.equal(table(checkpoint, part)[-2:], expected)


def test_what_the_checkpoint_lacks_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.safetensors", clip_l=vectors(2), clip_g=vectors(2))
    with caplog.at_level("INFO"):
        checkpoint = WithEmbeddings(DiffusersFolder(REFINER), {"cat": path})
    assert "clip_l left out" in caplog.text
    assert checkpoint.embeddings("text_encoder_2") == {"cat": (VOCABULARY, VOCABULARY + 1)}


@pytest.mark.parametrize(
    ("folder", "tensors", "message"),
    [
        (SD15, {"emb_params": vectors(2, 48)}, r"shape \[2, 48\]; vectors 32 wide"),
        (SD15, {"emb_params": torch.zeros((0, 32))}, r"shape \[0, 32\]"),
        (SD15, {"a": vectors(1), "b": vectors(1)}, "clip_l, or one tensor .* found a, b"),
        (SDXL, {"emb_params": vectors(2)}, "clip_l and clip_g is expected; found emb_params"),
        (SDXL, {"clip_l": vectors(2)}, "found clip_l"),
        (SDXL, {"clip_l": vectors(2), "clip_g": vectors(3)}, "as many vectors .*found 2 and 3"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, folder: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    path = write(tmp_path / "a.safetensors", **tensors)
    with pytest.raises(CheckpointError, match=message):
        WithEmbeddings(DiffusersFolder(folder), {"cat": path})


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_a_pickle_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CheckpointError, match="can run any code"):
        WithEmbeddings(DiffusersFolder(SD15), {"cat": tmp_path / f"a{suffix}"})


def test_a_missing_file_and_a_wrong_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such textual inversion"):
        WithEmbeddings(DiffusersFolder(SD15), {"cat": tmp_path / "a.safetensors"})
    with pytest.raises(BuildError, match="embedding: 'a cat'"):
        build(SD15, "x", tmp_path, embeddings={"a cat": tmp_path / "a.safetensors"})


@torch.inference_mode()
def test_pooling_stays_at_the_end_of_the_text(tmp_path: Path) -> None:
    """The new ids are greater than the end's, by which older models look for it."""
    path = write(tmp_path / "a.safetensors", clip_l=vectors(2), clip_g=vectors(2))
    base = DiffusersFolder(SDXL)
    checkpoint = WithEmbeddings(base, {"cat": path})
    module = load_network(encoder(checkpoint, "text_encoder_2"), checkpoint)
    ids = torch.full((1, 77), 0)
    ids[0, :5] = torch.tensor([START, VOCABULARY, 320, VOCABULARY + 1, END])
    _, pooled = module(ids)
    padded = ids.clone()
    padded[0, 5:] = 320  # what follows the end is not looked at: the mask is causal
    torch.testing.assert_close(module(padded)[1], pooled)
    moved = ids.clone()
    moved[0, 4:6] = torch.tensor([320, END])
    assert not torch.allclose(module(moved)[1], pooled)
    model: Any = module.model
    normed = model.text_model(input_ids=ids).last_hidden_state[:, 4]
    torch.testing.assert_close(model.text_projection(normed), pooled)


def test_a_build_knows_the_ids_and_the_vectors(tmp_path: Path) -> None:
    """A word's own vector given as an inversion encodes as the word does."""
    state = load_file(SD15 / "text_encoder/model.safetensors")
    word = state["embeddings.token_embedding.weight"][320:321]
    path = write(tmp_path / "a.safetensors", emb_params=word)
    repository = tmp_path / "repository"
    descriptor = build(SD15, "x", repository, embeddings={"cat": path})
    (spec,) = descriptor.text_encoders
    assert spec.embeddings == {"cat": (VOCABULARY,)}
    assert "embeddings/cat/a.safetensors" in descriptor.source
    session = onnxruntime.InferenceSession(repository / "x_text_encoder/1/model.onnx")
    ids = np.full((2, 77), END, np.int32)
    ids[:, :4] = [[START, 320, 530, END], [START, VOCABULARY, 530, END]]
    (hidden,) = session.run(None, {"input_ids": ids})
    np.testing.assert_allclose(hidden[0], hidden[1], rtol=1e-5, atol=1e-5)


def test_a_lora_may_change_the_token_table_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its difference has the checkpoint's rows, without those that are added."""
    opened: list[Checkpoint] = []

    def noted(name: str, checkpoint: Checkpoint, *others: object) -> None:
        opened.append(checkpoint)
        raise BuildError("far enough")

    monkeypatch.setattr(builder, "open_pipeline", noted)
    change = vectors(VOCABULARY)
    lora = tmp_path / "l.safetensors"
    save_file({"text_encoder.text_model.embeddings.token_embedding.diff": change}, lora)
    cat = write(tmp_path / "a.safetensors", emb_params=vectors(3))
    with pytest.raises(BuildError, match="far enough"):
        build(SD15, "base", tmp_path, loras=[(lora, 0.5)], embeddings={"cat": cat})
    before = table(DiffusersFolder(SD15))
    torch.testing.assert_close(table(opened[0]), torch.cat([before + 0.5 * change, vectors(3)]))
