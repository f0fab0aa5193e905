"""Builder and refitter against a double that has the classes and signatures of TensorRT 11.

What TensorRT for RTX can be asked without a GPU is in test_rtx.py.
"""

from __future__ import annotations

import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from build_engines.errors import BuildError, RefitError
from build_engines.tensorrt import EngineBuilder, Job, find_builder
from tests.tensorrt.conftest import write_graph
from tests.tensorrt.double import Double
from tests.tensorrt.fake import Fake

PROFILES = [
    {"sample": ((1, 4, 8), (4, 4, 64), (8, 4, 96)), "gain": ((1, 1), (4, 1), (8, 1))},
    {"sample": ((1, 4, 8), (1, 4, 128), (2, 4, 256)), "gain": ((1, 1), (1, 1), (2, 1))},
]


def job(graph: Path, **options: Any) -> Job:
    plan = graph.parent / "model.plan"
    given = {"graph": graph, "plan": plan, "profiles": PROFILES}
    return Job(**{**given, **options})


def flags(trt: Double, name: str) -> list[str]:
    return [call["flag"].name for call in trt.called(name)]


def test_everything_is_set(trt: Double, graph: Path) -> None:
    wanted = job(
        graph, optimization_level=4, refit=True, weight_streaming=True, workspace_bytes=1 << 30
    )
    EngineBuilder(trt).build(wanted)
    assert trt.called("Builder.create_network") == [{}]
    assert trt.called("OnnxParser.parse_from_file") == [{"model": str(graph)}]
    shapes = [
        {"input": name, "min": least, "opt": usual, "max": most}
        for profile in PROFILES
        for name, (least, usual, most) in profile.items()
    ]
    assert trt.called("IOptimizationProfile.set_shape") == shapes
    assert len(trt.called("IBuilderConfig.add_optimization_profile")) == len(PROFILES)
    (limit,) = trt.called("IBuilderConfig.set_memory_pool_limit")
    assert (limit["pool"].name, limit["pool_size"]) == ("WORKSPACE", 1 << 30)
    assert trt.called("IBuilderConfig.builder_optimization_level") == [{"value": 4}]
    assert flags(trt, "IBuilderConfig.set_flag") == ["REFIT", "WEIGHT_STREAMING"]
    assert flags(trt, "IBuilderConfig.clear_flag") == []
    assert wanted.plan.read_bytes() == b"plan:sample gain"


def test_nothing_more_is_set(trt: Double, graph: Path) -> None:
    EngineBuilder(trt).build(job(graph, tf32=False))
    assert flags(trt, "IBuilderConfig.set_flag") == []
    assert flags(trt, "IBuilderConfig.clear_flag") == ["TF32"]
    assert trt.called("IBuilderConfig.create_timing_cache") == []
    assert {path.name for path in graph.parent.iterdir()} == {
        "model.onnx",
        "model.onnx.data",
        "model.plan",
    }


def test_the_version_is_the_librarys(trt: Double) -> None:
    assert trt.__version__.startswith(EngineBuilder(trt).version + ".")
    assert EngineBuilder(trt).version.count(".") == 2


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt_bindings"])
def test_the_package_is_found(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Triton's image has the libraries, to which the bindings are added alone."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, package, types.SimpleNamespace(__version__="11.2.1.2"))
    assert find_builder().version == "11.2.1"


def test_a_version_that_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """10.x would build networks that are not strongly typed."""
    monkeypatch.setitem(sys.modules, "tensorrt", types.SimpleNamespace(__version__="10.16.1.11"))
    with pytest.raises(BuildError, match=r"TensorRT 10\.16\.1; allowed: 11\.x"):
        find_builder()


def test_no_tensorrt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BuildError, match=r"no Python package of TensorRT \(.*tensorrt"):
        find_builder()


def test_its_log_is_ours(trt: Double, graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "tensorrt"):
        EngineBuilder(trt).build(job(graph))
    assert [record.message for record in caplog.records if record.name == "tensorrt"] == ["slow"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "a10 measured"),
        ("a10 earlier", "a10 earlier measured"),
        ("l4 earlier", "a10 measured"),
        ("broken", "a10 measured"),
    ],
)
def test_timings_are_kept(trt: Double, graph: Path, before: str | None, after: str) -> None:
    """A cache of another GPU, or one that cannot be read, is replaced."""
    cache = graph.parent / "kept" / "timings"
    if before is not None:
        cache.parent.mkdir()
        cache.write_text(before)
    EngineBuilder(trt).build(job(graph, timing_cache=cache))
    assert cache.read_text() == after
    assert {path.name for path in cache.parent.iterdir()} == {"timings", "timings.lock"}


def test_timings_of_a_build_meanwhile_are_kept_too(trt: Double, graph: Path) -> None:
    cache = graph.parent / "timings"
    build = trt.handlers["Builder.build_serialized_network"]

    def build_beside_another(*args: Any, **kwargs: Any) -> Any:
        cache.write_text("a10 other")
        return build(*args, **kwargs)

    trt.handlers["Builder.build_serialized_network"] = build_beside_another
    EngineBuilder(trt).build(job(graph, timing_cache=cache))
    assert cache.read_text() == "a10 measured other"


def test_every_complaint_of_the_parser_is_told(trt: Double, graph: Path) -> None:
    errors = [("Resize", "up.0"), ("GridSample", "odd")]
    fields = {id(trt.new("ParserError")): ("", "")}
    made = []
    for operator, node in errors:
        error = trt.new("ParserError")
        fields[id(error)] = (operator, node)
        made.append(error)

    def parse(parser: Any, model: str) -> bool:
        parser.__dict__["_num_errors"] = len(made)
        return False

    trt.handlers |= {
        "OnnxParser.parse_from_file": parse,
        "OnnxParser.get_error": lambda parser, index: made[index],
        "ParserError.node_operator": lambda error: fields[id(error)][0],
        "ParserError.node_name": lambda error: fields[id(error)][1],
        "ParserError.desc": lambda error: "not supported",
    }
    told = "model.onnx: .* Resize up.0: not supported; GridSample odd: not supported"
    with pytest.raises(BuildError, match=told):
        EngineBuilder(trt).build(job(graph))


def test_no_gpu_is_told(trt: Double, graph: Path) -> None:
    def refuse(builder: Any, logger: Any) -> None:
        logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.handlers["Builder.__init__"] = refuse
    with pytest.raises(BuildError, match="cannot start: CUDA initialization failure"):
        EngineBuilder(trt).build(job(graph))


def test_ahead_of_time_is_not_for_this_tensorrt(trt: Double, graph: Path) -> None:
    with pytest.raises(BuildError, match=r"compute capability 8\.9; allowed: that of the GPU"):
        EngineBuilder(trt).build(job(graph, compute_capabilities=("8.9",)))


def refit(trt: Double, graph: Path, old: bytes = b"plan:old") -> bytes:
    (graph.parent / "old.plan").write_bytes(old)
    plan = graph.parent / "new.plan"
    try:
        EngineBuilder(trt).refit(graph.parent / "old.plan", graph, plan)
    except RefitError:
        assert not plan.exists()
        raise
    return plan.read_bytes()


def test_refitting(trt: Double, graph: Path) -> None:
    assert refit(trt, graph) == b"refitted"
    assert trt.called("Runtime.deserialize_cuda_engine") == [{"serialized_engine": b"plan:old"}]
    assert trt.called("OnnxParserRefitter.refit_from_file") == [{"model": str(graph)}]
    assert len(trt.called("Refitter.refit_cuda_engine")) == 1
    assert flags(trt, "ISerializationConfig.set_flag") == ["INCLUDE_REFIT"]


@pytest.mark.parametrize(
    ("handler", "result", "message"),
    [
        ("get_all_weights", ["weight", "two"], "1 weights cannot be exchanged: 'bias'"),
        ("get_all_weights", ["weight", "bias", "odd"], "1 weights are not in the graph: 'odd'"),
        ("get_missing_weights", ["bias"], "1 weights are missing: 'bias'"),
        ("get_missing_weights", [""], "1 weights are missing: ''"),
        ("refit_cuda_engine", False, "cannot refit the engine"),
    ],
)
def test_nothing_of_the_old_checkpoint_may_remain(
    trt: Double, graph: Path, handler: str, result: Any, message: str
) -> None:
    trt.handlers[f"Refitter.{handler}"] = lambda refitter: result
    with pytest.raises(RefitError, match=message):
        refit(trt, graph)


@pytest.mark.parametrize(
    ("old", "message"), [(b"fixed", "cannot be exchanged"), (b"broken", "cannot load it")]
)
def test_an_engine_that_cannot_be_refitted(
    trt: Double, graph: Path, old: bytes, message: str
) -> None:
    with pytest.raises(RefitError, match=message):
        refit(trt, graph, old)


def test_a_graph_that_does_not_fit(trt: Double, graph: Path) -> None:
    trt.handlers["OnnxParserRefitter.refit_from_file"] = lambda parser, model: False
    with pytest.raises(RefitError, match=r"model\.onnx"):
        refit(trt, graph)


CHANGES: dict[str, Any] = {
    "a flag is gone": lambda c: c["BuilderFlag"]["members"].pop("REFIT"),
    "a class is gone": lambda c: c.pop("OnnxParser"),
    "a method is gone": lambda c: c["OnnxParser"]["methods"].pop("parse_from_file"),
    "a property is gone": lambda c: c["IBuilderConfig"]["properties"].pop("progress_monitor"),
    "a property cannot be set": lambda c: c["IBuilderConfig"]["properties"][
        "builder_optimization_level"
    ].update(settable=False),
    "an argument is gone": lambda c: c["IOptimizationProfile"]["methods"]["set_shape"][0][
        "arguments"
    ].pop(),
    "an argument has another name": lambda c: c["IBuilderConfig"]["methods"]["set_timing_cache"][0][
        "arguments"
    ][1].update(name="ignore"),
    "an argument has another type": lambda c: c["OnnxParser"]["methods"]["parse_from_file"][0][
        "arguments"
    ][0].update(type="typing.SupportsInt"),
    "a callback gets more": lambda c: c["IProgressMonitor"]["methods"]["step_complete"][0][
        "arguments"
    ].append({"name": "more", "type": "int", "default": False}),
    "refitting gives something else": lambda c: c["Refitter"]["methods"].pop("get_all_weights"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_api_is_noticed(api: dict[str, Any], tmp_path: Path, change: str) -> None:
    CHANGES[change](api["classes"])
    graph = write_graph(tmp_path / "graph", seed=0)
    trt = Fake(Double(api)).double
    with pytest.raises((AttributeError, TypeError)):
        EngineBuilder(trt).build(job(graph, refit=True, timing_cache=tmp_path / "timings"))
        refit(trt, graph)


def test_a_callback_class_has_to_be_started(trt: Double, graph: Path) -> None:
    """pybind11 refuses an object whose class did not call its base's constructor."""
    kind: Any = type("Forgetful", (trt.ILogger,), {"__init__": lambda self: None})
    with pytest.raises(TypeError, match="logger"):
        trt.Builder(kind())
