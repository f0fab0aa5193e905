"""Builds a pipeline: hash, compare with what is there, export and check, put into place."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from build_engines.checkpoint import Checkpoint, open_checkpoint
from build_engines.export import export_onnx
from build_engines.families import Family, detect
from build_engines.fingerprint import build_versions, sha256
from build_engines.networks import NetworkExport
from build_engines.options import check_options
from build_engines.progress import Advance, progress
from build_engines.publish import publish, staging, write_flushed
from build_engines.schedule import Prediction, read_prediction, read_schedule
from build_engines.tokenizer import TOKENIZER_FILE, text_encoder_spec, write_tokenizer
from build_engines.triton_config import model_config
from build_engines.verify import references, verify
from pipelines.descriptor import (
    DESCRIPTOR_SUFFIX,
    Network,
    PipelineDescriptor,
    Schedule,
)

log = logging.getLogger(__name__)

DEFAULT_LATENT_SCALE = 0.18215
_VERSION = "1"
_STAGES = ("load", "run in torch", "export", "check")


def build(
    checkpoint: Path, name: str, repository: Path, target: str = "onnx"
) -> PipelineDescriptor:
    """Builds the Triton models of one checkpoint, unless an unchanged build is there already.

    Args:
        checkpoint: a diffusers folder with safetensors weights, of any floating-point dtype.
        name: the pipeline's; its models are ``NAME_unet``, ``NAME_vae_decoder`` and so on.
        repository: the folder that gets the models and ``NAME.pipeline.json``; made if needed.
        target: what runs the networks; only "onnx".

    Returns:
        The descriptor that was written, or found.

    Raises:
        BuildError: nothing was changed: a build that was there before is still whole.
    """
    check_options(name, target)
    opened = open_checkpoint(checkpoint)
    family = detect(opened)
    schedule, prediction = read_schedule(opened), read_prediction(opened)
    source = _hash(family.source_files(opened), "Hashing the checkpoint")
    built_with = build_versions()
    if found := _unchanged(repository, name, source, built_with):
        return found
    with staging(repository, name) as folder:
        if found := _unchanged(repository, name, source, built_with):
            return found  # another process has just built it
        networks = family.open_networks(opened)
        _build_models(opened, family, networks, name, folder)
        descriptor = _describe(
            opened, family, schedule, prediction, networks, name, folder, source, built_with
        )
        filename = name + DESCRIPTOR_SUFFIX
        write_flushed(folder / filename, descriptor.model_dump_json(indent=2) + "\n")
        models = [network.model_name(name) for network in networks]
        if older := _read(repository, name):
            models += [old.model for old in older.networks.values() if old.model not in models]
        publish(folder, repository, models, filename)
    log.info("%s: built in %s", name, repository)
    return descriptor


def _build_models(
    checkpoint: Checkpoint,
    family: Family,
    networks: list[NetworkExport],
    name: str,
    folder: Path,
) -> None:
    with progress(f"Building {name}", len(networks) * len(_STAGES), "step") as advance:
        for network in networks:
            model = folder / network.model_name(name)
            (model / _VERSION).mkdir(parents=True)
            _build_network(network, checkpoint, model / _VERSION, advance)
            write_flushed(model / "config.pbtxt", model_config(network, name))
            gc.collect()  # a module's cycles would keep its weights while the next one loads
    encoder = next(network for network in networks if network.role == "text_encoder")
    write_tokenizer(checkpoint, family.tokenizer, folder / encoder.model_name(name))


def _build_network(
    network: NetworkExport, checkpoint: Checkpoint, folder: Path, advance: Advance
) -> None:
    """One network: torch's weights are let go before onnxruntime gets its own."""
    module = network.load(checkpoint)
    advance(what=f"{network.role}: loaded")
    expected = references(network, module)
    advance(what=f"{network.role}: run in torch")
    network.prepare(module)
    path = export_onnx(network, module, folder)
    del module
    gc.collect()
    advance(what=f"{network.role}: exported")
    error = verify(network, path, expected)
    advance(what=f"{network.role}: agrees with torch (relative error {error:.1e})")


def _describe(
    checkpoint: Checkpoint,
    family: Family,
    schedule: Schedule,
    prediction: Prediction,
    networks: list[NetworkExport],
    name: str,
    folder: Path,
    source: dict[str, str],
    built_with: dict[str, str],
) -> PipelineDescriptor:
    models = {network.role: network.model_name(name) for network in networks}
    files = [
        path.relative_to(folder).as_posix()
        for model in models.values()
        for path in sorted((folder / model).rglob("*"))
        if path.is_file()
    ]
    hashes = _hash({file: folder / file for file in files}, "Hashing the models")
    vae, unet = checkpoint.json("vae/config.json"), checkpoint.json("unet/config.json")
    return PipelineDescriptor(
        name=name,
        family=family.name,
        target="onnx",
        prediction=prediction,
        schedule=schedule,
        unet_channels=unet["in_channels"],
        latent_channels=vae["latent_channels"],
        latent_scale=vae.get("scaling_factor", DEFAULT_LATENT_SCALE),
        context_dim=unet["cross_attention_dim"],
        text_encoders=(
            text_encoder_spec(
                checkpoint,
                family.tokenizer,
                "text_encoder",
                f"{models['text_encoder']}/{TOKENIZER_FILE}",
            ),
        ),
        networks={
            network.role: Network(
                model=models[network.role],
                max_batch=network.max_batch,
                inputs={tensor.name: tensor.dtype for tensor in network.inputs},
                outputs={tensor.name: tensor.dtype for tensor in network.outputs},
                files={f: h for f, h in hashes.items() if f.split("/")[0] == models[network.role]},
            )
            for network in networks
        },
        source=source,
        built_with=built_with,
    )


def _read(repository: Path, name: str) -> PipelineDescriptor | None:
    """The descriptor of an older build; None if there is none that can be read."""
    path = repository / f"{name}{DESCRIPTOR_SUFFIX}"
    try:
        return PipelineDescriptor.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        log.info("%s: not readable, building anew", path)
        return None


def _unchanged(
    repository: Path, name: str, source: dict[str, str], built_with: dict[str, str]
) -> PipelineDescriptor | None:
    """The build that is there, if it is whole and building it again would give the same."""
    found = _read(repository, name)
    if found is None or (found.source, found.built_with) != (source, built_with):
        return None
    if not _is_whole(found, repository):
        log.info("%s: files were changed or lost since they were built", name)
        return None
    log.info("%s: unchanged, nothing to build", name)
    return found


def _is_whole(found: PipelineDescriptor, repository: Path) -> bool:
    """Whether every file of the build is there, byte for byte."""
    files = {path: sha for net in found.networks.values() for path, sha in net.files.items()}
    paths = {file: repository / file for file in files}
    if not all(path.is_file() for path in paths.values()):
        return False
    return _hash(paths, "Comparing with the models built before") == files


def _hash(files: Mapping[str, Path], title: str) -> dict[str, str]:
    """SHA-256 of each file, by its name."""
    total = sum(path.stat().st_size for path in files.values())
    with progress(f"{title} ({total / 1e6:.0f} MB)", total, "B") as advance:
        return {name: sha256(path, advance) for name, path in files.items()}
