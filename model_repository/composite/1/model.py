"""composite: sampled crops go back into the picture, and all into the answer."""

from __future__ import annotations

from typing import Any, get_args

from preprocessing.composite import composite
from preprocessing.plan import Outcome, Plan
from sampling.statistics import Counter, Observations
from segs_client.contract import SegStatus
from serving import heart, stub
from serving.inside import check_inside
from serving.log_format import about
from serving.metrics import start_publishing
from serving.stub_logging import configure_logging
from serving.tracing import Span, Tracing


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        self._tracing = Tracing.of_environment()
        self._seconds = Observations()
        self._segments = Counter([(status,) for status in get_args(SegStatus)])
        start_publishing(
            {"segs_stage_seconds": self._seconds, "segs_segments_total": self._segments.values}
        )
        heart.start_beating(args["model_instance_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._traced(request) for request in requests]

    def finalize(self) -> None:
        self._tracing.close()

    def _traced(self, request: Any) -> Any:
        with (
            self._tracing.span("composite", request) as span,
            about(request.request_id(), span.trace_id),
        ):
            return self._answer(request, span)

    def _answer(self, request: Any, span: Span) -> Any:
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
            span.fail(error)
            return stub.refusal(error, request.request_id())
        self._seconds.add(composed.report.times_s["composite"], "composite")
        for seg in composed.report.segs:
            self._segments.add(seg.status)
        return stub.answer(
            report=stub.as_flat(composed.report.model_dump_json().encode()),
            detailed_image=composed.image,
            detailed_segs=composed.seg_images,
            used_control_images=composed.control_images,
        )
