"""prepare: the request's JSON and bytes become a plan and arrays of known shape."""

from __future__ import annotations

import time
from typing import Any

from pipelines import load_all
from preprocessing.prepare import Inputs, prepare
from sampling.statistics import Observations
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
        self._limits = stub.limits()
        found = load_all(stub.repositories())
        self._pipelines = {name: descriptor for name, (descriptor, _) in found.items()}
        self._seconds = Observations()
        start_publishing({"segs_stage_seconds": self._seconds})
        heart.start_beating(args["model_instance_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._traced(request) for request in requests]

    def finalize(self) -> None:
        self._tracing.close()

    def _traced(self, request: Any) -> Any:
        with (
            self._tracing.span("prepare", request) as span,
            about(request.request_id(), span.trace_id),
        ):
            return self._answer(request, span)

    def _answer(self, request: Any, span: Span) -> Any:
        timeout_us = request.timeout()
        try:
            check_inside(request.parameters())
            inputs = Inputs(
                stub.text(request, "request"),
                stub.required(request, "image"),
                stub.flat(request, "masks"),
                stub.flat(request, "seg_images"),
                stub.flat(request, "control_images"),
            )
            prepared = prepare(
                inputs,
                pipelines=self._pipelines,
                limits=self._limits,
                request_id=request.request_id(),
                deadline_s=time.time() + timeout_us / 1e6 if timeout_us else None,
            )
        except Exception as error:
            span.fail(error)
            return stub.refusal(error, request.request_id())
        self._seconds.add(prepared.plan.prepare_s, "prepare")
        return stub.answer(
            plan=prepared.plan.model_dump_json().encode(),
            canvas=prepared.canvas,
            crops=prepared.crops,
            seg_masks=prepared.masks,
            given=prepared.given,
        )
