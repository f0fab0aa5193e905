"""composite: pastes sampled crops into the picture and makes the response."""

from __future__ import annotations

from typing import Any, get_args

from preprocessing.composite import composite
from request_plan.plan import Plan, SampleOutcome
from sampling.statistics import Counter
from segs_client.contract import SegStatus
from triton_models import stub
from triton_models.metrics import Source
from triton_models.stage_model import StageModel, StageWork


class TritonPythonModel(StageModel):
    name = "composite"

    def initialize(self, args: dict[str, str]) -> None:
        self._segments = Counter([(status,) for status in get_args(SegStatus)])
        super().initialize(args)

    def sources(self) -> dict[str, Source]:
        return {"segs_segments_total": self._segments.values}

    def begin(self, request: Any, deadline_s: float | None) -> StageWork:
        plan = Plan.model_validate_json(stub.text(request, "plan"))
        canvas = stub.required(request, "canvas")
        size_bytes = canvas.size + stub.required(request, "sampled").size
        return StageWork(lambda: self._compose(request, plan, canvas), size_bytes)

    def _compose(self, request: Any, plan: Plan, canvas: Any) -> dict[str, stub.StubTensor]:
        composed = composite(
            plan,
            SampleOutcome.model_validate_json(stub.text(request, "outcome")),
            canvas=canvas,
            crops=stub.required(request, "crops"),
            sampled=stub.required(request, "sampled"),
            masks=stub.required(request, "seg_masks"),
            given=stub.required(request, "given"),
        )
        self.seconds.add(composed.report.times_s["composite"], "composite")
        for seg in composed.report.segs:
            self._segments.add(seg.status)
        return {
            "report": stub.as_flat(composed.report.model_dump_json().encode()),
            "detailed_image": composed.image,
            "detailed_segs": composed.seg_images,
            "used_control_images": composed.control_images,
        }
