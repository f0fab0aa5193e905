"""A SEG's tensors stay on one device: whole programs with networks on torch's "meta" device.

A meta tensor has no data: what would make the host wait for a GPU (``.item()``, ``.cpu()``, a
condition on a tensor) has no answer here, and operations on two devices are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines import Network, Schedule
from pipelines.descriptor import TextEncoderSpec
from request_plan.plan import Piece, PlannedSeg
from sampling import detail, vae
from sampling.conditioning import Conditioning, Encoded, Guidance
from sampling.engine import OnDevice
from sampling.pipeline import Pipeline
from sampling.program import NetworkCall, Program, Tensors, run_alone
from sampling.samplers import SAMPLERS
from sampling.schedule import DiscreteSchedule
from sampling.service import DetailService
from sampling.text import TextEncoder, encode_prompt
from sampling.unet import Control, ControlModels, UNet
from segs_client.arrays import ByteArray
from segs_client.contract import DetailRequest
from tests.descriptors import bare_pipeline
from tests.sampling.test_samplers import STOCHASTIC

META = torch.device("meta")
SIDE = 64
PIXELS = np.zeros((SIDE, SIDE, 3), np.uint8)
LATENT = (1, 4, SIDE // 8, SIDE // 8)
ON_THE_HOST = {"vae_encoder": "sample", "text_encoder": "input_ids"}
"""What comes from the request, and so from the CPU."""
RESIDUALS = {"down_residual_0": 2, "mid_residual": 2}
WANTS_A_VALUE = {"dpm_adaptive": "its next step depends on the last one's error"}
_ATEN: Any = torch.ops.aten


@dataclass
class Crossings:
    """What left the device or came to it between two calls of a network, call by call."""

    uploads: list[torch.Size] = field(default_factory=list)
    downloads: int = 0
    values: int = 0


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets no operation mix devices, and counts what crosses between them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log: list[tuple[str, Crossings]] = [("", Crossings())]

    @property
    def now(self) -> Crossings:
        return self.log[-1][1]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_device = any(tensor.is_meta for tensor in tensors)
        if func is _ATEN._local_scalar_dense.default and on_device:
            self.now.values += 1
            return 0.0
        if func is _ATEN._to_copy.default and kwargs.get("device") is not None:
            return self._moved(func, tensors[0], kwargs)
        assert not on_device or all(tensor.is_meta for tensor in tensors), f"{func} mixes devices"
        return func(*args, **kwargs)

    def _moved(self, func: Any, tensor: torch.Tensor, kwargs: Mapping[str, Any]) -> Any:
        to_device = torch.device(kwargs["device"]) == META
        if tensor.is_meta and not to_device:
            self.now.downloads += 1
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        if to_device and not tensor.is_meta:
            self.now.uploads.append(tensor.shape)
        return func(tensor, **kwargs)

    def answer(self, call: NetworkCall) -> Tensors:
        """What a network would say, on the device; its inputs are there already."""
        for name, tensor in call.inputs.items():
            assert tensor.is_meta or ON_THE_HOST.get(call.network) == name, (call.network, name)
        self.log.append((call.network, Crossings()))
        first = next(iter(call.inputs.values()))
        rows, (height, width) = call.rows, first.shape[-2:]
        outputs: dict[str, dict[str, tuple[int, ...]]] = {
            "vae_encoder": {"latent_mean": (4, height // 8, width // 8)},
            "vae_decoder": {"sample": (3, height * 8, width * 8)},
            "control": {name: (c, height, width) for name, c in RESIDUALS.items()},
            "text_encoder": {"hidden_state": (77, 2), "pooled": (3,)},
            "unet": {"out_sample": (4, height, width)},
        }
        return {
            name: torch.empty(rows, *dims, device=META)
            for name, dims in outputs[call.network].items()
        }

    def between(self, network: str) -> list[Crossings]:
        """The crossings between the first call of a network and the last."""
        at = [i for i, (name, _) in enumerate(self.log) if name == network]
        return [crossings for _, crossings in self.log[at[0] : at[-1]]]


def network(model: str, bound: int | None = None) -> Network:
    return Network(
        model=model, max_batch=4, max_batch_elements=bound, inputs={}, outputs={}, files={}
    )


def pipeline(channels: int = 4, family: str = "sd1", bound: int | None = None) -> Pipeline:
    bounds = {"unet": None, "vae_encoder": bound, "vae_decoder": bound}
    networks = {role: network(role, most) for role, most in bounds.items()}
    descriptor = bare_pipeline(
        family=family, unet_channels=channels, latent_scale=0.2, context_dim=2, networks=networks
    )
    schedule = DiscreteSchedule.of(Schedule())
    unet = UNet("unet", "epsilon", schedule, channels, RESIDUALS)
    return Pipeline(descriptor, schedule, (), unet, {})


def conditioning(weight: torch.Tensor | None = None, pooled: bool = False) -> Conditioning:
    vector = torch.empty(1, 3, device=META) if pooled else None
    return Conditioning(Encoded(torch.empty(1, 77, 2, device=META), vector), weight)


def stage(made: Pipeline, *, regional: bool = False, controls: int = 0) -> detail.Stage:
    """Weights and hints are on the CPU, where they are made."""
    plain = conditioning(pooled=made.descriptor.family != "sd1")
    weights = [conditioning(torch.ones(1, 1, *LATENT[2:]))] if regional else []
    hint = torch.zeros(1, 3, SIDE, SIDE)
    models = ControlModels("control", "unet")
    control = Control(models, hint, 1.0, float("inf"), 0.0)
    return detail.Stage(made, Guidance((plain, *weights), (plain,)), (control,) * controls)


def whole_seg(
    base: detail.Stage, refiner: detail.Stage | None = None, **options: Any
) -> Program[ByteArray]:
    """All that is done to a SEG but its texts: from its pixels to its pixels."""
    request = DetailRequest(pipeline="meta", **options)
    piece = Piece(offset=0, height=SIDE, width=SIDE)
    box = (0, 0, SIDE, SIDE)
    seg = PlannedSeg(
        bbox=box, crop_region=box, label="", confidence=1, mask=piece, crop=piece, steps=6, cfg=7
    )
    mask = torch.rand(SIDE, SIDE) if request.noise_mask else None
    made = base.pipeline
    latent = yield from vae.encode(made.descriptor, vae.to_values(PIXELS))
    encoded = yield from detail.encode(made, request, PIXELS, latent, mask)
    done = yield from detail.detail(base, refiner, request, seg, encoded, batch_pass=0)
    return vae.to_pixels((yield from vae.decode(made.descriptor, done.latent)))


def watched(program: Program[ByteArray]) -> Watch:
    watch = Watch()
    with watch:
        pixels = run_alone(program, watch.answer)
    assert pixels.shape == PIXELS.shape
    assert sum(crossings.downloads for _, crossings in watch.log) == 1
    assert watch.now.downloads == 1  # after the decoder's call
    return watch


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_stay_on_the_device(name: str) -> None:
    watch = watched(whole_seg(stage(pipeline()), sampler_name=name))
    steps = watch.between("unet")
    uploads = [shape for step in steps for shape in step.uploads]
    assert uploads == [LATENT] * len(uploads)
    assert len(uploads) <= (len(steps) if name in STOCHASTIC else 0)
    values = sum(step.values for step in steps)
    assert values == (len(steps) // 3 if name in WANTS_A_VALUE else 0)


CASES: dict[str, tuple[Callable[[], Program[ByteArray]], int]] = {
    "no mask": (lambda: whole_seg(stage(pipeline()), noise_mask=False), 0),
    "regional": (lambda: whole_seg(stage(pipeline(), regional=True)), 0),
    "control": (lambda: whole_seg(stage(pipeline(), controls=1)), 0),
    "chain": (lambda: whole_seg(stage(pipeline(), controls=2)), 0),
    "sdxl": (lambda: whole_seg(stage(pipeline(family="sdxl"))), 0),
    "inpaint": (lambda: whole_seg(stage(pipeline(channels=9)), inpaint_model=True), 0),
    "inpaint, no mask": (lambda: whole_seg(stage(pipeline(channels=9)), noise_mask=False), 0),
    "refiner": (lambda: whole_seg(stage(pipeline()), stage(pipeline(channels=9))), 0),
    "cycles": (lambda: whole_seg(stage(pipeline(), controls=1), cycle=3), 2),
    "tiles": (lambda: whole_seg(stage(pipeline(bound=1))), 0),
}
"""Each with the draws between its first step and its last: every further cycle's noise."""


@pytest.mark.parametrize("name", CASES)
def test_all_that_a_seg_brings_is_moved_once(name: str) -> None:
    make, draws = CASES[name]
    steps = watched(make()).between("unet")
    assert [shape for step in steps for shape in step.uploads] == [LATENT] * draws
    assert not any(step.values for step in steps)


def test_encoded_prompts_are_on_the_device() -> None:
    spec = TextEncoderSpec(
        role="text_encoder", tokenizer="", start=1, end=2, padding=0, pooled=True
    )
    words = Tokenizer(WordLevel({"cat": 3}, unk_token="cat"))
    encoder = TextEncoder("text_encoder", spec, words)
    watch = Watch()
    with watch:
        encoded = run_alone(encode_prompt([encoder], "cat (cat:1.3)"), watch.answer)
    assert encoded.context.is_meta
    assert encoded.pooled is not None and encoded.pooled.is_meta
    assert not watch.now.values


class HostNetworks:
    """Networks that answer on the CPU, as those of a second pipeline may."""

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        return {"out": torch.zeros(1), "there": torch.zeros(1, device=META)}


def test_answers_from_elsewhere_are_brought_to_the_device() -> None:
    outputs = asyncio.run(OnDevice(HostNetworks(), META).run("unet", {}))
    assert all(tensor.is_meta for tensor in outputs.values())


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("target", ["onnx", "tensorrt", "torch"])
def test_the_device_is_the_networks(
    monkeypatch: pytest.MonkeyPatch, target: str, gpu: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    made = pipeline()
    descriptor = made.descriptor.model_copy(update={"target": target})
    pipelines = {"on_cpu": made, "other": replace(made, descriptor=descriptor)}
    expected = "cuda" if gpu and target != "onnx" else "cpu"
    assert DetailService(HostNetworks(), pipelines).device == torch.device(expected)
    assert DetailService(HostNetworks(), pipelines, device=META).device == META
