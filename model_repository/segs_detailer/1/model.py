"""segs_detailer: the door that every request with one answer comes in by."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from serving.door_model import DoorModel


class TritonPythonModel(DoorModel):
    async def answer(self, request: Any, sender: Any) -> None:
        response = await self.door.answer(request)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
