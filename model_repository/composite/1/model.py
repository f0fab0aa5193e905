"""composite: sampled crops go back into the picture, and all into the answer."""

from __future__ import annotations

from typing import Any

from preprocessing.composite import composite
from preprocessing.plan import Outcome, Plan
from serving import heart, stub
from serving.inside import check_inside
from serving.stub_logging import configure_logging


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        heart.start_beating(args["model_instance_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            check_inside(request.parameters())
            composed = composite(
                Plan.model_validate_json(stub.text(request, "plan")),
                Outcome.model_validate_json(stub.text(request, "outcome")),
                canvas=stub.required(request, "canvas"),
                crops=stub.required(request, "crops"),
                sampled=stub.required(request, "sampled"),
                masks=stub.required(request, "seg_masks"),
                given=stub.required(request, "given"),
            )
        except Exception as error:
            return stub.refusal(error, request.request_id())
        return stub.answer(
            report=stub.as_flat(composed.report.model_dump_json().encode()),
            detailed_image=composed.image,
            detailed_segs=composed.seg_images,
            used_control_images=composed.control_images,
        )
