"""Differences of a quantised UNet to the original, as numbers and as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from build_engines.options import QualityLimits
from pipelines.descriptor import Precision, Quality, Quantization


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepQuality(_Model):
    """Errors of the UNet's output on the same inputs, within a range of timesteps."""

    timesteps: tuple[int, int]
    """First timestep, and the one after the last."""
    rows: int
    error_mean: float
    error_max: float
    """Norm of the difference over the norm of the output."""
    cosine_min: float


class RequestQuality(_Model):
    """Errors of one request, run with both UNets from the same noise."""

    name: str
    prompt: str
    denoise: float
    latent_shape: tuple[int, ...]
    latent_error: float
    """Relative."""
    latent_cosine: float
    picture_mean: float
    picture_max: int
    """In grey levels, within the box."""
    picture_psnr_db: float
    """99 if the two are equal."""


class QualityReport(_Model):
    """The result of a quantisation."""

    pipeline: str
    quantization: Quantization
    precision: Precision
    """Precision of the original graph and of the operators that are not quantised."""
    modelopt: str
    onnxruntime: str
    calibration_rows: int
    linear: dict[str, tuple[int, int]]
    """Operators with weights: type → quantised, all."""
    steps: tuple[StepQuality, ...]
    requests: tuple[RequestQuality, ...]
    limits: dict[str, float]
    violations: tuple[str, ...]

    @property
    def quality(self) -> Quality:
        """The worst of the requests, and the UNet's mean error."""
        return summary(self.steps, self.requests)


def summary(steps: tuple[StepQuality, ...], requests: tuple[RequestQuality, ...]) -> Quality:
    """The worst of the requests, and the UNet's mean error."""
    rows = sum(step.rows for step in steps)
    return Quality(
        network_error=sum(step.error_mean * step.rows for step in steps) / rows,
        latent_error=max(each.latent_error for each in requests),
        picture_difference=max(each.picture_mean for each in requests),
    )


def violations(quality: Quality, limits: QualityLimits) -> tuple[str, ...]:
    """A message for each value beyond its limit, or NaN."""
    found = []
    for name, value in quality.model_dump().items():
        most = getattr(limits, name)
        if not value <= most:
            found.append(f"{name} {value:.4g} is more than {most:g}")
    return tuple(found)


def as_markdown(report: QualityReport) -> str:
    """The report as a Markdown page."""
    verdict = "; ".join(report.violations) or "accepted"
    lines = [
        f"# {report.pipeline}: UNet in {report.quantization}, against {report.precision}",
        "",
        f"Verdict: **{'refused: ' if report.violations else ''}{verdict}**.",
        "",
        f"NVIDIA ModelOpt {report.modelopt}, {report.calibration_rows} inputs of real runs; run by "
        f"onnxruntime {report.onnxruntime} on a CPU. Quantised: {_linear(report.linear)}.",
        "",
        "| | found | limit |",
        "| --- | --- | --- |",
    ]
    for name, value in report.quality.model_dump().items():
        lines.append(f"| {name.replace('_', ' ')} | {value:.4f} | {report.limits[name]:g} |")
    lines += [
        "",
        "The UNet's output on the same inputs:",
        "",
        "| timesteps | rows | relative error: mean, most | least cosine |",
        "| --- | --- | --- | --- |",
    ]
    for step in report.steps:
        start, stop = step.timesteps
        lines.append(
            f"| {start}–{stop - 1} | {step.rows} | {step.error_mean:.4f}, {step.error_max:.4f} "
            f"| {step.cosine_min:.5f} |"
        )
    lines += [
        "",
        "Whole requests from the same noise; pictures in grey levels within the box:",
        "",
        "| request | denoise | latent | latent: relative error, cosine | picture: mean, most "
        "| PSNR |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in report.requests:
        height, width = each.latent_shape[-2:]
        lines.append(
            f"| {each.name}, “{each.prompt}” | {each.denoise:g} | {height}×{width} "
            f"| {each.latent_error:.4f}, {each.latent_cosine:.5f} "
            f"| {each.picture_mean:.2f}, {each.picture_max} | {each.picture_psnr_db:.1f} dB |"
        )
    return "\n".join(lines) + "\n"


def _linear(linear: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{some} of {all_} {name}" for name, (some, all_) in linear.items())
