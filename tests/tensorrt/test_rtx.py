"""The graphs, profiles and options of a build, given to a real parser and a real builder."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from build_engines.attention import CONTRIB_DOMAIN
from build_engines.errors import BuildError
from build_engines.options import QUANTIZATIONS
from build_engines.quantize.structure import check_structure
from build_engines.tensorrt import engine_builder
from build_engines.tensorrt.callbacks import make_monitor
from networks import NetworkExport, Profile
from pipelines.descriptor import Precision, Quantization
from tests.conftest import CONTROLNET
from tests.tensorrt.graphs import ALL, PARTS, export
from tests.tensorrt.quantized import quantize
from tests.tensorrt.rtx import BUILDER, MEMORIES_GB, PROFILES, build_ahead, job, parse

pytestmark = pytest.mark.engines

TENSORRT: dict[str, Any] = json.loads(Path(__file__).with_name("operators.json").read_text())
"""The operators of TensorRT's own parser, as it publishes them."""
WORKS_IN = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
EACH_ONCE = {("fp32", 8.6), ("fp16", 24.1), ("bf16", 85.5)}
"""Each precision and each memory once, for every network; the rest is slow."""


def test_every_kind_of_network_is_looked_at() -> None:
    roles = {part.network.role for part in PARTS.values()}
    assert roles >= {"text_encoder", "text_encoder_2", "unet", "vae_encoder", "vae_decoder"}
    assert any(role.startswith("controlnet") for role in roles)
    assert {part.pipeline for part in PARTS.values()} >= {"sd15", "sd15-inpaint", "sdxl"}


@pytest.mark.parametrize(("name", "precision"), ALL)
def test_the_parser_takes_the_graph(name: str, precision: Precision) -> None:
    path = export(name, precision)
    inputs, complaints = parse(path)
    assert complaints == []
    network = PARTS[name].network
    assert inputs == {tensor.name: (-1, *_dynamic(tensor.dims)) for tensor in network.inputs}
    model = onnx.load(path, load_external_data=False)
    assert foreign(model) == set()
    assert [value.name for value in model.graph.output] == [each.name for each in network.outputs]
    # Strongly typed: the engine computes in the graph's types, so the weights say the precision.
    kinds = [tensor.data_type for tensor in model.graph.initializer]
    assert kinds.count(WORKS_IN[precision]) > len(kinds) / 2


def foreign(model: onnx.ModelProto) -> set[str]:
    """What TensorRT's own parser is not said to take: that for RTX takes some more."""
    least, most = TENSORRT["opset"]
    opsets = {each.domain: each.version for each in model.opset_import}
    used = {(node.domain, node.op_type) for node in model.graph.node}
    found = {name for domain, name in used if domain or name not in TENSORRT["operators"]}
    return found if least <= opsets[""] <= most else found | {f"opset {opsets['']}"}


def test_the_parser_takes_an_operator_that_tensorrts_lacks(tmp_path: Path) -> None:
    """onnxruntime's attention, which graphs for the target ``onnx`` have: hence the list."""
    names = ("q", "k", "v", "y")
    q, k, v, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8, 16]) for name in names
    )
    node = helper.make_node(
        "MultiHeadAttention", ["q", "k", "v"], ["y"], domain=CONTRIB_DOMAIN, num_heads=2
    )
    opsets = [helper.make_opsetid("", 25), helper.make_opsetid(CONTRIB_DOMAIN, 1)]
    graph = helper.make_graph([node], "g", [q, k, v], [y])
    model = helper.make_model(graph, opset_imports=opsets)
    onnx.save(model, tmp_path / "model.onnx")
    assert parse(tmp_path / "model.onnx")[1] == []
    assert foreign(model) == {"MultiHeadAttention", "opset 25"}


def _dynamic(dims: tuple[int | str, ...]) -> Iterator[int]:
    for dim in dims:
        yield -1 if isinstance(dim, str) else dim


def builds() -> Iterator[Any]:
    """Every network in every precision for every memory."""
    for name, precision in ALL:
        done = set()
        for memory_gb in MEMORIES_GB:
            profiles = str(PARTS[name].network.profiles(memory_gb))
            case = (name, precision, memory_gb)
            if profiles in done and case[1:] not in EACH_ONCE:
                continue  # a network without axes has one profile
            done.add(profiles)
            marks = [] if case[1:] in EACH_ONCE else [pytest.mark.slow]
            yield pytest.param(*case, marks=marks, id=f"{name}-{precision}-{memory_gb}")


@pytest.mark.parametrize(("name", "precision", "memory_gb"), list(builds()))
def test_an_engine_is_built(
    name: str, precision: Precision, memory_gb: float, tmp_path: Path
) -> None:
    """Also within the memory: TensorRT's own limit is what is left out of the job."""
    network, graph = PARTS[name].network, export(name, precision)
    plan = build_ahead(network, graph, precision, memory_gb, tmp_path / "model.plan")
    weights = graph.with_name("model.onnx.data").stat().st_size
    assert plan.stat().st_size > weights / 2


def test_a_quarter_of_the_memory_is_no_workspace(tmp_path: Path) -> None:
    """A network that is compiled whole has its activations in it."""
    name, memory_gb = f"sd15-controlnet_{CONTROLNET}", MEMORIES_GB[0]
    network, graph = PARTS[name].network, export(name, "fp32")
    limit = int(memory_gb * 1e9 / 4)
    plan = tmp_path / "model.plan"
    with pytest.raises(BuildError, match=r"within a workspace of 2\.1 GB: .*OutOfMemory"):
        build_ahead(network, graph, "fp32", memory_gb, plan, workspace_bytes=limit)
    assert not plan.exists()


def quantized() -> Iterator[Any]:
    """Networks with the modes of quantisation."""
    for name in ("sd15-text_encoder", "sd15-unet", "sdxl-unet"):
        for mode in QUANTIZATIONS:
            marks = [pytest.mark.slow] if name == "sdxl-unet" else []
            yield pytest.param(name, mode, marks=marks, id=f"{name}-{mode}")


@pytest.mark.parametrize(("name", "mode"), list(quantized()))
def test_an_engine_of_a_quantised_graph_is_built(
    name: str, mode: Quantization, tmp_path: Path
) -> None:
    graph = quantize(export(name, "fp16"), mode, tmp_path / "graph")
    counts = check_structure(graph, mode)
    assert counts["MatMul"][0] > counts["MatMul"][1] / 2
    network = PARTS[name].network
    build_ahead(network, graph, "fp16", MEMORIES_GB[1], tmp_path / "model.plan")


@pytest.mark.parametrize(
    ("precision", "mode", "capability", "lacks"),
    [
        ("bf16", None, "7.5", "sm75.*datatypes: b16"),
        ("fp16", "fp8", "8.6", "sm86.*datatypes: fp8_e4m3"),
    ],
)
def test_a_gpu_without_the_type_is_refused(
    precision: Precision, mode: Quantization | None, capability: str, lacks: str, tmp_path: Path
) -> None:
    network, graph = PARTS["sd15-text_encoder"].network, export("sd15-text_encoder", precision)
    if mode is not None:
        graph = quantize(graph, mode, tmp_path / "graph")
    plan, wanted = tmp_path / "model.plan", (capability,)
    with pytest.raises(BuildError, match=f"Cannot compile for target.*{lacks}"):
        build_ahead(network, graph, precision, MEMORIES_GB[1], plan, compute_capabilities=wanted)


@pytest.mark.parametrize("capability", ["9.0", "8.9x", ""])
def test_a_gpu_that_is_not_compiled_for_is_refused(graph: Path, capability: str) -> None:
    with pytest.raises(BuildError, match=rf"capability 8\.9, {capability}; allowed: SM75, SM80, "):
        BUILDER.build(job(graph, compute_capabilities=("8.9", capability)))


def test_one_plan_for_several_gpus(graph: Path) -> None:
    sizes = []
    for capabilities in (("8.9",), ("8.6", "8.9")):
        wanted = job(graph, compute_capabilities=capabilities)
        BUILDER.build(wanted)
        sizes.append(wanted.plan.stat().st_size)
    assert sizes[1] > sizes[0]


def _with(name: str, *shapes: tuple[int, ...]) -> list[dict[str, Any]]:
    """The first profile with other shapes of an input."""
    return [{**PROFILES[0], name: shapes}]


FAULTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "least above most": (_with("gain", (8, 1), (8, 1), (1, 1)), r"refuses .*MIN<=OPT<=MAX"),
    "usual above most": (_with("gain", (1, 1), (9, 1), (8, 1)), r"refuses .*MIN<=OPT<=MAX"),
    "a negative size": (_with("gain", (-1, 1), (4, 1), (8, 1)), "refuses .*x >= 0"),
    "a fixed axis": (
        _with("sample", (1, 5, 8), (4, 5, 64), (8, 5, 96)),
        "axis 1, profile has min=5, opt=5, max=5 but tensor has 4",
    ),
    "axes exchanged": (
        _with("sample", (1, 8, 4), (4, 64, 4), (8, 96, 4)),
        "axis 1, profile has min=8, opt=64, max=96 but tensor has 4",
    ),
    "an axis too many": (
        _with("gain", (1, 1, 1), (4, 1, 1), (8, 1, 1)),
        "gain has 2 dimensions but profile 0 has 3",
    ),
    "other rows": (_with("gain", (1, 1), (5, 1), (8, 1)), "name batch must be equal.* 4 != 5"),
    "no profile": ([], "no optimization profile has been defined"),
    "an unknown input": ([{**PROFILES[0], "latent": ((1, 1),) * 3}], r"the profile's \['gain', 'l"),
    "a missing input": ([{"gain": PROFILES[0]["gain"]}], r"the profile's \['gain'\]"),
}


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_profile_is_refused(graph: Path, fault: str) -> None:
    profiles, message = FAULTS[fault]
    wanted = job(graph, profiles=profiles, timing_cache=graph.with_name("timings"))
    with pytest.raises(BuildError, match=message):
        BUILDER.build(wanted)
    assert {path.name for path in graph.parent.iterdir()} == {"model.onnx", "model.onnx.data"}


def test_the_library_itself_takes_an_unknown_input(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is why the builder compares the names."""
    monkeypatch.setattr(engine_builder, "_check_inputs", lambda network, profiles: None)
    wanted = job(graph, profiles=FAULTS["an unknown input"][0])
    BUILDER.build(wanted)
    assert wanted.plan.exists()


OPERATORS = {
    "ONNX's own": (helper.make_node("Bernoulli", ["x"], ["y"], name="odd"), "Bernoulli odd: "),
    "onnxruntime's": (
        helper.make_node("FusedGelu", ["x"], ["y"], name="odd", domain=CONTRIB_DOMAIN),
        "FusedGelu odd: ",
    ),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_that_the_parser_lacks_is_named(tmp_path: Path, kind: str) -> None:
    node, message = OPERATORS[kind]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in "xy")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB_DOMAIN, 1)]
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets)
    onnx.save(model, tmp_path / "model.onnx")
    profiles = [{"x": ((1, 1), (2, 1), (4, 1))}]
    with pytest.raises(BuildError, match=rf"model\.onnx: TensorRT cannot parse it: .*{message}"):
        BUILDER.build(job(tmp_path / "model.onnx", profiles=profiles))


def test_a_graph_without_its_weights_is_refused(graph: Path) -> None:
    graph.with_name("model.onnx.data").unlink()
    with pytest.raises(BuildError, match=r"model\.onnx: TensorRT cannot parse it"):
        BUILDER.build(job(graph))


def test_every_option_is_taken(graph: Path) -> None:
    options = {"weight_streaming": True, "tf32": False, "optimization_level": 5}
    wanted = job(graph, **options)
    BUILDER.build(wanted)
    assert wanted.plan.stat().st_size > 0


def test_ctrl_c_ends_a_build(
    graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    main = threading.get_ident()
    interrupted = threading.Event()

    def make_interrupting(trt: Any, cancelled: threading.Event) -> Any:
        monitor = make_monitor(trt, cancelled)

        class Interrupting(type(monitor)):  # type: ignore[misc]
            def step_complete(self, phase_name: str, step: int) -> bool:
                if not interrupted.is_set():
                    interrupted.set()
                    signal.pthread_kill(main, signal.SIGINT)
                    assert cancelled.wait(60)
                return bool(super().step_complete(phase_name, step))

        return Interrupting()

    monkeypatch.setattr(engine_builder, "make_monitor", make_interrupting)
    wanted = job(graph)
    # A shell that starts this in the background has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
            BUILDER.build(wanted)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the build ends at TensorRT's next step" in caplog.text
    assert not wanted.plan.exists()


@pytest.mark.parametrize("memory_gb", MEMORIES_GB)
@pytest.mark.parametrize("name", PARTS)
def test_every_shape_that_is_checked_is_in_a_profile(name: str, memory_gb: float) -> None:
    """An engine is compared with torch at these shapes."""
    network = PARTS[name].network
    for case in network.cases():
        shapes = {
            each.name: (case.rows, *(case.sizes[d] if isinstance(d, str) else d for d in each.dims))
            for each in network.inputs
        }
        assert any(_holds(profile, network, shapes) for profile in network.profiles(memory_gb))


def _holds(profile: Profile, network: NetworkExport, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    for tensor in network.inputs:
        least, _, most = profile.shapes(tensor)
        sizes = zip(least, shapes[tensor.name], most, strict=True)
        if not all(a <= size <= b for a, size, b in sizes):
            return False
    return True
