"""Logging inside Triton's Python models, with level and name for the supervisor."""

from __future__ import annotations

import logging
import os
import sys

from triton_models import environment
from triton_models.log_format import TEXT_FORMAT, JsonFormatter


def configure_logging() -> None:
    """Sends the root logger to stderr with the server's level and format."""
    is_json = os.environ.get(environment.LOG_FORMAT) == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else logging.Formatter(TEXT_FORMAT))
    level = os.environ.get(environment.LOG_LEVEL, "INFO")
    logging.basicConfig(level=level, handlers=[handler], force=True)
