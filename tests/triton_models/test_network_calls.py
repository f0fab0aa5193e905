"""A network's batch while its model's process dies and comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from request_plan.refusals import LostError
from tests.virtual_time import run, use_virtual_time
from triton_models import network_calls
from triton_models.network_calls import TritonNetworks

MISSING = (1.0, False)
"""How long a call took, and whether it was answered: the model's process is missing."""


@pytest.mark.parametrize(
    ("calls", "is_answered"),
    [
        ([(0.1, True)], True),
        ([(300.0, False), *[MISSING] * 45, (1.0, True)], True),  # it had stalled before it died
        ([(90.0, False), *[MISSING] * 45, (90.0, True)], True),  # as slow as it is
        ([(5.0, False), MISSING, (5.0, False), MISSING, (0.1, True)], True),
        ([(5.0, False), MISSING, (5.0, False), MISSING, (5.0, False), (0.1, True)], False),
        ([*[MISSING] * 45, (0.1, True)], True),
        ([*[MISSING] * 55, (0.1, True)], False),  # no other in a minute
    ],
)
def test_a_batch_waits_for_the_next_process(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[float, bool]], is_answered: bool
) -> None:
    use_virtual_time(monkeypatch, network_calls.__name__)
    left = list(calls)

    async def once(network: str, inputs: Any) -> Any:
        seconds, answered = left.pop(0)
        await asyncio.sleep(seconds)
        return {"out": network} if answered else None

    networks = TritonNetworks({})
    monkeypatch.setattr(networks, "_run_once", once)

    async def batch() -> Any:
        return await networks.run("unet", {})

    if is_answered:
        assert run(batch) == {"out": "unet"}
        assert not left
    else:
        with pytest.raises(LostError):
            run(batch)
