"""Parts of a request beyond plain numbers: samplers, prompts, ControlNets, refiner, schedules."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from segs_client.refusals import refuse
from segs_client.seeds import MAX_SEED
from segs_client.wire import Buffer, Model, PipelineName

SamplerName = Literal[
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
]
SchedulerName = Literal[
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
    "AYS SDXL",
    "AYS SD1",
    "AYS SVD",
    "GITS[coeff=1.2]",
]
PromptText = Annotated[str, Field(max_length=100_000)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Wildcards = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]{1,128}$")],
        Annotated[
            tuple[PromptText, ...],
            Field(min_length=1, max_length=100_000, fail_fast=True),
        ],
    ],
    Field(max_length=10_000),
]


class Prompt(Model):
    """A further conditioning. The predictions of a side are averaged with the weight mask·strength;
    without a mask, as for the main prompt, the mask is 1 everywhere."""

    text: PromptText = ""
    mask: Annotated[
        Buffer | None, Field(description="[H, W] of the whole picture, in tensor masks")
    ] = None
    strength: Annotated[float, Field(ge=0, le=100)] = 1.0

    @model_validator(mode="after")
    def _mask_is_flat(self) -> Prompt:
        check_axes(self.mask, "mask", "[height, width]")
        return self


class ControlNet(Model):
    """One ControlNet of a chain, active between its start and end percents of the sampling."""

    name: Annotated[PipelineName, Field(description="one of the pipeline's ControlNets")]
    strength: Annotated[float, Field(ge=0, le=10)] = 1.0
    start_percent: Annotated[float, Field(ge=0, le=1)] = 0.0
    end_percent: Annotated[float, Field(ge=0, le=1)] = 1.0
    image: Annotated[
        Buffer | None,
        Field(
            description="control image [h, w, 3] of the whole picture, in tensor control_images; "
            "null: the SEG's own crop"
        ),
    ] = None
    preprocessor: Annotated[
        PipelineName,
        Field(
            description="makes the control image from the picture: none, canny, sobel, gray, "
            "invert, blur, or one installed on the server"
        ),
    ] = "none"

    @model_validator(mode="after")
    def _image_has_channels(self) -> ControlNet:
        check_axes(self.image, "image", "[height, width, 3]")
        return self


class Refiner(Model):
    """The second basic_pipe. Its prompts are by default the request's."""

    pipeline: PipelineName
    prompt: PromptText | None = None
    negative: PromptText | None = None


Sigma = Annotated[float, Field(ge=1e-30, le=1e5)]


class SchedulerFunc(Model):
    """Noise levels of the whole schedule (floor(steps/denoise) steps), whose last steps are run.

    Either ``sigmas``, the levels themselves, or a named curve between two σ that ends with 0. All
    levels are used, whichever the sampler; they count as float32.
    """

    name: Literal["karras", "exponential", "polyexponential", "sigmas"] = "karras"
    sigma_min: Sigma = 0.0291675
    sigma_max: Sigma = 14.614642
    rho: Annotated[float, Field(ge=0.15, le=100, description="not used by exponential")] = 7.0
    sigmas: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1e5)], ...],
        Field(
            max_length=10_001,
            description="falling; for name 'sigmas', which they imply",
            fail_fast=True,
        ),
    ] = ()

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_levels(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("sigmas") and "name" not in value:
            return {**value, "name": "sigmas"}
        return value

    @model_validator(mode="after")
    def _is_a_schedule(self) -> SchedulerFunc:
        if self.name != "sigmas":
            if self.sigmas:
                allowed = "name 'sigmas', or no levels"
                message = f"levels for the curve {self.name!r}"
                raise refuse("sigmas", message, value=list(self.sigmas), allowed=allowed)
            if self.sigma_min >= self.sigma_max:
                allowed = f"less than sigma_max {self.sigma_max}"
                raise refuse("sigma_min", "too large", value=self.sigma_min, allowed=allowed)
            return self
        levels = struct.unpack(
            f"{len(self.sigmas)}f", struct.pack(f"{len(self.sigmas)}f", *self.sigmas)
        )
        falling = all(a > b for a, b in pairwise(levels))
        if not self.sigmas or not falling:
            allowed = "one level or more, each below the one before in float32"
            raise refuse("sigmas", "no schedule", value=list(self.sigmas), allowed=allowed)
        return self


class SegPrompts(Model):
    """Prompts for the SEGS: the first prompt for the first SEG in ``order``, and so on. SEGS beyond
    the last prompt get none."""

    text: Annotated[PromptText, Field(description="prompts with [SEP] between them")]
    order: Annotated[
        Literal[
            "given",
            "left_to_right",
            "right_to_left",
            "top_to_bottom",
            "bottom_to_top",
            "large_to_small",
            "small_to_large",
        ],
        Field(description="of the SEGS, by the box's corner or area"),
    ] = "given"
    mode: Annotated[
        Literal["add", "replace"], Field(description="add to the request's prompt or replace it")
    ] = "add"

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts, one by one."""
        return tuple(part.strip() for part in self.text.split("[SEP]"))


class SegOptions(Model):
    """Options of a single SEG; null: the request's."""

    prompt: PromptText | None = None
    prompt_mode: Annotated[
        Literal["add", "replace"], Field(description="add to the request's prompt or replace it")
    ] = "replace"
    negative: PromptText | None = None
    seed: Seed | None = None
    steps: Annotated[int | None, Field(ge=1, le=10_000)] = None
    cfg: Annotated[float | None, Field(ge=0, le=100)] = None
    denoise: Annotated[float | None, Field(ge=0.0001, le=1)] = None
    controlnets: (
        Annotated[
            tuple[ControlNet, ...],
            Field(max_length=8, fail_fast=True),
        ]
        | None
    ) = None
    skip: Annotated[bool, Field(description="leave this SEG as it is")] = False


class StreamOptions(Model):
    """The events that ``segs_detailer_stream`` sends beside the result; without effect on
    ``segs_detailer``."""

    preview_every: Annotated[
        int,
        Field(ge=0, le=1000, description="steps between two previews of a SEG; 0: none"),
    ] = 0
    preview_size_px: Annotated[
        int, Field(ge=8, le=512, description="longest side of a preview, at most")
    ] = 128
    segment_pictures: Annotated[
        bool, Field(description="each detailed crop as soon as it is done, at its sampled size")
    ] = False
    picture: Annotated[
        Literal["png", "jpeg", "webp"], Field(description="form of previews and such crops")
    ] = "png"


def check_axes(buffer: Buffer | None, name: str, allowed: str) -> None:
    """Refuses an array whose number of axes is not that of ``allowed``."""
    if buffer is not None and len(buffer.shape) != allowed.count(",") + 1:
        shape = list(buffer.shape)
        raise refuse(f"{name}.shape", "wrong number of axes", value=shape, allowed=allowed)
