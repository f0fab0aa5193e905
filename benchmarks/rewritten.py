"""A pipeline like another one, with other networks in it: needs no checkpoint of their size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pipelines import load_all
from pipelines.descriptor import DESCRIPTOR_SUFFIX, Precision
from pipelines.files import model_files, sha256

_CONTEXT_TENSORS = ("encoder_hidden_states", "hidden_state")

WriteNetwork = Callable[[str, Path, Any], None]
"""Writes the files of a role's network into a folder, its version's. The third argument is its
Triton model's config, which may be changed."""


def rewrite(
    source: Path,
    folder: Path,
    name: str,
    *,
    context_dim: int,
    write: WriteNetwork,
    precision: Precision | None = None,
) -> None:
    """Writes the pipeline ``name`` into a folder: the tensors, limits, tokenizers and schedule of
    the only pipeline in ``source``, whose shapes but the context's width do not depend on the
    networks' size. Its models have no warm-up.

    Args:
        context_dim: width of the encoded text.
        precision: of its networks; None: the source's.
    """
    ((descriptor, _),) = load_all([source]).values()
    models = {role: f"{name}_{role}" for role in descriptor.networks}
    for role, network in descriptor.networks.items():
        path = folder / models[role]
        (path / "1").mkdir(parents=True, exist_ok=True)
        config = _config(source / network.model / "config.pbtxt", models[role], context_dim)
        write(role, path / "1", config)
        (path / "config.pbtxt").write_text(text_format.MessageToString(config))
    encoders = []
    for spec in descriptor.text_encoders:
        tokenizer = f"{models[spec.role]}/tokenizer.json"
        (folder / tokenizer).write_bytes((source / spec.tokenizer).read_bytes())
        encoders.append(spec.model_copy(update={"tokenizer": tokenizer}))
    networks = {}
    for role, network in descriptor.networks.items():
        files = {each: sha256(path) for each, path in model_files(folder, [models[role]]).items()}
        networks[role] = network.model_copy(update={"model": models[role], "files": files})
    written = descriptor.model_copy(
        update={
            "name": name,
            "precision": precision or descriptor.precision,
            "context_dim": context_dim,
            "networks": networks,
            "text_encoders": tuple(encoders),
        }
    )
    (folder / f"{name}{DESCRIPTOR_SUFFIX}").write_text(written.model_dump_json(indent=2))


def _config(source: Path, name: str, context_dim: int) -> Any:
    """A network's Triton config, with another name and width of context."""
    config = model_config_pb2.ModelConfig()
    text_format.Parse(source.read_text(), config)
    config.name = name
    config.ClearField("model_warmup")
    for tensor in (*config.input, *config.output):
        if tensor.name in _CONTEXT_TENSORS:
            tensor.dims[-1] = context_dim
    return config
