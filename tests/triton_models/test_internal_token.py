"""The token of calls from within the server."""

from __future__ import annotations

import json

import pytest

from segs_client.contract import ContractError
from triton_models import environment, internal_token


def test_calls_from_within_carry_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.INTERNAL_TOKEN, raising=False)
    assert internal_token.internal_parameters() == {}
    internal_token.check_internal("")
    monkeypatch.setenv(environment.INTERNAL_TOKEN, "token")
    internal_token.check_internal(json.dumps(internal_token.internal_parameters()))
    for text in ("", "{}", '{"inside": "other"}', '{"inside": 5}', "[", "5"):
        with pytest.raises(ContractError, match="not called from outside") as caught:
            internal_token.check_internal(text)
        assert caught.value.detail.code == "UNAUTHENTICATED"


def test_a_call_is_internal_by_its_token_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.INTERNAL_TOKEN, raising=False)
    assert not internal_token.is_internal('{"inside": ""}')
    monkeypatch.setenv(environment.INTERNAL_TOKEN, "token")
    assert internal_token.is_internal('{"inside": "token", "other": 1}')
    for text in ("", "{}", '{"inside": "other"}', '{"inside": ["token"]}', '{"inside": "tök"}'):
        assert not internal_token.is_internal(text)


@pytest.mark.parametrize(
    ("samples", "count"),
    [
        ([], 0),
        ([{"batch_size": 1}], 1),
        ([{"batch_size": 2, "count": 3}, {"batch_size": 0, "count": "2"}], 8),
    ],
)
def test_warm_up_requests_are_counted(samples: list[dict[str, object]], count: int) -> None:
    assert internal_token.count_warm_up({"model_warmup": samples}) == count
    assert internal_token.count_warm_up({}) == 0
