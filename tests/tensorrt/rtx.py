"""TensorRT for RTX: a real parser and a real builder of engines, which need no GPU.

It compiles ahead of time for the compute capabilities that it is given; what it has built can be
loaded, run or refitted only where there is a driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorrt_rtx_bindings as trt

from build_engines.options import TargetOptions
from build_engines.targets.tensorrt import TensorRtTarget
from build_engines.tensorrt import EngineBuilder, Job
from networks import NetworkExport
from pipelines.descriptor import Precision
from pipelines.gpu import Gpu

MEMORIES_GB = (8.6, 24.1, 85.5)
"""One GPU of each class that has profiles of its own: 8, 24 and 80 GB as they are sold."""
ADA = "8.9"
"""A compute capability that has every type."""
BUILDER = EngineBuilder(trt)


def build_ahead(
    network: NetworkExport,
    graph: Path,
    precision: Precision,
    memory_gb: float,
    plan: Path,
    **changes: Any,
) -> Path:
    """Builds a graph as the target ``tensorrt`` would on a GPU with this memory; ``changes`` are to
    its job. Returns the plan."""
    gpu = Gpu("NVIDIA L4", ADA, memory_gb, "580.95.05")
    target = TensorRtTarget(BUILDER, gpu, precision, TargetOptions(name="tensorrt"))
    job = target.job(network, graph, plan)
    BUILDER.build(replace(job, **{"compute_capabilities": (ADA,), **changes}))
    return plan


def parse(graph: Path) -> tuple[Mapping[str, tuple[int, ...]], list[str]]:
    """The inputs that TensorRT finds in a graph, by name, with −1 for a dynamic axis; and its
    complaints."""
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network()
    parser = trt.OnnxParser(network, logger)
    parser.parse_from_file(str(graph))
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    complaints = [parser.get_error(i).desc() for i in range(parser.num_errors)]
    return {each.name: tuple(each.shape) for each in tensors}, complaints


def job(graph: Path, **options: Any) -> Job:
    """A job for the small graph of :func:`tests.tensorrt.conftest.write_graph`."""
    return Job(
        **{
            "graph": graph,
            "plan": graph.with_name("model.plan"),
            "profiles": PROFILES,
            "compute_capabilities": (ADA,),
            **options,
        }
    )


PROFILES = [
    {"sample": ((1, 4, 8), (4, 4, 64), (8, 4, 96)), "gain": ((1, 1), (4, 1), (8, 1))},
    {"sample": ((1, 4, 8), (1, 4, 128), (2, 4, 256)), "gain": ((1, 1), (1, 1), (2, 1))},
]
