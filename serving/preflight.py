"""Checks before the start of tritonserver."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from pipelines import PipelineDescriptor, PipelineError
from pipelines.files import check_files
from serving.engines import check_engines
from serving.errors import RepositoryError, StartError
from serving.exposure import check_exposure
from serving.installation import Installation, check_libraries, find_installation
from serving.leftovers import SHARED_MEMORY
from serving.options import ServerOptions
from serving.repositories import check_repositories
from triton_models.api_keys import read_keys
from triton_models.tracing import check_tracing

_LEAST_SHARED_BYTES = 32 << 20
"""Each Python model needs 1 MiB before its first request, and tensors pass through it."""


def check_shared_memory() -> None:
    """Checks that there is enough shared memory: without it, Triton's Python models end.

    Raises:
        StartError: there is too little.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError as error:
        raise StartError(f"{SHARED_MEMORY}: {error.strerror}; Triton's models need it") from error
    if free < _LEAST_SHARED_BYTES:
        raise StartError(
            f"{SHARED_MEMORY} has {free >> 20} MiB free; {_LEAST_SHARED_BYTES >> 20} MiB are the "
            "least to start with, and pictures need more (in a container: shm_size, or --shm-size)"
        )


def preflight(options: ServerOptions) -> tuple[Mapping[str, PipelineDescriptor], Installation]:
    """Checks repositories, installation, engines and exposure.

    Returns the pipelines by name, and the tritonserver to run.

    Raises:
        ServingError: has the problem and the remedy.
    """
    check_shared_memory()
    check_tracing(os.environ)
    pipelines = check_repositories(options.repositories, options.model_repository)
    if options.verify:
        _verify(options)
    installation = find_installation(options.tritonserver)
    check_libraries(installation)
    check_engines(options.repositories, installation)
    check_exposure(options, installation)
    if options.api_keys is not None:
        read_keys(options.api_keys)
    return pipelines, installation


def _verify(options: ServerOptions) -> None:
    try:
        check_files(options.repositories)
    except PipelineError as error:
        raise RepositoryError(str(error)) from error
