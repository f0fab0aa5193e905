"""All that can be told before tritonserver starts."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines import PipelineDescriptor
from serving.api_keys import read_keys
from serving.engines import check_engines
from serving.exposure import check_exposure
from serving.installation import Installation, check_libraries, find_installation
from serving.options import ServerOptions
from serving.repositories import check_repositories


def preflight(options: ServerOptions) -> tuple[Mapping[str, PipelineDescriptor], Installation]:
    """Checks repositories, installation, engines, and what the server will be open to.

    Returns the pipelines by name, and the tritonserver to run.

    Raises:
        ServingError: what is missing or broken, and what to do about it.
    """
    pipelines = check_repositories(options.repositories, options.model_repository)
    installation = find_installation(options.tritonserver)
    check_libraries(installation)
    check_engines(options.repositories, installation)
    check_exposure(options, installation)
    if options.api_keys is not None:
        read_keys(options.api_keys)
    return pipelines, installation
