"""The seeds of the noise: each pass, each cycle and the mask's own noise count on from a SEG's.

All of them are below 2⁶⁴, which is what a generator takes; the contract refuses other seeds.
"""

from __future__ import annotations

MAX_SEED = 2**64 - 1
_OWN_MASK_NOISE = frozenset({"ddim"})


def pass_seed(seed: int, batch_pass: int, cycle: int = 0) -> int:
    """The seed of a pass's cycle; that of the first is the SEG's seed + 1.

    Example:
        >>> pass_seed(7, 0), pass_seed(7, 1, cycle=2)
        (8, 11)
    """
    return seed + 1 + batch_pass + cycle


def mask_seed(seed: int, sampler_name: str) -> int:
    """The seed of the noise outside the mask, where ``seed`` is that of the noise inside.

    Example:
        >>> mask_seed(8, "euler"), mask_seed(8, "ddim")
        (8, 9)
    """
    return seed + (sampler_name in _OWN_MASK_NOISE)


def largest_seed(*, batch_size: int, cycle: int, sampler_name: str, noise_mask: bool) -> int:
    """The largest seed of a SEG from which none of its seeds reaches 2⁶⁴.

    Example:
        >>> 2**64 - largest_seed(batch_size=1, cycle=1, sampler_name="euler", noise_mask=True)
        2
    """
    last = pass_seed(0, batch_size - 1, cycle - 1)
    return MAX_SEED - (mask_seed(last, sampler_name) if noise_mask else last)
