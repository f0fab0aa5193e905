"""What a build can be asked for. Nothing here takes long to import."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import get_args

from build_engines.errors import BuildError
from pipelines.descriptor import PipelineDescriptor

TARGETS: tuple[str, ...] = get_args(PipelineDescriptor.model_fields["target"].annotation)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_options(name: str, target: str, controlnets: Iterable[str]) -> None:
    """Refuses a target or a name, the pipeline's or a ControlNet's, that cannot be.

    Raises:
        BuildError: names the option, its value and what is allowed.
    """
    if target not in TARGETS:
        raise BuildError(f"target: {target!r} is not available; allowed: {', '.join(TARGETS)}")
    for option, value in (("name", name), *(("controlnet", each) for each in controlnets)):
        if not _NAME.fullmatch(value):
            raise BuildError(
                f"{option}: {value!r}; allowed: 1 to 64 of A-Z a-z 0-9 _ . -, "
                "the first a letter or digit"
            )
