"""The stored form of a network for torch: its weights, and the arguments of its module.

``model.safetensors`` contains the tensors, ``network.json`` all else; nothing is pickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import nn

import networks
from networks import Adapter, NetworkExport
from networks.precision import lowered
from pipelines.descriptor import Precision
from pipelines.files import write_flushed

WEIGHTS_FILE = "model.safetensors"
NETWORK_FILE = "network.json"

_CLASSES: dict[str, type[NetworkExport]] = {
    name: each
    for name in networks.__all__
    if isinstance(each := getattr(networks, name), type) and issubclass(each, NetworkExport)
}


class NetworkFile(BaseModel):
    """The content of ``network.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    network: Annotated[str, Field(description="class in networks")]
    arguments: dict[str, Any]
    config: dict[str, Any]
    precision: Precision
    float32: Annotated[
        tuple[str, ...], Field(description="blocks that stay in float32, by name")
    ] = ()

    def made(self) -> NetworkExport:
        """Creates the network.

        Raises:
            ValueError: there is no such class.
        """
        if self.network not in _CLASSES:
            raise ValueError(f"network: {self.network!r}; known: {', '.join(sorted(_CLASSES))}")
        return _CLASSES[self.network](config=self.config, **self.arguments)


@dataclass(frozen=True)
class StoredNetwork:
    """A network and its module, which has FP32 inputs and outputs in every precision."""

    network: NetworkExport
    module: nn.Module
    precision: Precision


def write_network(
    network: NetworkExport,
    module: Adapter,
    folder: Path,
    *,
    precision: Precision,
    float32: tuple[str, ...] = (),
) -> None:
    """Writes both files into ``folder``.

    Args:
        module: loaded, in the precision, with the blocks ``float32`` in float32.
    """
    description = NetworkFile(
        network=type(network).__name__,
        arguments=network.arguments,
        config=dict(network.config),
        precision=precision,
        float32=float32,
    )
    text, weights = folder / NETWORK_FILE, folder / WEIGHTS_FILE
    write_flushed(text, description.model_dump_json(indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, weights)
    weights.chmod(text.stat().st_mode)  # safetensors sets mode 600


def read_network(folder: Path, device: torch.device) -> StoredNetwork:
    """Creates the module with its weights on the device.

    Raises:
        OSError, ValueError: a file is missing or invalid.
        RuntimeError: the weights do not fit the network.
    """
    description = NetworkFile.model_validate_json((folder / NETWORK_FILE).read_bytes())
    network = description.made()
    module = network.skeleton()
    runnable = lowered(network, module, description.precision, description.float32)
    state = load_file(folder / WEIGHTS_FILE, device=str(device))
    module.load_state_dict(state, assign=True)
    network.complete(module)
    return StoredNetwork(network, runnable.eval().requires_grad_(False), description.precision)
