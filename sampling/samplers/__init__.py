"""The samplers by name. To add one: write its function, enter it here."""

from __future__ import annotations

from sampling.samplers.base import Eval, Prediction, Run, Sampler, Steps
from sampling.samplers.dpmpp import dpmpp_2m, dpmpp_2m_sde
from sampling.samplers.euler import euler, euler_ancestral, heun

__all__ = ["SAMPLERS", "Eval", "Prediction", "Run", "Sampler", "Steps"]

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler),
    "euler_ancestral": Sampler(euler_ancestral),
    "heun": Sampler(heun),
    "dpmpp_2m": Sampler(dpmpp_2m),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde),
}
