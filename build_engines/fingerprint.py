"""SHA-256 of files, and the versions that a build depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from build_engines.progress import progress
from pipelines.files import sha256

_ROOT = Path(__file__).parent.parent
_CODE = ("build_engines", "networks")
_LIBRARIES = (
    "diffusers",
    "onnx",
    "onnxruntime",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


def hash_files(files: Mapping[str, Path], title: str) -> dict[str, str]:
    """SHA-256 of each file by its name; ``title`` is that of the progress."""
    total = sum(path.stat().st_size for path in files.values())
    with progress(f"{title} ({total / 1e6:.0f} MB)", total, "B") as advance:
        return {name: sha256(path, advance) for name, path in files.items()}


def build_versions(root: Path = _ROOT) -> dict[str, str]:
    """The libraries' versions, and under ``build_engines`` a digest of the code that makes a build:
    this package's and the networks'."""
    files = (file for folder in _CODE for file in (root / folder).rglob("*.py"))
    return {
        **{name: version(name) for name in _LIBRARIES},
        "build_engines": _digest(sorted(files), root),
    }


def _digest(files: Iterable[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()} {sha256(path)}\n".encode())
    return digest.hexdigest()
