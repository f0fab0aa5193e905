"""Makes the descriptor of a built pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from build_engines.fingerprint import hash_files
from build_engines.pipeline import SourcePipeline
from build_engines.preview import fit_preview
from build_engines.quantize.report import QualityReport
from build_engines.targets import Target
from build_engines.tokenizer import TOKENIZER_FILE, text_encoder_spec
from networks import NetworkExport, VaeDecoder
from pipelines.descriptor import ControlNetSpec, Network, NetworkRole, PipelineDescriptor


def describe(
    pipeline: SourcePipeline,
    folder: Path,
    target: Target,
    source: dict[str, str],
    built_with: dict[str, str],
    quantized: QualityReport | None = None,
) -> PipelineDescriptor:
    """The descriptor of the models in ``folder``; ``quantized``: the report of the UNet's
    quantisation, if any."""
    name, checkpoint, unet = pipeline.name, pipeline.checkpoint, pipeline.unet
    decoder = next(each for each in pipeline.networks if isinstance(each, VaeDecoder))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = hash_files(
        {path.relative_to(folder).as_posix(): path for path in paths}, "Hashing the models"
    )
    controlnets = {}
    for ensemble, controlnet in pipeline.ensembles.items():
        network = _network(controlnet, name, target, files, ensemble)
        controlnets[controlnet.name] = ControlNetSpec(network=network, unet=ensemble)
    return PipelineDescriptor(
        name=name,
        family=pipeline.family.name,
        target=target.name,
        precision=target.precision,
        quantization=quantized.quantization if quantized else None,
        quality=quantized.quality if quantized else None,
        engine=target.engine,
        prediction=pipeline.prediction,
        clip_skip=pipeline.clip_skip,
        schedule=pipeline.schedule,
        unet_channels=unet.config["in_channels"],
        latent_channels=decoder.config["latent_channels"],
        latent_scale=decoder.latent_scale,
        preview=fit_preview(checkpoint, pipeline.networks),
        context_dim=unet.context_dim,
        text_encoders=tuple(
            text_encoder_spec(checkpoint, each, f"{each.model_name(name)}/{TOKENIZER_FILE}")
            for each in pipeline.text_encoders
        ),
        networks={
            cast(NetworkRole, each.role): _network(each, name, target, files)
            for each in pipeline.networks
        },
        residuals={each.name: each.channels for each in unet.residuals},
        controlnets=controlnets,
        source=source,
        built_with=built_with,
    )


def _network(
    network: NetworkExport, pipeline: str, target: Target, files: Mapping[str, str], *ensembles: str
) -> Network:
    """``ensembles``: further models whose files belong to the network."""
    model = network.model_name(pipeline)
    limits = network.limits(target.memory_gb)
    return Network(
        model=model,
        max_batch=limits.max_batch,
        max_batch_elements=limits.max_batch_elements,
        boxes=limits.boxes,
        inputs={tensor.name: tensor.dtype for tensor in network.inputs},
        outputs={tensor.name: tensor.dtype for tensor in network.outputs},
        files={f: h for f, h in files.items() if f.split("/")[0] in (model, *ensembles)},
    )
