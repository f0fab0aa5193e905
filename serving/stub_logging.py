"""Logging inside a Python model of Triton, so that the server's reader sees level and name."""

from __future__ import annotations

import logging
import os
import sys

from serving.logs import PYTHON_FORMAT
from serving.options import LOG_LEVEL_VARIABLE


def configure_logging() -> None:
    """Sends the root logger to stderr at the level that the server was started with."""
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get(LOG_LEVEL_VARIABLE, "INFO"),
        format=PYTHON_FORMAT,
        force=True,
    )
