"""Builds a pipeline: hash, compare with an existing build, export, check, publish."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from build_engines.describe import describe
from build_engines.embeddings import WithEmbeddings
from build_engines.errors import malformed
from build_engines.existing import check_free, find_unchanged, read_descriptor
from build_engines.fingerprint import build_versions, hash_files
from build_engines.formats import open_checkpoint
from build_engines.lora import WithLoras
from build_engines.options import LoraArgument, TargetOptions, check_options
from build_engines.pipeline import SourcePipeline, open_pipeline
from build_engines.progress import progress
from build_engines.publish import publish, staging
from build_engines.quantize import open_quantizer
from build_engines.targets import Target, open_target
from build_engines.tokenizer import write_tokenizer
from build_engines.triton_config import ensemble_config, model_config
from pipelines.descriptor import DESCRIPTOR_SUFFIX, PipelineDescriptor
from pipelines.files import write_flushed

log = logging.getLogger(__name__)

_VERSION = "1"


def build(
    checkpoint: Path,
    name: str,
    repository: Path,
    target: TargetOptions | None = None,
    controlnets: Mapping[str, Path] | None = None,
    *,
    prediction: str | None = None,
    loras: Sequence[LoraArgument] = (),
    embeddings: Mapping[str, Path] | None = None,
    clip_skip: int | None = None,
) -> PipelineDescriptor:
    """Builds the Triton models of one checkpoint, unless an unchanged build exists.

    Args:
        checkpoint: a diffusers folder with safetensors weights, or a single safetensors file in
            a published layout; of any floating-point dtype.
        name: the pipeline's; its models are ``NAME_unet``, ``NAME_vae_decoder`` and so on.
        repository: the folder for the models and ``NAME.pipeline.json``; created if needed.
        target: the networks' runtime; None: onnxruntime in float32.
        controlnets: the name of each ControlNet → its diffusers folder or safetensors file. X
            becomes the models ``NAME_controlnet_X`` and ``NAME_unet_X``, an ensemble of it and the
            UNet.
        prediction: what the UNet predicts, "epsilon" or "v_prediction", if the checkpoint's value
            is missing or wrong.
        loras: safetensors files, or folders of PEFT or diffusers, that are folded into the weights:
            each with its strength, or with one for the UNet and one for the text encoders.
        embeddings: the name of each textual inversion in prompts → its safetensors file.
        clip_skip: the text encoders' layer that is used, counted from the last one: 1 the last,
            2 the one before it. None: the family's own, 1 for SD1.x and 2 for all others, which
            is also the least.

    Returns:
        The written or existing descriptor.

    Raises:
        BuildError: the build failed; an existing build is unchanged.
    """
    controlnets, embeddings = controlnets or {}, embeddings or {}
    chosen = check_options(name, controlnets, prediction, embeddings)
    made_for = open_target(target or TargetOptions())
    with malformed(checkpoint):
        opened = open_checkpoint(checkpoint)
        if loras:
            opened = WithLoras(opened, loras)
        if embeddings:  # after the LoRAs, which change the tables without the added rows
            opened = WithEmbeddings(opened, embeddings)
        pipeline = open_pipeline(name, opened, controlnets, chosen, clip_skip)
    check_free(repository, name, pipeline.models)
    source = hash_files(pipeline.sources, "Hashing the checkpoint")
    chosen_target = {"target": made_for.name, "precision": made_for.precision}
    built_with = build_versions() | chosen_target | made_for.built_with()
    quantizer = None
    if target is not None and target.quantize is not None:
        quantizer = open_quantizer(target.quantize, made_for, pipeline.unet, controlnets)
        built_with |= quantizer.built_with()
    as_before = partial(
        find_unchanged,
        *(repository, name, source, built_with, pipeline.prediction, pipeline.clip_skip),
    )
    if found := as_before():
        return found
    if quantizer is not None:
        quantizer.reference = build(
            *(checkpoint, name, quantizer.repository, TargetOptions(), controlnets),
            prediction=prediction,
            loras=loras,
            embeddings=embeddings,
            clip_skip=clip_skip,
        )
        pipeline.unet.rewrite = quantizer
    with staging(repository, name) as folder:
        if found := as_before():
            return found  # built by another process meanwhile
        _build_models(pipeline, made_for, folder)
        if quantizer is not None:
            quantizer.write_report(folder / pipeline.unet.model_name(name))
        report = None if quantizer is None else quantizer.report
        descriptor = describe(pipeline, folder, made_for, source, built_with, report)
        filename = name + DESCRIPTOR_SUFFIX
        write_flushed(folder / filename, descriptor.model_dump_json(indent=2) + "\n")
        models = descriptor.models
        if older := read_descriptor(repository, name):
            models += [model for model in older.models if model not in models]
        publish(folder, repository, models, filename)
    log.info("%s: built in %s", name, repository)
    return descriptor


def _build_models(pipeline: SourcePipeline, target: Target, folder: Path) -> None:
    """Builds all Triton models of the pipeline, one network at a time."""
    name, exports = pipeline.name, pipeline.exports
    with progress(f"Building {name}", len(exports) * target.stages, "step") as advance:
        for network, checkpoint in exports:
            config = model_config(network, name, target)
            version = _make_model(folder, network.model_name(name), config)
            role = network.role

            def report(stage: str, role: str = role) -> None:
                advance(what=f"{role}: {stage}")

            target.write(network, checkpoint, version, report)
            gc.collect()  # reference cycles would keep the weights in memory
    for encoder in pipeline.text_encoders:
        write_tokenizer(pipeline.checkpoint, encoder.tokenizer, folder / encoder.model_name(name))
    for model, controlnet in pipeline.ensembles.items():
        version = _make_model(
            folder, model, ensemble_config(pipeline.unet, controlnet, name, target)
        )
        # An ensemble has no file, and copies often omit empty folders.
        (version / ".keep").touch()


def _make_model(folder: Path, name: str, config: str) -> Path:
    """Creates a Triton model's folder with its config.pbtxt; returns its version's folder."""
    version = folder / name / _VERSION
    version.mkdir(parents=True)
    write_flushed(folder / name / "config.pbtxt", config)
    return version
