"""Clip skip: which layer of the text encoders is used, against transformers and diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from build_engines import build, cli
from build_engines.errors import BuildError
from build_engines.families import Family, detect
from build_engines.formats import open_checkpoint
from build_engines.pipeline import open_pipeline
from build_engines.weights import load_network
from networks.stored import read_network, write_network
from pipelines.descriptor import load_all
from tests.build_engines.conftest import assert_close, edit, make_sd2, open_model
from tests.conftest import CHECKPOINTS

LAYERS = 3
"""Of every text encoder of the small checkpoints."""
OWN = {"sd15": 1, "sd15-inpaint": 1, "sd2": 2, "sdxl": 2, "sdxl-refiner": 2}
MOST = {"sd15": 3, "sd15-inpaint": 3, "sd2": 4, "sdxl": 3, "sdxl-refiner": 3}
_SD: Any = StableDiffusionPipeline  # diffusers' classes are not typed
_SDXL: Any = StableDiffusionXLPipeline


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: CHECKPOINTS / name for name in OWN if name != "sd2"}
    return {**found, "sd2": make_sd2(tmp_path_factory.mktemp("sd2") / "sd2")}


def ids(rows: int = 2) -> torch.Tensor:
    found = torch.randint(0, 49406, (rows, 77), generator=torch.Generator().manual_seed(3))
    found[:, 0], found[:, 40:] = 49406, 49407
    return found


def encoded(folder: Path, clip_skip: int | None) -> list[tuple[torch.Tensor, ...]]:
    """The outputs of all text encoders for :func:`ids`."""
    pipeline = open_pipeline("x", open_checkpoint(folder), {}, "epsilon", clip_skip)
    outputs = []
    for encoder in pipeline.text_encoders:
        found = load_network(encoder, pipeline.checkpoint)(ids())
        outputs.append(found if isinstance(found, tuple) else (found,))
    return outputs


def layer_output(model: Any, number: int) -> torch.Tensor:
    """The output of one of the model's layers, 1 the first, caught as it is computed."""
    text = getattr(model, "text_model", model)
    caught: list[Any] = []
    hook = text.encoder.layers[number - 1].register_forward_hook(
        lambda _module, _inputs, output: caught.append(output)
    )
    model(ids())
    hook.remove()
    (found,) = caught
    return cast(torch.Tensor, found[0] if isinstance(found, tuple) else found)


@torch.inference_mode()
@pytest.mark.parametrize("skip", [None, 1, 2, 3])
def test_sd1_is_the_layer_through_the_final_norm(skip: int | None) -> None:
    folder = CHECKPOINTS / "sd15"
    model: Any = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    layer = layer_output(model, LAYERS + 1 - (skip or 1))
    text = getattr(model, "text_model", model)
    ((found,),) = encoded(folder, skip)
    torch.testing.assert_close(found, text.final_layer_norm(layer))
    states = model(ids(), output_hidden_states=True)
    expected = states.last_hidden_state
    if skip not in (None, 1):
        expected = text.final_layer_norm(states.hidden_states[-skip])
    torch.testing.assert_close(found, expected)


@torch.inference_mode()
@pytest.mark.parametrize("skip", [None, 2, 3])
@pytest.mark.parametrize("name", ["sdxl", "sdxl-refiner"])
def test_sdxl_is_the_layer_without_a_norm_and_pools_the_last(name: str, skip: int | None) -> None:
    folder = CHECKPOINTS / name
    *first, (second, pooled) = encoded(folder, skip)
    projected: Any = CLIPTextModelWithProjection.from_pretrained(
        folder / "text_encoder_2", dtype=torch.float32
    )
    number = LAYERS + 1 - (skip or 2)
    torch.testing.assert_close(second, layer_output(projected, number))
    torch.testing.assert_close(pooled, projected(ids()).text_embeds)
    for (found,) in first:
        model: Any = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        torch.testing.assert_close(found, layer_output(model, number))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["sd15", "sd2", "sdxl"])
def test_each_number_is_that_of_diffusers_clip_skip(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``--help`` says: N - 1 for SD 1.x, N - 2 for all others."""
    prompt = "a smiling face, freckles"
    pipe = (_SDXL if name == "sdxl" else _SD).from_pretrained(
        folders[name], torch_dtype=torch.float32
    )
    # diffusers looks for the final norm where transformers had it before version 5.
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    for skip in range(OWN[name], MOST[name] + 1):
        theirs = pipe.encode_prompt(
            *(prompt, *((None,) if name == "sdxl" else ()), torch.device("cpu"), 1, False),
            clip_skip=skip - OWN[name] or None,
        )[0]
        opened = open_pipeline("x", open_checkpoint(folders[name]), {}, "epsilon", skip)
        tokenizers = (pipe.tokenizer, getattr(pipe, "tokenizer_2", None))
        states = []
        for encoder, tokenizer in zip(opened.text_encoders, tokenizers, strict=False):
            tokens = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")
            output = load_network(encoder, opened.checkpoint)(tokens.input_ids)
            states.append(output[0] if isinstance(output, tuple) else output)
        torch.testing.assert_close(torch.cat(states, dim=-1), theirs)


@pytest.mark.parametrize("name", OWN)
def test_the_default_is_the_familys_own(folders: dict[str, Path], name: str) -> None:
    pipeline = open_pipeline("x", open_checkpoint(folders[name]), {}, "epsilon")
    assert pipeline.clip_skip == OWN[name]
    for default, own in zip(
        encoded(folders[name], None), encoded(folders[name], OWN[name]), strict=True
    ):
        assert all(map(torch.equal, default, own))


@pytest.mark.parametrize("name", OWN)
def test_numbers_without_a_layer_are_refused(folders: dict[str, Path], name: str) -> None:
    checkpoint = open_checkpoint(folders[name])
    for number in (-2, 0, OWN[name] - 1, MOST[name] + 1, 100):
        with pytest.raises(BuildError) as refused:
            open_pipeline("x", checkpoint, {}, "epsilon", number)
        assert f"clip_skip: {number}; allowed" in str(refused.value)
        assert f"{OWN[name]} (its own) to {MOST[name]}" in str(refused.value)
    assert open_pipeline("x", checkpoint, {}, "epsilon", MOST[name]).clip_skip == MOST[name]


def test_a_real_size_has_the_layers_of_its_configuration(checkpoint: Path) -> None:
    edit(checkpoint / "text_encoder/config.json", num_hidden_layers=12)
    family: Family = detect(open_checkpoint(checkpoint))
    assert family.open_networks(open_checkpoint(checkpoint), False, 12)
    with pytest.raises(BuildError, match=r"clip_skip: 13; .* 1 \(its own\) to 12"):
        family.open_networks(open_checkpoint(checkpoint), False, 13)


@torch.inference_mode()
def test_a_build_has_it_in_descriptor_and_models_and_is_made_anew_for_another(
    tmp_path: Path,
) -> None:
    folder, times = CHECKPOINTS / "sd15", []
    for skip in (None, 1, 2, 2):
        descriptor = build(folder, "p", tmp_path, clip_skip=skip)
        assert descriptor.clip_skip == (skip or 1)
        times.append((tmp_path / "p.pipeline.json").stat().st_mtime_ns)
    assert times[0] == times[1] != times[2] == times[3]
    assert load_all([tmp_path])["p"][0].clip_skip == 2
    ((expected,),) = encoded(folder, 2)
    session = open_model(tmp_path, "p_text_encoder")
    (actual,) = session.run(None, {"input_ids": ids().numpy().astype(np.int32)})
    assert_close(actual, expected)


@torch.inference_mode()
@pytest.mark.parametrize(("name", "skip"), [("sd15", 1), ("sd15", 2), ("sdxl", 2), ("sdxl", 3)])
def test_stored_networks_keep_it(tmp_path: Path, name: str, skip: int) -> None:
    """As they are built for torch."""
    pipeline = open_pipeline("x", open_checkpoint(CHECKPOINTS / name), {}, "epsilon", skip)
    for encoder, expected in zip(
        pipeline.text_encoders, encoded(CHECKPOINTS / name, skip), strict=True
    ):
        module = load_network(encoder, pipeline.checkpoint)
        (tmp_path / encoder.role).mkdir()
        write_network(encoder, module, tmp_path / encoder.role, precision="fp32")
        found = read_network(tmp_path / encoder.role, torch.device("cpu")).module(ids())
        assert all(map(torch.equal, found if isinstance(found, tuple) else (found,), expected))


def test_the_command_line_passes_it_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(cli, "build", lambda *_, **options: given.update(options))
    arguments = ["folder", "--name", "x", "--repository", str(tmp_path)]
    assert cli.main([*arguments, "--clip-skip", "2"]) == 0
    assert given["clip_skip"] == 2
    assert cli.main(arguments) == 0
    assert given["clip_skip"] is None
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "--clip-skip", "two"])
    assert stopped.value.code == 2
