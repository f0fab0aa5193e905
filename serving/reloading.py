"""Having Triton load models again while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from serving.errors import ServingError
from serving.workspace import ADMIN_HEADER

_RESTRICTED_PREFIX = "triton-grpc-protocol-"
_LOADED = "loaded_again"
"""Parameter of a model's config that tells one load from the next."""


def load_again(url: str, models: Iterable[str], admin_key: str, timeout_s: float) -> None:
    """Loads these models afresh, one after another; each takes over when it is ready.

    Raises:
        ServingError: one does not load.
    """
    headers = {f"{_RESTRICTED_PREFIX}{ADMIN_HEADER}": admin_key}
    with grpc.InferenceServerClient(url) as client:
        for model in models:
            try:
                config = client.get_model_config(model, headers=headers, as_json=True)["config"]
                # Triton leaves alone what has not changed; so the config does.
                changed = {_LOADED: {"string_value": str(time.time())}}
                config["parameters"] = {**config.get("parameters", {}), **changed}
                client.load_model(
                    model, headers=headers, config=json.dumps(config), client_timeout=timeout_s
                )
            except InferenceServerException as error:
                raise ServingError(f"{model} does not load again: {error.message()}") from error
