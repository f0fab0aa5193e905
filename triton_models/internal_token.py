"""The token of this start, a parameter of calls between the server's models.

Any client can call the models behind the front ends, which Triton cannot hide and which do not
check their inputs again. So calls between the models have a random token, which is only in their
environment; calls without it are refused.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

from segs_client.contract import ContractError, ErrorDetail
from triton_models import environment

INTERNAL = "inside"
"""Request parameter: the token."""


def internal_parameters() -> dict[str, str]:
    """Request parameters of a call from one model to another."""
    token = os.environ.get(environment.INTERNAL_TOKEN)
    return {INTERNAL: token} if token else {}


def is_internal(parameters: str) -> bool:
    """Whether a request has the token of this start.

    Args:
        parameters: of the request, as Triton's JSON text.
    """
    token = os.environ.get(environment.INTERNAL_TOKEN)
    given = read_parameters(parameters).get(INTERNAL)
    return bool(token) and isinstance(given, str) and _is_same(given, token or "")


def check_internal(parameters: str) -> None:
    """Refuses a client's call; without a configured token, every call is accepted.

    Raises:
        ContractError: UNAUTHENTICATED.
    """
    if os.environ.get(environment.INTERNAL_TOKEN) and not is_internal(parameters):
        message = "this model is not called from outside; call segs_detailer"
        raise ContractError(ErrorDetail(code="UNAUTHENTICATED", message=message))


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def read_parameters(text: str) -> dict[str, Any]:
    """A request's parameters from Triton's JSON text; empty if a client's values break the JSON."""
    try:
        named = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return named if isinstance(named, dict) else {}


def count_warm_up(config: Mapping[str, Any]) -> int:
    """The number of warm-up requests that Triton sends to an instance, by the model's config; they
    have no parameters."""
    return sum(
        max(1, int(sample.get("count", 0))) * max(1, int(sample.get("batch_size", 0)))
        for sample in config.get("model_warmup", ())
    )
