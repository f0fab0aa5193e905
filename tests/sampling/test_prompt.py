"""Emphasis, chunks, and the conditioning they lead to."""

from __future__ import annotations

import contextlib
import json
import math
import random
from functools import cache
from typing import Any

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
from tests.conftest import CHECKPOINTS, DATA, GOLDEN
from tests.cpu import is_cheap

WEIGHTS = DATA / "prompts" / "prompt_weights.npz"
LAYOUT = ChunkLayout(start=1, end=2, padding=0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
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
        ("(a:)", [("a:", 1.1)]),
        ("(a:1:2)", [("a:1", 2.0)]),
        ("(a:1_0)", [("a", 10.0)]),
        ("(a:-inf)", [("a", -math.inf)]),
        ("()", []),
        ("smile :), (red hair:1.5)", [("smile :), (red hair:1.5)", 1.0)]),
        ("sad >:( face (red:1.5)", [("sad >:", 1.0), (" face ", 1.5), ("(red", 1.5)]),
        ("(a, (b:1.4), c", [("(a, (b:1.4), c", 1.0)]),
        ("(a, (b:1.4)", [("a, ", 1.4), ("(b", 1.4)]),
        ("((a)", [("(a", 1.1)]),
        ("(((a)", [("((a", 1.1)]),
        ("(((a))", [("(a", 1.1 * 1.1)]),
        ("(a) b) (c:1.4)", [("a", 1.1), (" b) (c:1.4)", 1.0)]),
        ("a) (b) (c:1.4)", [("a) (b) (c:1.4)", 1.0)]),
        ("a) ((b:1.4) c", [("a) (", 1.0), ("b", 1.4), (" c", 1.0)]),
        ("a)) ((b) c (d:2)", [("a)) ((b) c (d:2)", 1.0)]),
        ("a)( (b:2)", [("a)( ", 1.0), ("b", 2.0)]),
        ("((a) b) (c:2))", [("a", 1.1 * 1.1), (" b", 1.1), (" ", 1.0), ("c", 2.0), (")", 1.0)]),
        ("(a :) (b:2))", [("a :", 1.1), (" ", 1.0), ("b", 2.0), (")", 1.0)]),
        (r"\) (b:2)", [(") ", 1.0), ("b", 2.0)]),
    ],
)
def test_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    runs = parse_weights(prompt)
    assert [run.text for run in runs] == [text for text, _ in expected]
    assert [run.weight for run in runs] == pytest.approx([weight for _, weight in expected])


def by_the_rule(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """The rule as it reads: a counter of the depth cuts a text into runs, and a run in parentheses
    is read again."""
    runs, run, depth = [], "", 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if (character, depth) == ("(", 1):
            runs.append(run)
            run = ""
        run += character
        if (character, depth) == (")", 0):
            runs.append(run)
            run = ""
    found = []
    for each in (*runs, run):
        if each[:1] == "(" and each[-1] == ")":
            inside, own = each[1:-1], weight * 1.1
            before, _, number = inside.rpartition(":")
            if before:
                with contextlib.suppress(ValueError):
                    inside, own = before, float(number)
            found += by_the_rule(inside, own)
        elif each:
            found.append((each, weight))
    return found


def test_weights_of_random_parentheses_are_by_the_rule() -> None:
    rng = random.Random(1)
    for _ in range(20_000):
        prompt = "".join(rng.choices("(():)a1. ", k=rng.randint(0, 18)))
        runs = [(run.text, run.weight) for run in parse_weights(prompt)]
        assert runs == by_the_rule(prompt), prompt


@pytest.mark.parametrize(
    ("prompt", "runs"),
    [
        ("(" * 100_000, 1),
        (")" * 100_000, 1),
        ("(" * 50_000 + "a" + ")" * 50_000, 1),
        ("(:" * 30_000 + "1)" * 30_000, 1 + 2 * 29_999),
        ("(a:" + "1" * 100_000 + "x)", 1),
        ("(" * 50_000 + "a" + ")" * 49_000, 1),
        ("(:" * 30_000 + "1)" * 29_000, 2),
        (")" * 30_000 + "(a)" * 20_000, 1),
        ("((a) (b)" * 10_000, 4),
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

    encoder, expected = encoder_of("sd15"), {}
    with np.load(GOLDEN / "conditioning.npz") as data:
        for index, prompt in enumerate(json.loads(bytes(data["prompts"]))):
            expected[prompt] = data[f"cond_{index}"][0]
    with np.load(WEIGHTS) as data:
        for index, row in enumerate(weights_case()):
            if f"cond_{index}" in data.files:
                expected[row["text"]] = data[f"cond_{index}"]
    assert len(expected) >= 20
    for prompt, conditioning in expected.items():
        context = run_alone(encoder.encode(prompt), networks).context[0, : len(conditioning)]
        torch.testing.assert_close(
            context, torch.from_numpy(conditioning), rtol=1e-4, atol=1e-4, msg=prompt
        )


def weights_case() -> list[dict[str, Any]]:
    """What the reference made of prompts: tokens and weights of each text encoder's chunks."""
    with np.load(WEIGHTS) as data:
        rows: list[dict[str, Any]] = json.loads(bytes(data["meta"]))["rows"]
    return rows


@pytest.mark.parametrize(
    "row", weights_case(), ids=lambda row: f"{row['checkpoint']} {row['text'][:40]!r}"
)
def test_tokens_and_weights_are_the_references(row: dict[str, Any]) -> None:
    for name, chunks in row["tokens"].items():
        tokenizer, padding = ("tokenizer", None) if name == "l" else ("tokenizer_2", 0)
        encoder = encoder_of(row["checkpoint"], tokenizer, padding)
        made = encoder.chunks(row["text"])
        assert len(made) == len(chunks)
        for chunk, expected in zip(made, chunks, strict=True):
            *tokens, (_, padded) = expected
            ids = [token for token, _ in tokens]
            last = encoder.spec.padding if encoder.spec.end in ids else encoder.spec.end
            assert chunk.ids == (*ids, *[last] * padded)
            weights = [*(weight for _, weight in tokens), *[1.0] * padded]
            assert chunk.weights == pytest.approx(weights, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("text", ["(a:nan)", "(a:inf)"])
def test_weights_that_are_no_numbers_are_among_the_references_and_refused(text: str) -> None:
    assert any(row["text"] == text for row in weights_case())
    with pytest.raises(ContractError, match="a weight is"):
        check_prompt([encoder_of("sd15")], text, DEFAULT)


def test_unequal_lengths_are_repeated_to_a_common_one() -> None:
    short, long = torch.randn(1, 77 * 2, 3), torch.randn(1, 77 * 3, 3)
    rows = to_common_length([short, long])
    assert rows.shape == (2, 77 * 6, 3)
    assert torch.equal(rows[0, 77 * 2 : 77 * 4], short[0])


@cache
def encoder_of(
    checkpoint: str, tokenizer: str = "tokenizer", padding: int | None = None
) -> TextEncoder:
    """``padding`` None: the end token."""
    transformers = pytest.importorskip("transformers")
    slow = transformers.CLIPTokenizer.from_pretrained(CHECKPOINTS / checkpoint / tokenizer)
    spec = TextEncoderSpec(
        role="text_encoder", tokenizer="", start=slow.bos_token_id, end=slow.eos_token_id,
        padding=slow.eos_token_id if padding is None else padding,
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
        ("(a:inf)", "a weight is too large"),
        ("(a:1.5) (b:-inf)", "a weight is too large"),
        ("(a:1.5) (b:nan) (c:2)", "a weight is not a number"),
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
