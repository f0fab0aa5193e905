"""The token of this start, which calls from within the server carry, and clients' calls do not.

The models behind the front ends can be called by any client of the port; Triton cannot hide them,
and what they accept was checked by those in front of them. So calls between our models carry a
random token, which stands in their environment only, and a call without it is refused.
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
    """Request parameters of a call from one of our models to another."""
    token = os.environ.get(environment.INTERNAL_TOKEN)
    return {INTERNAL: token} if token else {}


def is_internal(parameters: str) -> bool:
    """Whether a request carries the token of this start.

    Args:
        parameters: of the request as Triton gives them: the text of a JSON object.
    """
    token = os.environ.get(environment.INTERNAL_TOKEN)
    given = read_parameters(parameters).get(INTERNAL)
    return bool(token) and isinstance(given, str) and _is_same(given, token or "")


def check_internal(parameters: str) -> None:
    """Refuses a call from outside; where no token is set, every call is accepted.

    Raises:
        ContractError: UNAUTHENTICATED.
    """
    if os.environ.get(environment.INTERNAL_TOKEN) and not is_internal(parameters):
        message = "this model is not called from outside; call segs_detailer"
        raise ContractError(ErrorDetail(code="UNAUTHENTICATED", message=message))


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def read_parameters(text: str) -> dict[str, Any]:
    """A request's parameters as Triton gives them, the text of a JSON object; none where that is
    broken by what a client put in."""
    try:
        named = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return named if isinstance(named, dict) else {}


def count_warm_up(config: Mapping[str, Any]) -> int:
    """How many requests Triton itself sends an instance of a model before it is ready, from its
    config as JSON gives it; they carry no parameters."""
    return sum(
        max(1, int(sample.get("count", 0))) * max(1, int(sample.get("batch_size", 0)))
        for sample in config.get("model_warmup", ())
    )
