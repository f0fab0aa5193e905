"""Which calls come from within the server: those with a token of this start.

The models behind ``segs_detailer`` can be called by any client of the port; Triton cannot hide
them, and what they take was checked by those in front of them. So calls between our models carry a
random token, which is known to their environment only, and a call without it is refused.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

from segs_client.contract import ContractError, ErrorDetail

INSIDE_VARIABLE = "SEGS_INSIDE"
"""Environment variable of the Python models: the token. Unset, as in a server that somebody else
started, all calls are taken."""
_PARAMETER = "inside"


def inside_parameters() -> dict[str, str]:
    """Request parameters of a call from one of our models to another."""
    token = os.environ.get(INSIDE_VARIABLE)
    return {_PARAMETER: token} if token else {}


def check_inside(parameters: str) -> None:
    """Refuses a call from outside.

    Args:
        parameters: of the request as Triton gives them: the text of a JSON object.

    Raises:
        ContractError: UNAUTHENTICATED.
    """
    token = os.environ.get(INSIDE_VARIABLE)
    if not token:
        return
    given = read_parameters(parameters).get(_PARAMETER)
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), token.encode()):
        message = "this model is not called from outside; call segs_detailer"
        raise ContractError(ErrorDetail(code="UNAUTHENTICATED", message=message))


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
