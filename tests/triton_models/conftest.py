"""Makes the modules of Triton's Python models importable, with a stand-in for what Triton's stub
brings."""

from __future__ import annotations

import sys

from tests.triton_models import pb_utils

sys.modules.setdefault("triton_python_backend_utils", pb_utils)
