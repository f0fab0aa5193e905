"""Whatever bytes come in: they are read, or refused in a way that a client can use."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runners.tensor_rules import InputRules, TensorError
from segs_client.contract import ErrorDetail
from tests.fuzz import documents, harness, pictures
from tests.fuzz.messages import can_exist, message
from tests.fuzz.models import Tensor
from triton_models.internal_token import read_parameters

_SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)
PATHS = st.sampled_from(documents.fields())


def seeded(make: Callable[[random.Random], bytes]) -> st.SearchStrategy[bytes]:
    """What a generator makes of a seed that hypothesis chooses."""
    return st.integers(0, 2**32).map(lambda seed: make(random.Random(seed)))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A valid request in which some fields have any values at all."""
    document = documents.valid(random.Random(draw(st.integers(0, 99))), "sd15")
    for path, _ in draw(st.lists(PATHS, max_size=3)):
        documents.put(document, path, draw(VALUES))
    return documents.dumps(document)


def broken_inputs(rng: random.Random) -> bytes:
    """A request with masks, crops and control images that may lie, and perhaps a broken picture."""
    document = documents.valid(rng, "sd15")
    buffers = pictures.with_buffers(rng, document)
    image = pictures.raw_pixels()
    if rng.random() < 0.3:
        document["image"], image = {"encoding": "file"}, pictures.hostile_file(rng)
    return harness.packed(documents.dumps(document), image, *buffers.values())


@_SETTINGS
@given(
    requests()
    | st.binary()
    | seeded(lambda rng: documents.hostile(rng, documents.valid(rng, "sd15")))
)
def test_any_json(data: bytes) -> None:
    harness.read_request(data)


@_SETTINGS
@given(st.binary() | seeded(pictures.hostile_file))
def test_any_picture(data: bytes) -> None:
    harness.read_picture(data)


@_SETTINGS
@given(st.text(alphabet="{}|:_a9. ") | st.text())
def test_any_prompt(text: str) -> None:
    harness.read_prompt(text.encode(errors="replace"))


@_SETTINGS
@given(seeded(broken_inputs) | requests().map(lambda text: harness.packed(text, *[b"x"] * 4)))
def test_any_inputs(data: bytes) -> None:
    harness.read_inputs(data)


@pytest.mark.parametrize("name", sorted(harness.HARNESSES))
def test_what_is_valid_is_read(name: str) -> None:
    assert any(harness.HARNESSES[name](data) for data in harness.corpus(name))


RULES = InputRules.from_config(
    {
        "max_batch_size": 4,
        "input": [
            {"name": "sample", "data_type": "TYPE_FP32", "dims": ["4", "-1", "-1"]},
            {"name": "timestep", "data_type": "TYPE_FP32", "dims": ["1"]},
        ],
    }
)
AXIS = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 20)


@_SETTINGS
@given(st.lists(AXIS, max_size=6).map(tuple), st.sampled_from(["float32", "int64"]))
def test_any_shape_is_taken_or_refused(shape: tuple[int, ...], dtype: str) -> None:
    """What is taken fits, and has the number of rows that the others have."""
    sample = SimpleNamespace(shape=shape, dtype=dtype)
    try:
        RULES.check({"sample": sample, "timestep": np.zeros((2, 1), np.float32)})
    except TensorError:
        return
    assert dtype == "float32"
    assert shape[:2] == (2, 4)
    assert 0 not in shape


@pytest.mark.parametrize(
    ("shape", "can_be"),
    [
        ((1, 4, 8, 0), True),
        ((2, 4, 2**57, 1), True),
        ((2, 4, 2**58, 1), False),
        ((2, 0, 2**62, 4), False),
        ((1, 4, -4, -4), False),
        ((1, 4, 2**58 + 4, 4), False),
    ],
)
def test_shapes_that_end_a_network_are_known(shape: tuple[int, ...], can_be: bool) -> None:
    tensors = [Tensor("timestep", "FP32", (1, 1), b""), Tensor("sample", "FP32", shape, b"")]
    assert can_exist(message("sd15_unet", tensors, "")) == can_be


@_SETTINGS
@given(st.text(), st.text(), st.text())
def test_any_error_travels(message: str, field: str, request_id: str) -> None:
    made = ErrorDetail(code="INTERNAL", message=message, field=field, request_id=request_id)
    text = made.to_status_message()
    assert text.splitlines()[0].isprintable() if message.strip() else True
    assert ErrorDetail.from_status_message(f"in ensemble 'x', {text}") == made


@_SETTINGS
@given(st.text() | VALUES.map(str))
def test_any_parameters_are_read(text: str) -> None:
    assert isinstance(read_parameters(text), dict)
