"""Reloads models of a running Triton."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping

from tritonclient.utils import InferenceServerException

from serving.connection import Connection
from serving.errors import ServingError

_LOADED = "loaded_again"
"""Parameter of a model's config that changes with each load."""
_CONFIG_S = 10.0
"""Time-out of reading a model's config."""


def load_again(
    server: Connection, models: Iterable[str], headers: Mapping[str, str], timeout_s: float
) -> None:
    """Loads these models again, one after another; Triton replaces each when it is ready.

    Args:
        headers: metadata of calls that change the server.

    Raises:
        ServingError: a model does not load.
    """
    admin = dict(headers)
    with server.open() as client:
        for model in models:
            try:
                loaded = client.get_model_config(
                    model, headers=admin, as_json=True, client_timeout=_CONFIG_S
                )
                config = loaded["config"]
                # Triton does not reload an unchanged model; so the config changes.
                changed = {_LOADED: {"string_value": str(time.time())}}
                config["parameters"] = {**config.get("parameters", {}), **changed}
                client.load_model(
                    model, headers=admin, config=json.dumps(config), client_timeout=timeout_s
                )
            except InferenceServerException as error:
                raise ServingError(f"{model} does not load again: {error.message()}") from error
