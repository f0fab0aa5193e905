"""The cache of CUDA graphs, with stand-ins for graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from runners.cuda_graphs import GraphCache, NetworkFunction, TensorList


def doubled(x: torch.Tensor) -> TensorList:
    return [2 * x]


@dataclass
class FakeGraph:
    """Keeps to what a CUDA graph can: fixed shapes, one memory that every run overwrites."""

    network: NetworkFunction
    inputs: list[torch.Tensor]

    def replay(self, inputs: TensorList) -> TensorList:
        for own, given in zip(self.inputs, inputs, strict=True):
            own[: len(given)] = given
        return [each[: len(inputs[0])].clone() for each in self.network(*self.inputs)]


class FakeCapture:
    """Counts captures by their rows; refuses chosen widths."""

    def __init__(self, refused: Sequence[int] = ()) -> None:
        self.rows: list[int] = []
        self.refused = refused

    def __call__(self, network: NetworkFunction, inputs: TensorList, rows: int) -> FakeGraph:
        self.rows.append(rows)
        if inputs[0].shape[1] in self.refused:
            raise RuntimeError("operation not permitted when stream is capturing")
        return FakeGraph(network, [each.new_zeros((rows, *each.shape[1:])) for each in inputs])


def batch(rows: int, width: int = 3) -> torch.Tensor:
    return torch.arange(rows * width, dtype=torch.float32).reshape(rows, width)


def check(cache: GraphCache, rows: int, width: int = 3) -> None:
    (output,) = cache(batch(rows, width))
    torch.testing.assert_close(output, 2 * batch(rows, width))


def test_the_second_use_of_a_shape_is_captured() -> None:
    capture = FakeCapture()
    cache = GraphCache(doubled, capture)
    check(cache, 3)
    assert capture.rows == []
    for rows in (3, 4, 3):  # one graph of four rows for all
        check(cache, rows)
    assert capture.rows == [4]
    for rows in (5, 8, 6):
        check(cache, rows)
    assert capture.rows == [4, 8]
    for _ in range(3):
        check(cache, 17)  # more than any graph has
    assert capture.rows == [4, 8]


def test_results_outlive_the_next_run() -> None:
    cache = GraphCache(doubled, FakeCapture())
    for _ in range(2):
        check(cache, 2)
    (first,) = cache(batch(2))
    cache(batch(2) + 1)
    torch.testing.assert_close(first, 2 * batch(2))


def test_what_cannot_be_captured_runs_on_and_is_not_tried_again() -> None:
    capture = FakeCapture(refused=[5])
    cache = GraphCache(doubled, capture)
    for _ in range(4):
        check(cache, 1, width=5)
    assert capture.rows == [1]
    for _ in range(2):
        check(cache, 1, width=6)
    assert capture.rows == [1, 1]


def test_the_least_used_graph_goes_first() -> None:
    capture = FakeCapture()
    cache = GraphCache(doubled, capture, most=2)
    for width in (1, 1, 2, 2, 1, 3, 3):  # the third graph takes the place of width 2's
        check(cache, 1, width)
    assert len(capture.rows) == 3
    check(cache, 1, 1)
    assert len(capture.rows) == 3
    check(cache, 1, 2)  # has to come twice again
    assert len(capture.rows) == 3
    check(cache, 1, 2)
    assert len(capture.rows) == 4
