"""The Python backends of networks, in the torch backend: answers and refusals."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from serving.options import REPOSITORY_ROOT
from tests.triton_models.pb_utils import Request
from triton_models import environment, network_model
from triton_models.state import Heartbeat


def asked(inputs: Mapping[str, Any], outputs: Sequence[str], parameters: str = "") -> Request:
    return Request(inputs, outputs, parameters)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The torch backend's ``model.py``."""
    path = REPOSITORY_ROOT / "backends" / "torch" / "model.py"
    spec = importlib.util.spec_from_file_location("torch_backend_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(network_model, "configure_logging", lambda: None)
    monkeypatch.setattr(Heartbeat, "start_thread", lambda self: None)
    monkeypatch.setattr(module, "lower_priority", lambda niceness: None)
    return module


def arguments(folder: Path, change: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What a model gets from Triton about itself."""
    config: Any = model_config_pb2.ModelConfig()
    text_format.Parse((folder / "config.pbtxt").read_text(), config)
    named = json_format.MessageToDict(
        config, preserving_proto_field_name=True, use_integers_for_enums=False
    )
    parameters = named.get("parameters", {})
    parameters["intra_op_thread_count"] = {"string_value": str(torch.get_num_threads())}
    return {
        "model_config": json.dumps({**named, "parameters": parameters, **(change or {})}),
        "model_name": folder.name,
        "model_instance_name": f"{folder.name}_0_0",
        "model_repository": str(folder),
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


def test_the_backend_answers_and_refuses(torch_repository: Path, backend: ModuleType) -> None:
    folder = torch_repository / "sd15_vae_decoder"
    model = backend.TritonPythonModel()
    model.initialize(arguments(folder))
    latent = torch.zeros(1, 4, 5, 4)
    good = asked({"latent_sample": latent}, ["sample"])
    wrong_shape = asked({"latent_sample": latent[:, :3]}, ["sample"])
    wrong_type = asked({"latent_sample": latent.double()}, ["sample"])
    nothing = asked({}, ["sample"])
    answer, *refused = model.execute([good, wrong_shape, wrong_type, nothing])
    assert not answer.has_error()
    assert answer.named()["sample"].shape == (1, 3, 40, 32)
    assert [each.error().code for each in refused] == ["INVALID_ARG"] * 3
    messages = [str(each.error()) for each in refused]
    assert "shape [1, 3, 5, 4], [1..4, 4, n, n], none 0, is required" in messages[0]
    assert "data type float64, float32 is required" in messages[1]
    assert messages[2] == "sd15_vae_decoder: inputs []: ['latent_sample'] are required"


def test_the_backend_takes_calls_from_within_alone_where_keys_are_asked_for(
    torch_repository: Path, backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.INTERNAL_TOKEN, "token")
    model = backend.TritonPythonModel()
    model.initialize(arguments(torch_repository / "sd15_vae_decoder"))
    inputs = {"latent_sample": torch.zeros(1, 4, 4, 4)}
    warm_up = outside = asked(inputs, ["sample"])
    within = asked(inputs, ["sample"], '{"inside": "token"}')
    warmed, refused, answered = model.execute([warm_up, outside, within])
    assert not warmed.has_error()
    assert not answered.has_error()
    assert refused.error().code == "INVALID_ARG"
    assert '"code":"UNAUTHENTICATED"' in str(refused.error())


def test_the_backend_hides_its_own_faults(
    torch_repository: Path, backend: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    model = backend.TritonPythonModel()
    model.initialize(arguments(torch_repository / "sd15_vae_decoder"))

    def fail(inputs: object) -> None:
        raise RuntimeError("CUDA error at /secret/path.py")

    model._session = SimpleNamespace(run=fail)
    (answer,) = model.execute([asked({"latent_sample": torch.zeros(1, 4, 4, 4)}, ["sample"])])
    assert answer.error().code == "INTERNAL"
    assert "secret" not in str(answer.error())
    assert str(answer.error()).split()[-1] in caplog.text


def test_config_and_network_must_agree(torch_repository: Path, backend: ModuleType) -> None:
    change = {"input": [{"name": "latent", "data_type": "TYPE_FP32", "dims": ["4", "-1", "-1"]}]}
    with pytest.raises(ValueError, match=r"disagree on tensors \['latent', 'latent_sample'\]"):
        backend.TritonPythonModel().initialize(
            arguments(torch_repository / "sd15_vae_decoder", change)
        )
