"""Wildcards: choices by seed, lists, nesting, and what is refused."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from segs_client.contract import ContractError
from segs_client.wildcards import load, resolve
from tests.cpu import is_cheap


@pytest.mark.parametrize("prompt", ["", "plain", "{curly}", "a (b:1.2)", "under_score", "{}"])
def test_prompts_without_wildcards_stay(prompt: str) -> None:
    assert resolve(prompt, 1) == prompt


def test_the_seed_decides() -> None:
    chosen = [resolve("{a|b|c|d|e|f}", seed) for seed in range(50)]
    assert chosen == [resolve("{a|b|c|d|e|f}", seed) for seed in range(50)]
    assert set(chosen) == set("abcdef")


def test_nested_choices_and_lists() -> None:
    wildcards = {"hat": ["{red|red} __kind__"], "kind": ["cap"]}
    assert resolve("a {{x|x}|x} with __hat__", 3, wildcards) == "a x with red cap"


def test_weights_choose_more_often() -> None:
    counts = Counter(resolve("{9::a|b}", seed) for seed in range(500))
    assert 400 < counts["a"] < 490
    assert resolve("{0::a|0::b}", 1) in ("a", "b")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ContractError) as refusal:
        resolve("__hat__", 1, {"cap": ["x"]})
    assert refusal.value.detail.allowed == "__cap__"


@pytest.mark.parametrize("line", ["__a__ and more", "__a__ __a__"])
def test_wildcards_that_never_end_are_refused(line: str) -> None:
    with pytest.raises(ContractError, match="for ever"):
        resolve("__a__", 1, {"a": [line]})


@pytest.mark.parametrize(
    ("prompt", "wildcards", "refused"),
    [
        ("{" + " " * 90_000 + "|" + " " * 90_000 + "}", {}, False),
        ("{" + "1" * 90_000 + "|" + "1" * 90_000 + "}", {}, False),
        ("{" + "9" * 400 + "::a|" + "9" * 400 + "::b}", {}, False),
        ("{" * 50_000 + "}" * 50_000, {}, False),
        ("{a|" * 30_000 + "}" * 30_000, {}, True),
        ("__" + "a" * 100_000, {}, False),
        ("_" * 100_000, {"_": ("",)}, False),
        ("__a__" * 20_000, {"a": ("x" * 100_000,)}, True),
        ("__a__" * 20_000, {"a": ("__a__" * 20_000,)}, True),
    ],
    ids=lambda value: str(value)[:20],
)
def test_harmful_prompts_take_no_time_and_no_memory(
    prompt: str, wildcards: dict[str, tuple[str, ...]], refused: bool
) -> None:
    def work() -> None:
        with pytest.raises(ContractError) if refused else contextlib.nullcontext():
            resolve(prompt, 1, wildcards)

    assert is_cheap(work, 200)


def test_a_weight_stands_at_the_start_of_its_part_alone() -> None:
    assert resolve("{2::a 3::b|2::a 3::b}", 1) == "a 3::b"


def test_a_folder_of_lists(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "cats.txt").write_text("# cats\n\nlion\n tiger \n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n")
    assert load(tmp_path) == {"animals/cats": ("lion", "tiger")}
