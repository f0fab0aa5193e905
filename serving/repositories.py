"""Checks model repositories before the server starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from pipelines.descriptor import (
    DESCRIPTOR_SUFFIX,
    PipelineDescriptor,
    PipelineError,
    load_all,
)
from pipelines.files import is_model
from segs_client.contract import MODEL_NAME
from serving.errors import RepositoryError


def check_repositories(
    repositories: Sequence[Path], model_repository: Path
) -> Mapping[str, PipelineDescriptor]:
    """Reads the descriptors and checks that Triton can load the models.

    Returns the pipelines, by name.

    Raises:
        RepositoryError: a folder is missing, has no pipeline or a broken one, or contains a folder
            that is no Triton model.
    """
    for folder in (model_repository, *repositories):
        if not folder.is_dir():
            raise RepositoryError(f"{folder}: no such folder")
        _check_models(folder)
    for folder in repositories:
        if not any(folder.glob(f"*{DESCRIPTOR_SUFFIX}")):
            raise RepositoryError(
                f"{folder}: holds no pipeline (no *{DESCRIPTOR_SUFFIX}); build one with "
                f"python -m build_engines CHECKPOINT --name NAME --repository {folder}"
            )
    try:
        pipelines = load_all(repositories)
    except PipelineError as error:
        raise RepositoryError(_short(error)) from error
    for name, (descriptor, folder) in pipelines.items():
        for model in descriptor.models:
            if not (folder / model).is_dir():
                raise RepositoryError(
                    f"{folder}: pipeline {name!r} lacks its model folder {model!r}; build it again"
                )
    return {name: descriptor for name, (descriptor, _) in pipelines.items()}


def model_folders(repository: Path) -> list[Path]:
    """The models' folders: all except hidden ones, such as those of a running build, and a file
    system's ``lost+found``."""
    folders = [path for path in sorted(repository.iterdir()) if is_model(path.name)]
    return [path for path in folders if path.is_dir()]


def descriptors(repositories: Iterable[Path]) -> dict[Path, bytes]:
    """The current content of the repositories' descriptors."""
    found = {}
    for folder in repositories:
        for path in folder.glob(f"*{DESCRIPTOR_SUFFIX}"):
            with contextlib.suppress(OSError):  # being replaced
                found[path] = path.read_bytes()
    return found


def _check_models(folder: Path) -> None:
    """Raises for a folder that is no model: one bad model stops Triton."""
    for path in model_folders(folder):
        if not (path / "config.pbtxt").is_file():
            raise RepositoryError(
                f"{path}: a folder without config.pbtxt is no Triton model; move it elsewhere"
            )
        if not any(version.name.isdecimal() for version in path.iterdir()):
            raise RepositoryError(f"{path}: a Triton model needs a version folder, such as 1")


def _short(error: PipelineError) -> str:
    """The first error of a descriptor."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return str(error)
    first = cause.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    summary = str(error).partition(": ")[0]
    return f"{summary}: not a pipeline descriptor: {field}: {first['msg']}; build it again"


def has_detailer(model_repository: Path) -> bool:
    """Whether the repository contains the front end that canaries call."""
    return (model_repository / MODEL_NAME / "config.pbtxt").is_file()
