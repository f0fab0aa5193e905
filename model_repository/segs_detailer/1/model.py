"""segs_detailer: the front end of requests with one response."""

from __future__ import annotations

from typing import Any

from triton_models.front_end_model import FrontEndModel


class TritonPythonModel(FrontEndModel):
    async def answer(self, request: Any, sender: Any) -> None:
        await self.front_end.answer(request, sender)
