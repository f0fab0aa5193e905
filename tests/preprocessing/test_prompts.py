"""Which prompt each SEG gets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from preprocessing.prompts import PromptBook, _check_embeddings
from segs_client.contract import ContractError, DetailRequest

BOXES = [(50, 0, 60, 10), (10, 20, 40, 50), (80, 40, 85, 45)]


def prompts(items: list[dict[str, Any]] | None = None, **fields: Any) -> list[str]:
    own = items or [{}] * len(BOXES)
    segs = {"items": [{"bbox": box, **item} for box, item in zip(BOXES, own, strict=True)]}
    request = DetailRequest.model_validate({"pipeline": "p", "segs": segs, **fields})
    book = PromptBook(request)
    return [book.positive(index, item) for index, item in enumerate(request.segs.items)]


def test_all_share_the_requests_prompt() -> None:
    assert prompts(prompt="a face") == ["a face"] * 3


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("given", ["1", "2", "3"]),
        ("left_to_right", ["2", "1", "3"]),
        ("right_to_left", ["2", "3", "1"]),
        ("top_to_bottom", ["1", "2", "3"]),
        ("bottom_to_top", ["3", "2", "1"]),
        ("large_to_small", ["2", "1", "3"]),
        ("small_to_large", ["2", "3", "1"]),
    ],
)
def test_prompts_are_dealt_out_in_order(order: str, expected: list[str]) -> None:
    dealt = {"text": "1 [SEP] 2 [SEP] 3", "order": order, "mode": "replace"}
    assert prompts(prompt="main", seg_prompts=dealt) == expected


def test_dealt_prompts_add_and_run_out() -> None:
    dealt = {"text": "red [SEP] blue"}
    assert prompts(prompt="main", seg_prompts=dealt) == ["main, red", "main, blue", "main"]


def test_a_segs_own_prompt_wins() -> None:
    items = [{"prompt": "own"}, {"prompt": "own", "prompt_mode": "add"}, {}]
    assert prompts(items, prompt="main", seg_prompts={"text": "dealt"}) == [
        "own",
        "main, own",
        "main",
    ]


def test_wildcards_follow_the_seed() -> None:
    chosen = {
        tuple(prompts(prompt="{a|b|c|d}", seed=seed, wildcards={"x": ["y"]})) for seed in range(20)
    }
    assert len(chosen) == 4
    assert all(len(set(texts)) == 1 for texts in chosen)  # one choice for all SEGS


def test_a_segs_own_seed_chooses_for_itself() -> None:
    items = [{"seed": seed} for seed in (1, 2, 3)]
    alone = [prompts(prompt="{a|b|c|d|e|f|g|h}", seed=seed)[0] for seed in (1, 2, 3)]
    assert prompts(items, prompt="{a|b|c|d|e|f|g|h}") == alone


def test_negatives_may_be_own_too() -> None:
    request = DetailRequest.model_validate(
        {
            "pipeline": "p",
            "negative": "blurry",
            "segs": {"items": [{"bbox": BOXES[0]}, {"bbox": BOXES[1], "negative": ""}]},
        }
    )
    book = PromptBook(request)
    assert [book.negative(*each) for each in enumerate(request.segs.items)] == ["blurry", ""]


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("embedding:foo, a face", None),
        ("(embedding:foo:1.2), (a (embedding:foo))", None),
        (r"\(embedding:foo\)", None),
        ("(embedding:bar:1.2)", "bar"),
        ("a embedding:foo2", "foo2"),
    ],
)
def test_embeddings_may_have_weights_and_have_to_be_known(text: str, unknown: str | None) -> None:
    encoder = SimpleNamespace(embeddings={"foo": (1, 2)})
    pipeline: Any = SimpleNamespace(name="base", text_encoders=[encoder])
    if unknown is None:
        _check_embeddings([text], pipeline)
        return
    with pytest.raises(ContractError, match="unknown embedding") as refusal:
        _check_embeddings([text], pipeline)
    assert refusal.value.detail.value == repr(unknown)
