"""Wildcards: choices by seed, lists, nesting, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from segs_client.contract import ContractError
from segs_client.wildcards import load, resolve


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


def test_a_folder_of_lists(tmp_path: Path) -> None:
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "cats.txt").write_text("# cats\n\nlion\n tiger \n", encoding="utf-8")
    (tmp_path / "empty.txt").write_text("\n")
    assert load(tmp_path) == {"animals/cats": ("lion", "tiger")}
