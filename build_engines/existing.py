"""Finds existing builds in a repository, and whether one is up to date."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from build_engines.errors import OptionError
from build_engines.fingerprint import hash_files
from build_engines.options import PredictionType
from pipelines.descriptor import DESCRIPTOR_SUFFIX, PipelineDescriptor
from pipelines.files import model_files

log = logging.getLogger(__name__)


def read_descriptor(repository: Path, name: str) -> PipelineDescriptor | None:
    """The descriptor of an existing build; None if there is no readable one."""
    path = repository / f"{name}{DESCRIPTOR_SUFFIX}"
    try:
        return PipelineDescriptor.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        log.info("%s: not a descriptor that can be read", path)
        return None


def find_unchanged(
    repository: Path,
    name: str,
    source: Mapping[str, str],
    built_with: Mapping[str, str],
    prediction: PredictionType,
    clip_skip: int,
) -> PipelineDescriptor | None:
    """The existing build, if it is complete and a new build would be equal to it."""
    found = read_descriptor(repository, name)
    if found is None or (found.source, found.built_with) != (source, built_with):
        return None
    if (found.prediction, found.clip_skip) != (prediction, clip_skip):
        return None
    if not _is_whole(found, repository):
        log.info("%s: files were changed or lost since they were built", name)
        return None
    log.info("%s: unchanged, nothing to build", name)
    return found


def check_free(repository: Path, name: str, models: Iterable[str]) -> None:
    """Checks that no other pipeline has a model of these names: the UNet of the pipeline
    ``a_controlnet`` has the same name as the ControlNet ``unet`` of the pipeline ``a``.

    Raises:
        OptionError: names the model and the other pipeline; or the repository is Python code.
    """
    if (repository / "__init__.py").exists():
        raise OptionError(f"repository: {repository} is a Python package; choose another folder")
    for path in sorted(repository.glob(f"*{DESCRIPTOR_SUFFIX}")):
        other = path.name.removesuffix(DESCRIPTOR_SUFFIX)
        found = None if other == name else read_descriptor(repository, other)
        taken = set(found.models).intersection(models) if found else ()
        for model in taken:
            raise OptionError(f"name: the pipeline {other!r} in {repository} has a {model!r} too")


def _is_whole(found: PipelineDescriptor, repository: Path) -> bool:
    """Whether the build has exactly its files, byte for byte."""
    files = {path: sha for network in found.all_networks for path, sha in network.files.items()}
    paths = model_files(repository, found.models)
    if paths.keys() != files.keys():
        return False
    return hash_files(paths, "Comparing with the models built before") == files
