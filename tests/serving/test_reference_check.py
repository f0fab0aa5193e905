"""A server compares its networks with their references before it is ready."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from build_engines.formats import open_checkpoint
from build_engines.pipeline import SourcePipeline, open_pipeline
from build_engines.verify import references, write_first
from build_engines.weights import load_network
from pipelines.descriptor import DESCRIPTOR_SUFFIX, Network, PipelineDescriptor, PipelineError
from pipelines.files import sha256
from pipelines.reference import (
    REFERENCE_FILE,
    DifferenceError,
    NetworkReference,
    Tolerance,
    read_reference,
    relative_error,
    write_reference,
)
from serving.errors import CanaryError, RepositoryError, WrongResultsError
from serving.reference_check import reference_checks, run_check
from serving.server import EmbeddedServer
from tests.conftest import CHECKPOINTS, CONTROLNET
from tests.descriptors import bare_pipeline

REFERENCE = NetworkReference(
    inputs={"x": np.arange(6, dtype=np.int32).reshape(2, 3)},
    outputs={"y": np.ones((2, 3), np.float32)},
    tolerance=Tolerance(1e-3, 0.999),
)


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        write_reference(path, REFERENCE)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    found = read_reference(paths[0])
    assert found.tolerance == REFERENCE.tolerance
    for arrays, written in (
        (found.inputs, REFERENCE.inputs),
        (found.outputs, REFERENCE.outputs),
    ):
        assert arrays.keys() == written.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, written[name], strict=True)


@pytest.mark.parametrize("content", [b"", b"PK\3\4broken", b"text"], ids=["empty", "cut", "text"])
def test_a_broken_reference_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.npz").write_bytes(content)
    with pytest.raises(PipelineError, match=r"broken\.npz: not a network's reference"):
        read_reference(tmp_path / "broken.npz")


def test_a_reference_without_a_tolerance_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", **{"input:x": np.zeros(1)})
    with pytest.raises(PipelineError, match="tolerance"):
        read_reference(tmp_path / "bare.npz")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.ones((1, 3)), r"gives shape \[1, 3\], torch \[2, 3\]"),
        (np.full((2, 3), 1.01), "differs from torch by 1.00e-02 .* at most 1e-03"),
        (np.full((2, 3), np.nan), "differs from torch by nan"),
        (np.full((2, 3), np.inf), "differs from torch by inf"),
    ],
    ids=["shape", "value", "nan", "inf"],
)
def test_what_differs(output: np.ndarray, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(DifferenceError, match=message):
        relative_error(output.astype(np.float32), REFERENCE.outputs["y"], REFERENCE.tolerance)


def test_rows_of_another_direction_differ() -> None:
    """A row of small values may be all wrong without a large error."""
    expected = np.array([[1000, 0], [0, 0.5]], np.float32)
    output = np.array([[1000, 0], [0.5, 0]], np.float32)
    with pytest.raises(DifferenceError, match=r"cosine with torch's is 0\.00000"):
        relative_error(output, expected, REFERENCE.tolerance)


def test_a_pipeline_without_references_has_no_checks(tmp_path: Path) -> None:
    (tmp_path / f"p{DESCRIPTOR_SUFFIX}").write_text(bare_pipeline(name="p").model_dump_json())
    assert reference_checks([tmp_path]) == ()


def test_a_reference_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / REFERENCE_FILE).write_bytes(b"broken")
    unet = Network(model="p", max_batch=1, inputs={}, outputs={}, files={REFERENCE_FILE: ""})
    descriptor = bare_pipeline(networks={"unet": unet})
    (tmp_path / f"base{DESCRIPTOR_SUFFIX}").write_text(descriptor.model_dump_json())
    with pytest.raises(RepositoryError, match=rf"{REFERENCE_FILE}: .*; build the pipeline again"):
        reference_checks([tmp_path])


@pytest.fixture(scope="module")
def pipeline() -> SourcePipeline:
    controlnets = {CONTROLNET: CHECKPOINTS / CONTROLNET}
    return open_pipeline("sd15", open_checkpoint(CHECKPOINTS / "sd15"), controlnets)


@pytest.fixture(scope="module")
def referenced(
    sd15: Path, pipeline: SourcePipeline, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The pipeline ``sd15`` with torch's reference of every network."""
    folder = tmp_path_factory.mktemp("referenced") / "pipelines"
    shutil.copytree(sd15, folder)
    for network, checkpoint in pipeline.exports:
        expected = references(network, load_network(network, checkpoint), network.cases()[:1])
        write_first(network, folder / network.model_name("sd15") / "1", expected, "fp32")
    _pin(folder)
    return folder


def _pin(folder: Path) -> None:
    """Enters the references in the descriptor."""
    path = folder / f"sd15{DESCRIPTOR_SUFFIX}"
    descriptor = PipelineDescriptor.model_validate_json(path.read_bytes())
    for network in descriptor.all_networks:
        name = f"{network.model}/1/{REFERENCE_FILE}"
        network.files[name] = sha256(folder / name)
    path.unlink()  # may be a link
    path.write_text(descriptor.model_dump_json())


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository without the project's own models."""
    return tmp_path_factory.mktemp("no_models")


@pytest.fixture(scope="module")
def running(referenced: Path, toys: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer([referenced], model_repository=toys) as server:
        yield server


@pytest.mark.server
def test_right_networks_start(running: EmbeddedServer, pipeline: SourcePipeline) -> None:
    roles = {check.model for check in running.references}
    assert roles == {network.model_name("sd15") for network, _ in pipeline.exports}
    for check in running.references:
        assert run_check(running.connection, check, 60) <= check.reference.tolerance.error


@pytest.mark.server
def test_a_network_that_does_not_answer_is_named(running: EmbeddedServer) -> None:
    check = replace(running.references[0], model="sd15_none")
    with pytest.raises(CanaryError, match=r"pipeline 'sd15': sd15_none: .*unknown model"):
        run_check(running.connection, check, 60)


@pytest.mark.server
def test_a_network_that_computes_something_else_is_not_served(
    referenced: Path, toys: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pipelines"
    shutil.copytree(referenced, folder)
    path = folder / "sd15_unet" / "1" / REFERENCE_FILE
    right = read_reference(path)
    wrong = {name: array * np.float32(1.01) for name, array in right.outputs.items()}
    write_reference(path, replace(right, outputs=wrong))
    _pin(folder)
    message = (
        rf"pipeline 'sd15': sd15_unet computes .*: out_sample differs from torch by .*"
        rf"at most 1e-04 .* --name sd15 --target onnx --repository {folder}"
    )
    server = EmbeddedServer([folder], model_repository=toys)
    with pytest.raises(WrongResultsError, match=message):
        server.start()
    with EmbeddedServer([folder], model_repository=toys, canary=False) as unchecked:
        assert unchecked.references == ()
