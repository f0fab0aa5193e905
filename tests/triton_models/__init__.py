"""Tests of Triton's Python models, with a stand-in for what only Triton's stub brings."""

import sys

from tests.triton_models import pb_utils

sys.modules.setdefault("triton_python_backend_utils", pb_utils)
