"""prepare: makes the plan and arrays of a request."""

from __future__ import annotations

from typing import Any

from preprocessing.prepare import Checked, check
from triton_models import stub
from triton_models.stage_model import StageModel, StageWork


class TritonPythonModel(StageModel):
    name = "prepare"

    def initialize(self, args: dict[str, str]) -> None:
        self._limits = stub.limits()
        self._pipelines = stub.pipelines()
        super().initialize(args)

    def begin(self, request: Any, deadline_s: float | None) -> StageWork:
        checked = check(
            stub.inputs(request),
            pipelines=self._pipelines,
            limits=self._limits,
            request_id=request.request_id(),
            deadline_s=deadline_s,
        )
        crop_bytes = 3 * checked.survey.sampled_pixels
        return StageWork(lambda: self._decode(checked), checked.picture_bytes + crop_bytes)

    def _decode(self, checked: Checked) -> dict[str, stub.StubTensor]:
        prepared = checked.decode()
        self.seconds.add(prepared.plan.prepare_s, "prepare")
        return {
            "plan": prepared.plan.model_dump_json().encode(),
            "canvas": prepared.canvas,
            "crops": prepared.crops,
            "seg_masks": prepared.masks,
            "given": prepared.given,
        }
