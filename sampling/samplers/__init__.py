"""The samplers by name. To add one: write its function, enter it here and in the contract."""

from __future__ import annotations

from sampling.samplers.base import Eval, Prediction, Run, Sampler, Steps
from sampling.samplers.ddpm import ddpm, lcm
from sampling.samplers.dpm import dpm_2, dpm_2_ancestral, dpm_adaptive, dpm_fast
from sampling.samplers.dpmpp import (
    dpmpp_2m,
    dpmpp_2m_cfg_pp,
    dpmpp_2s_ancestral,
    dpmpp_2s_ancestral_cfg_pp,
)
from sampling.samplers.dpmpp_sde import dpmpp_2m_sde, dpmpp_2m_sde_heun, dpmpp_3m_sde, dpmpp_sde
from sampling.samplers.er_sde import er_sde
from sampling.samplers.euler import (
    euler,
    euler_ancestral,
    euler_ancestral_cfg_pp,
    euler_cfg_pp,
    heun,
    heunpp2,
)
from sampling.samplers.gradient_estimation import gradient_estimation, gradient_estimation_cfg_pp
from sampling.samplers.multistep import deis, ipndm, ipndm_v, lms
from sampling.samplers.res import (
    res_multistep,
    res_multistep_ancestral,
    res_multistep_ancestral_cfg_pp,
    res_multistep_cfg_pp,
)
from sampling.samplers.sa_solver import sa_solver, sa_solver_pece
from sampling.samplers.seeds import seeds_2, seeds_3
from sampling.samplers.uni_pc import uni_pc, uni_pc_bh2

__all__ = ["SAMPLERS", "Eval", "Prediction", "Run", "Sampler", "Steps"]

SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(euler),
    "euler_cfg_pp": Sampler(euler_cfg_pp, needs_uncond=True),
    "euler_ancestral": Sampler(euler_ancestral),
    "euler_ancestral_cfg_pp": Sampler(euler_ancestral_cfg_pp, needs_uncond=True),
    "heun": Sampler(heun),
    "heunpp2": Sampler(heunpp2),
    "dpm_2": Sampler(dpm_2, discard_penultimate=True),
    "dpm_2_ancestral": Sampler(dpm_2_ancestral, discard_penultimate=True),
    "lms": Sampler(lms),
    "dpm_fast": Sampler(dpm_fast),
    "dpm_adaptive": Sampler(dpm_adaptive),
    "dpmpp_2s_ancestral": Sampler(dpmpp_2s_ancestral),
    "dpmpp_2s_ancestral_cfg_pp": Sampler(dpmpp_2s_ancestral_cfg_pp, needs_uncond=True),
    "dpmpp_sde": Sampler(dpmpp_sde),
    "dpmpp_sde_gpu": Sampler(dpmpp_sde),
    "dpmpp_2m": Sampler(dpmpp_2m),
    "dpmpp_2m_cfg_pp": Sampler(dpmpp_2m_cfg_pp, needs_uncond=True),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde),
    "dpmpp_2m_sde_gpu": Sampler(dpmpp_2m_sde),
    "dpmpp_2m_sde_heun": Sampler(dpmpp_2m_sde_heun),
    "dpmpp_2m_sde_heun_gpu": Sampler(dpmpp_2m_sde_heun),
    "dpmpp_3m_sde": Sampler(dpmpp_3m_sde),
    "dpmpp_3m_sde_gpu": Sampler(dpmpp_3m_sde),
    "ddpm": Sampler(ddpm),
    "lcm": Sampler(lcm),
    "ipndm": Sampler(ipndm),
    "ipndm_v": Sampler(ipndm_v),
    "deis": Sampler(deis),
    "res_multistep": Sampler(res_multistep),
    "res_multistep_cfg_pp": Sampler(res_multistep_cfg_pp, needs_uncond=True),
    "res_multistep_ancestral": Sampler(res_multistep_ancestral),
    "res_multistep_ancestral_cfg_pp": Sampler(res_multistep_ancestral_cfg_pp, needs_uncond=True),
    "gradient_estimation": Sampler(gradient_estimation),
    "gradient_estimation_cfg_pp": Sampler(gradient_estimation_cfg_pp, needs_uncond=True),
    "er_sde": Sampler(er_sde),
    "seeds_2": Sampler(seeds_2),
    "seeds_3": Sampler(seeds_3),
    "sa_solver": Sampler(sa_solver),
    "sa_solver_pece": Sampler(sa_solver_pece),
    "ddim": Sampler(euler),
    "uni_pc": Sampler(uni_pc, discard_penultimate=True),
    "uni_pc_bh2": Sampler(uni_pc_bh2, discard_penultimate=True),
}
