"""Publishes a request's progress as events for the front end of streams."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch

from request_plan.plan import FailedSeg, Plan
from sampling.pipeline import Pipeline
from sampling.progress import RequestListener, SampledPass, Step, StepListener, preview_pixels
from segs_client.arrays import ByteArray
from triton_models.event_channel import END, EventPublisher

log = logging.getLogger(__name__)


@dataclass
class ProgressPublisher(RequestListener):
    """Publishes one request's progress. An event takes microseconds of the engine's loop; a preview
    also takes the product of its latent's cells with a 3 × c matrix.

    Args:
        token: of the request.
    """

    publisher: EventPublisher
    token: str
    plan: Plan
    colours: tuple[torch.Tensor, torch.Tensor] | None = None
    """Factors and bias of previews on the latents' device, if there are previews."""
    _broken: bool = field(default=False)
    """Whether a preview has failed; then there are no others."""

    def accepted(self, position: int, estimate_s: float | None, pipeline: Pipeline) -> None:
        """Publishes the admission."""
        plan = self.plan
        spec = pipeline.descriptor.preview
        if spec is not None and plan.request.stream.preview_every:
            self.colours = torch.tensor(spec.factors), torch.tensor(spec.bias)
        chosen = [seg for seg in plan.segs if seg.crop is not None]
        self._put(
            "accepted",
            position=position,
            estimate_s=None if estimate_s is None else round(estimate_s, 3),
            seg_passes=len(chosen) * plan.request.batch_size,
            previews=self.colours is not None,
        )
        for batch_pass in range(plan.request.batch_size):
            for index, seg in enumerate(plan.segs):
                if seg.skip is not None:
                    self._put("segment", seg=index, batch_pass=batch_pass, status=seg.skip)

    def started(self, index: int, batch_pass: int) -> None:
        """Publishes the start of a pass."""
        seg = self.plan.segs[index]
        crop = seg.crop
        self._put(
            "segment_started",
            seg=index,
            batch_pass=batch_pass,
            label=seg.label,
            sampled_size=None if crop is None else (crop.height, crop.width),
            cycles=self.plan.request.cycle,
            steps=seg.steps,
        )

    def step_listener(self, index: int, batch_pass: int) -> StepListener:
        """The listener of a pass's steps."""
        place = {"seg": index, "batch_pass": batch_pass}
        every = self.plan.request.stream.preview_every

        def step_listener(step: Step) -> None:
            count = {"cycle": step.cycle, "step": step.step, "steps": step.steps}
            self._put("step", **place, **count)
            if self.colours is not None and step.step % every == 0:
                self._preview(step.denoised, {**place, **count})

        return step_listener

    def _preview(self, denoised: torch.Tensor, fields: dict[str, Any]) -> None:
        if self.colours is None or self._broken:
            return
        try:
            factors, bias = self.colours = (
                self.colours[0].to(denoised.device),
                self.colours[1].to(denoised.device),
            )
            side_px = self.plan.request.stream.preview_size_px
            pixels = preview_pixels(denoised, factors, bias, side_px)
        except Exception:  # a preview must not fail the SEG
            self._broken = True
            log.exception("previews of token %s have failed", self.token)
            return
        self._put("preview", pixels, **fields)

    def done(self, done: SampledPass) -> None:
        """Publishes a finished pass."""
        self._put(
            "segment",
            done.pixels if self.plan.request.stream.segment_pictures else None,
            seg=done.seg,
            batch_pass=done.batch_pass,
            status=done.status,
            steps_run=done.steps_run,
            sample_s=round(done.sample_s, 6),
        )

    def failed(self, seg: FailedSeg) -> None:
        """Publishes a failed pass."""
        self._put(
            "segment",
            seg=seg.index,
            batch_pass=seg.batch_pass,
            status="failed",
            error=seg.error.model_dump(),
        )

    def ended(self) -> None:
        """Publishes the end of the request's events."""
        self._put(END)

    def _put(
        self, event: str, pixels: ByteArray | torch.Tensor | None = None, /, **fields: Any
    ) -> None:
        """Queues an event; it replaces a waiting one of the same kind, SEG and pass."""
        key = (self.token, event, fields.get("seg"), fields.get("batch_pass"))
        if pixels is not None:
            request = self.plan.request
            fields |= {"form": request.stream.picture, "quality": request.output.quality}
        self.publisher.put(key, {"token": self.token, "event": event, **fields}, pixels)
