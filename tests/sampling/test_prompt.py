"""Emphasis, chunks, and the conditioning they lead to."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from pipelines.descriptor import TextEncoderSpec
from request_plan.limits import DEFAULT
from request_plan.prompt_weights import parse_weights
from sampling.conditioning import to_common_length
from sampling.program import NetworkCall, Tensors, run_alone
from sampling.prompt import ChunkLayout, lay_out
from sampling.text import TextEncoder, check_prompt, encode_prompt
from segs_client.contract import ContractError
from tests.conftest import CHECKPOINTS, GOLDEN
from tests.cpu import is_cheap

LAYOUT = ChunkLayout(start=1, end=2, padding=0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1.0)]),
        ("plain", [("plain", 1.0)]),
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        ("(b:1.3)", [("b", 1.3)]),
        ("((b))", [("b", 1.1 * 1.1)]),
        ("((b:2))", [("b", 2.0)]),
        ("(a (b) c:0.5)", [("a ", 0.5), ("b", 0.5 * 1.1), (" c", 0.5)]),
        ("(b:-0.5)", [("b", -0.5)]),
        ("(b: 1.3 )", [("b", 1.3)]),
        ("(at 5:30 pm)", [("at 5:30 pm", 1.1)]),
        (r"\(b\)", [("(b)", 1.0)]),
        (r"(\(b\):1.2)", [("(b)", 1.2)]),
        ("(b", [("(b", 1.0)]),
        ("b) c", [("b) c", 1.0)]),
        ("[b]", [("[b]", 1.0)]),
        ("(:1.3)", [(":1.3", 1.1)]),
    ],
)
def test_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    runs = parse_weights(prompt)
    assert [run.text for run in runs] == [text for text, _ in expected]
    assert [run.weight for run in runs] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(
    ("prompt", "runs"),
    [
        ("(" * 100_000, 1),
        (")" * 100_000, 1),
        ("(" * 50_000 + "a" + ")" * 50_000, 1),
        ("(:" * 30_000 + "1)" * 30_000, 1 + 2 * 29_999),
        ("(a:" + "1" * 100_000 + "x)", 1),
        ("(a)" * 30_000, 30_000),
    ],
    ids=lambda value: str(value)[:8],
)
def test_weights_take_time_linear_in_the_prompt(prompt: str, runs: int) -> None:
    assert len(parse_weights(prompt)) == runs
    assert is_cheap(lambda: parse_weights(prompt), 200)


def tokens(text: str) -> list[int]:
    return [100 + int(word) for word in text.split()]


def words(first: int, count: int) -> str:
    return " ".join(str(word) for word in range(first, first + count))


def test_a_chunk_has_start_end_and_padding() -> None:
    (chunk,) = lay_out("5 6", tokens, LAYOUT)
    assert chunk.ids == (1, 105, 106, 2, *[0] * 73)
    assert len(chunk.weights) == 77


def test_a_long_run_is_split_at_75_tokens() -> None:
    first, second = lay_out(words(0, 80), tokens, LAYOUT)
    assert first.ids == (1, *range(100, 175), 2)
    assert second.ids[:7] == (1, *range(175, 180), 2)


def test_a_short_run_moves_to_the_next_chunk_as_a_whole() -> None:
    first, second = lay_out(f"{words(0, 70)} ({words(70, 7)}:1.5)", tokens, LAYOUT)
    assert first.ids[70:73] == (169, 2, 0)
    assert second.ids[:9] == (1, *range(170, 177), 2)
    assert second.weights[1:9] == (*[1.5] * 7, 1.0)


def test_a_run_of_eight_is_split() -> None:
    first, second = lay_out(f"{words(0, 70)} ({words(70, 8)}:1.5)", tokens, LAYOUT)
    assert first.ids == (1, *range(100, 175), 2)
    assert second.ids[:5] == (1, 175, 176, 177, 2)


def test_conditioning_is_the_references() -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.CLIPTextModel.from_pretrained(CHECKPOINTS / "sd15" / "text_encoder")
    model = model.float().eval()

    def networks(call: NetworkCall) -> Tensors:
        with torch.no_grad():
            ids = call.inputs["input_ids"].long()
            return {"hidden_state": model(ids).last_hidden_state}

    slow = transformers.CLIPTokenizer.from_pretrained(CHECKPOINTS / "sd15" / "tokenizer")
    spec = TextEncoderSpec(
        role="text_encoder", tokenizer="", start=slow.bos_token_id, end=slow.eos_token_id,
        padding=slow.eos_token_id,
    )  # fmt: skip
    encoder = TextEncoder("text", spec, slow.backend_tokenizer)
    with np.load(GOLDEN / "conditioning.npz") as data:
        prompts = json.loads(bytes(data["prompts"]))
        for index, prompt in enumerate(prompts):
            context = run_alone(encoder.encode(prompt), networks).context
            torch.testing.assert_close(
                context, torch.from_numpy(data[f"cond_{index}"]), rtol=1e-4, atol=1e-4, msg=prompt
            )


def test_unequal_lengths_are_repeated_to_a_common_one() -> None:
    short, long = torch.randn(1, 77 * 2, 3), torch.randn(1, 77 * 3, 3)
    rows = to_common_length([short, long])
    assert rows.shape == (2, 77 * 6, 3)
    assert torch.equal(rows[0, 77 * 2 : 77 * 4], short[0])


def encoder_of(checkpoint: str) -> TextEncoder:
    transformers = pytest.importorskip("transformers")
    slow = transformers.CLIPTokenizer.from_pretrained(CHECKPOINTS / checkpoint / "tokenizer")
    spec = TextEncoderSpec(
        role="text_encoder", tokenizer="", start=slow.bos_token_id, end=slow.eos_token_id,
        padding=slow.eos_token_id,
    )  # fmt: skip
    return TextEncoder("text", spec, slow.backend_tokenizer)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a " * 75 * 32, None),
        ("a " * (75 * 32 + 1), "33 chunks"),
        ("(a:1000)", None),
        ("(a:-1000.5)", "a weight is too large"),
        ("(a:1e999)", "a weight is too large"),
        ("(" * 4000 + "a" + ")" * 4000, "a weight is too large"),
    ],
    ids=lambda value: str(value)[:10],
)
def test_prompts_that_are_too_much_are_refused(prompt: str, words: str | None) -> None:
    encoders = [encoder_of("sd15")]
    if words is None:
        check_prompt(encoders, prompt, DEFAULT)
        return
    with pytest.raises(ContractError, match=words) as refusal:
        check_prompt(encoders, prompt, DEFAULT)
    assert refusal.value.detail.field == "prompt"
    assert refusal.value.detail.allowed


def test_an_embeddings_name_becomes_its_tokens() -> None:
    transformers = pytest.importorskip("transformers")
    slow = transformers.CLIPTokenizer.from_pretrained(CHECKPOINTS / "sd15" / "tokenizer")
    spec = TextEncoderSpec(
        role="text_encoder", tokenizer="", start=slow.bos_token_id, end=slow.eos_token_id,
        padding=slow.eos_token_id, embeddings={"cat-toy": (49408, 49409)},
    )  # fmt: skip
    encoder = TextEncoder("text", spec, slow.backend_tokenizer)
    (chunk,) = encoder.chunks("a embedding:cat-toy, red (embedding:cat-toy:1.5)")
    (plain,) = encoder.chunks("a , red ")
    assert chunk.ids[1] == plain.ids[1]
    assert chunk.ids[2:4] == (49408, 49409)
    assert chunk.ids[4:6] == plain.ids[2:4]
    assert chunk.ids[6:9] == (49408, 49409, spec.end)
    assert chunk.weights[5:9] == (1.0, 1.5, 1.5, 1.0)


def test_an_encoding_keeps_no_more_alive_than_itself() -> None:
    spec = TextEncoderSpec(
        role="text_encoder", tokenizer="", start=1, end=2, padding=0, pooled=True
    )
    encoder = TextEncoder("text", spec, Tokenizer(WordLevel({"cat": 3}, unk_token="cat")))

    def batch(call: NetworkCall) -> Tensors:
        ids = call.inputs["input_ids"]
        return {"hidden_state": torch.zeros(8, *ids.shape[1:], 4)[:1], "pooled": torch.zeros(8, 4)}

    encoded = run_alone(encode_prompt([encoder], "cat"), batch)
    for kept in (encoded.context, encoded.pooled):
        assert kept is not None
        assert kept.untyped_storage().nbytes() == kept.nbytes
