"""All stages in little, and the checkpoint that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel

from build_engines.checkpoint import DiffusersFolder
from build_engines.controlnets import open_controlnets
from build_engines.families import SD1, detect
from examples.demo_checkpoint.export import CONTROLNET, export, inpaint_checkpoint, restore
from examples.demo_checkpoint.run import Pace, is_done
from examples.demo_checkpoint.stages import (
    STAGES,
    Plan,
    train_all,
    trained_unet,
    trained_vae,
)
from examples.demo_checkpoint.vocabulary import Vocabulary
from networks import Unet
from tests.conftest import CHECKPOINTS

pytestmark = pytest.mark.slow

TOKENIZER = CHECKPOINTS / "sd15" / "tokenizer"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of one step in every stage."""
    folder = tmp_path_factory.mktemp("demo_checkpoint")
    assert train_all(_plan(folder), Pace())
    return folder


def _plan(state: Path) -> Plan:
    return Plan(
        state=state,
        tokenizer=TOKENIZER,
        device=torch.device("cpu"),
        steps=dict.fromkeys(STAGES, 1),
        shards=2,
        shard_size=32,
        sample_steps=2,
    )


@pytest.fixture(scope="module")
def checkpoint(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "demo"
    export(state, folder, TOKENIZER)
    return folder


def test_every_stage_ends_with_weights_and_samples(state: Path) -> None:
    for stage in STAGES:
        assert is_done(state / stage)
        assert (state / stage / "samples.png").exists()


def test_the_checkpoint_is_one_that_can_be_built(checkpoint: Path) -> None:
    folder = DiffusersFolder(checkpoint)
    assert detect(folder) is SD1
    assert folder.prediction() == "v_prediction"
    unet = Unet(folder.json("unet/config.json"), True)
    assert len(open_controlnets({"edges": checkpoint / CONTROLNET}, unet)) == 1


def test_the_inpainting_checkpoint_has_nine_channels(checkpoint: Path, tmp_path: Path) -> None:
    inpaint_checkpoint(checkpoint, tmp_path / "inpaint")
    folder = DiffusersFolder(tmp_path / "inpaint")
    assert detect(folder) is SD1
    assert folder.json("unet/config.json")["in_channels"] == 9
    assert not (tmp_path / "inpaint" / CONTROLNET).exists()


def test_the_checkpoint_takes_at_most_thirty_megabytes(checkpoint: Path) -> None:
    sizes = {path: path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 30e6, sizes


def test_the_whole_vocabulary_answers_as_the_trained_words_do(
    state: Path, checkpoint: Path
) -> None:
    vocabulary = Vocabulary(TOKENIZER)
    captions = ["long red hair, blue eyes", "an unheard-of word", ""]
    with torch.no_grad():
        small = trained_unet(state, vocabulary)["text"](vocabulary.encode(captions))
        encoder = CLIPTextModel.from_pretrained(checkpoint / "text_encoder", dtype=torch.float32)
        tokens = vocabulary.tokenizer(
            captions, padding="max_length", max_length=77, return_tensors="pt"
        )["input_ids"]
        full = encoder(tokens)
    torch.testing.assert_close(full.last_hidden_state, small.last_hidden_state, rtol=0, atol=0.02)


def test_a_training_begins_where_a_checkpoint_ended(
    state: Path, checkpoint: Path, tmp_path: Path
) -> None:
    restore(checkpoint, tmp_path, TOKENIZER)
    assert is_done(tmp_path / "vae") and is_done(tmp_path / "decoder")
    before, after = (trained_vae(each).state_dict() for each in (state, tmp_path))
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], rtol=0.01, atol=0.01)
    started = torch.load(tmp_path / "unet" / "start.pt")
    for part, module in trained_unet(state, Vocabulary(TOKENIZER)).items():
        for name, value in module.state_dict().items():
            torch.testing.assert_close(started[f"{part}.{name}"], value, rtol=0, atol=0.01)
    assert train_all(_plan(tmp_path), Pace())
    with pytest.raises(FileExistsError, match="has vae, decoder, unet"):
        restore(checkpoint, tmp_path, TOKENIZER)
