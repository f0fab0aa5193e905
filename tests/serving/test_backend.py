"""The Python onnxruntime backend inside a real server."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import tritonclient.grpc as grpc
from grpc import RpcError, insecure_channel
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from serving.errors import ModelsDownError
from serving.server import EmbeddedServer

pytestmark = pytest.mark.server


def _double(server: EmbeddedServer, shape: tuple[int, ...]) -> NDArray[np.float32]:
    tensor = grpc.InferInput("x", list(shape), "FP32")
    tensor.set_data_from_numpy(np.ones(shape, np.float32))
    with grpc.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(
            "double",
            [tensor],
            client_timeout=10,
            parameters={"inside": server.credentials.inside},
        )
    values: NDArray[np.float32] = answer.as_numpy("y")
    return values


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (4, 300)])
def test_answers_any_free_size(server: EmbeddedServer, shape: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(_double(server, shape), np.full(shape, 2, np.float32))


@pytest.mark.parametrize("shape", [(1, 0), (0, 4), (5, 4), (2, 2, 2), (4,)])
def test_refuses_a_wrong_shape_and_answers_on(
    server: EmbeddedServer, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        _double(server, shape)
    assert "INVALID_ARGUMENT" in str(refused.value.status())
    assert "model.py" not in str(refused.value)
    assert _double(server, (1, 3)).shape == (1, 3)
    server.check()


@pytest.mark.parametrize("shape", [(1, 2**62), (1, 2**62 + 3)])
def test_a_shape_whose_bytes_wrap_costs_a_load_of_the_network(
    server: EmbeddedServer, shape: tuple[int, int]
) -> None:
    """Triton 2.51 takes such a shape where the wrapped product is as long as what was sent."""
    request = service_pb2.ModelInferRequest(model_name="double")
    request.inputs.add(name="x", datatype="FP32", shape=shape)
    request.raw_input_contents.append(bytes(shape[0] * shape[1] * 4 % 2**64 % 2**20))
    with pytest.raises(RpcError), insecure_channel(server.grpc_url) as channel:
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=2)
    server.wait(5.0, threading.Event())
    with pytest.raises(ModelsDownError, match=r"have ended: double_0_0$") as down:
        server.check()
    server.reload(down.value)
    assert _double(server, (1, 3)).shape == (1, 3)
    server.check()


def test_python_models_see_our_packages_and_pipelines(server: EmbeddedServer) -> None:
    tensor = grpc.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b""], dtype=np.object_))
    with grpc.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer("echo", [tensor], client_timeout=10).as_numpy("text")[0].decode()
    assert answer.split(" ")[0] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_calls_that_change_the_server_are_closed(server: EmbeddedServer) -> None:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        for call in (client.get_system_shared_memory_status, client.get_model_repository_index):
            with pytest.raises(InferenceServerException, match="admin-key"):
                call()


def test_memory_of_the_whole_tree(server: EmbeddedServer) -> None:
    memory = server.rss_bytes()
    assert 50e6 < memory.pss_bytes <= memory.rss_bytes < 1.5e9
