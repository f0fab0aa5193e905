"""An estimate of a request's work before it is run.

Calls are counted, not tabulated by sampler: a SEG's own program is run once on a latent of one cell
with networks that return zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from request_plan.plan import Plan, PlannedControl, PlannedPrompt, PlannedSeg
from sampling import detail, vae
from sampling.conditioning import Conditioning, Encoded, Guidance
from sampling.costs import CostModel
from sampling.pipeline import Pipeline
from sampling.program import NetworkCall, Tensors, run_alone
from sampling.unet import Control
from sampling.vae import FACTOR
from segs_client.contract import DetailRequest

_COUNTED_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24)
"""Other numbers of steps are counted as the next of these, or the last, and scaled."""
_PIXEL_CHANNELS = 3
_CONTEXT = Encoded(torch.zeros(1, 1, 1), torch.zeros(1, 1))
_KNOWN_RECIPES = 1024


@dataclass(frozen=True)
class CallCount:
    """``count`` sequential calls of ``rows`` rows; a row of the first input has ``row_elements``
    elements."""

    network: str
    rows: int
    row_elements: int
    count: float


@dataclass(frozen=True)
class WorkEstimate:
    """Device seconds of a request: ``alone_s`` without other requests, ``shared_s`` if its rows
    join economical batches of other requests (much less on a GPU, about the same on a CPU)."""

    alone_s: float
    shared_s: float


@dataclass
class Estimator:
    """Estimates the work of requests from the measured costs of batches."""

    pipelines: Mapping[str, Pipeline]
    costs: CostModel
    _recipes: dict[Hashable, Counter[tuple[str, int, int]]] = field(default_factory=dict)

    def estimate(self, plan: Plan) -> WorkEstimate | None:
        """The work of all SEGs and passes; None if a network has no measurements near their
        sizes."""
        passes = plan.request.batch_size
        slowest_s = total_s = 0.0
        for seg in plan.segs:
            seg_s = 0.0
            for calls in self.calls(plan.request, seg):
                size = calls.rows * calls.row_elements
                alone_s = self.costs.known_batch_s(calls.network, size)
                shared_s = self.costs.shared_s(calls.network, size)
                if alone_s is None or shared_s is None:
                    return None
                seg_s += alone_s * calls.count
                total_s += shared_s * calls.count * passes
            slowest_s = max(slowest_s, seg_s)
        return WorkEstimate(max(slowest_s, total_s), total_s)

    def calls(self, request: DetailRequest, seg: PlannedSeg) -> Iterator[CallCount]:
        """The calls of one pass of a SEG, without prompts, which are mostly cached."""
        if seg.crop is None:
            return
        descriptor = self.pipelines[request.pipeline].descriptor
        height, width = seg.crop.height // FACTOR, seg.crop.width // FACTOR
        encoder, decoder = vae.encoder(descriptor), vae.decoder(descriptor)
        in_painting = descriptor.unet_channels != descriptor.latent_channels
        also_masked = in_painting and request.inpaint_model and request.noise_mask
        grid = encoder.grid(height, width)
        count = 2 * grid.count if also_masked else grid.count
        yield CallCount(encoder.network.model, 1, encoder.elements(grid.cells), count)
        short = _shortened(seg)
        scale = request.cycle * seg.steps / short.steps
        for (network, rows, channels), count in self._recipe(request, short).items():
            yield CallCount(network, rows, channels * height * width, count * scale)
        grid = decoder.grid(height, width)
        yield CallCount(decoder.network.model, 1, decoder.elements(grid.cells), grid.count)

    def has_counted(self, plan: Plan) -> bool:
        """Whether :meth:`estimate` is quick; else call :meth:`count` first."""
        return all(self._key(plan.request, seg) in self._recipes for seg in _counted(plan))

    def count(self, plan: Plan) -> None:
        """Counts the calls of a plan that were not counted before; takes up to seconds and may run
        in any thread."""
        for seg in _counted(plan):
            self._recipe(plan.request, seg)

    @staticmethod
    def _key(request: DetailRequest, seg: PlannedSeg) -> Hashable:
        """The key of the number of calls; of cfg and denoise, only whether they have an effect."""
        needed = seg.negatives if detail.needs_negative(request, seg) else ()
        return (
            (request.pipeline, request.sampler_name, request.scheduler, request.scheduler_func),
            (request.refiner, request.refiner_ratio, request.inpaint_model),
            (seg.steps, seg.denoise < 1),
            tuple(map(len, (seg.positives, needed))),
            tuple(map(len, (seg.refiner_positives, seg.refiner_negatives))),
            tuple((each.name, each.start_percent, each.end_percent) for each in seg.controls),
        )

    def _recipe(self, request: DetailRequest, seg: PlannedSeg) -> Counter[tuple[str, int, int]]:
        """The calls of one cycle of such a SEG by network, rows and input channels."""
        key = self._key(request, seg)
        known = self._recipes.get(key)
        if known is None:
            if len(self._recipes) >= _KNOWN_RECIPES:
                self._recipes.clear()
            known = self._count(request.model_copy(update={"cycle": 1}), seg)
            if known:  # else this SEG's schedule is too short; other SEGs of this key have steps
                self._recipes[key] = known
        return known

    def _count(self, request: DetailRequest, seg: PlannedSeg) -> Counter[tuple[str, int, int]]:
        counted: Counter[tuple[str, int, int]] = Counter()
        base = self.pipelines[request.pipeline]

        def answer(call: NetworkCall) -> Tensors:
            counted[call.network, call.rows, call.row_elements] += 1
            zeros = torch.zeros(call.rows, base.descriptor.latent_channels, 1, 1)
            return {"out_sample": zeros, **dict.fromkeys(base.unet.residuals, zeros[:, :1])}

        guidance = self._guidance(request, seg, seg.positives, seg.negatives)
        controls = tuple(_control(base, control) for control in seg.controls)
        stage = detail.Stage(base, guidance, controls)
        refiner = None
        if request.refiner is not None:
            sides = seg.refiner_positives, seg.refiner_negatives
            pipeline = self.pipelines[request.refiner.pipeline]
            refiner = detail.Stage(pipeline, self._guidance(request, seg, *sides))
        latent = torch.zeros(1, base.descriptor.latent_channels, 1, 1)
        encoded = detail.EncodedSeg(latent, None)
        run_alone(detail.detail(stage, refiner, request, seg, encoded, batch_pass=0), answer)
        return counted

    @staticmethod
    def _guidance(
        request: DetailRequest,
        seg: PlannedSeg,
        positives: Sequence[PlannedPrompt],
        negatives: Sequence[PlannedPrompt],
    ) -> Guidance:
        needed = negatives if detail.needs_negative(request, seg) else ()
        side = Conditioning(_CONTEXT)
        return Guidance((side,) * len(positives), (side,) * len(needed))


def _counted(plan: Plan) -> Iterator[PlannedSeg]:
    """The SEGs that are sampled, with the number of steps that is counted."""
    return (_shortened(seg) for seg in plan.segs if seg.crop is not None)


def _shortened(seg: PlannedSeg) -> PlannedSeg:
    steps = next((few for few in _COUNTED_STEPS if few >= seg.steps), _COUNTED_STEPS[-1])
    return seg.model_copy(update={"steps": steps})


def _control(base: Pipeline, planned: PlannedControl) -> Control:
    return Control(
        base.controlnets[planned.name],
        torch.zeros(1, _PIXEL_CHANNELS, FACTOR, FACTOR),
        planned.strength,
        base.schedule.sigma_at_percent(planned.start_percent),
        base.schedule.sigma_at_percent(planned.end_percent),
    )
