"""The GPU benchmark's pieces, on a CPU with tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.random_networks import Chain, configs, row_flops
from networks import ControlNet, Unet
from runners.torch_session import TorchSettings

TINY = ("--sizes", "tiny", "--precision", "fp32", "--rate-side", "64", "--batches", "1,2")


def test_parts_are_kept_and_put_into_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--out", str(tmp_path), *TINY, "--seconds", "0.001", "--parts", "rate,unet"]
    assert gpu.main(command) == 0
    done = json.loads((tmp_path / "unet.json").read_text())
    assert len(done["rows"]) == 2 * 2 * len(gpu.MODES)  # ControlNet or not, rows, modes
    assert all(row["ms"] > 0 for row in done["rows"])
    text = (tmp_path / "gpu.md").read_text()
    assert "| tiny | with | 64 | 2 | graphs |" in text
    monkeypatch.setattr(gpu, "PARTS", dict.fromkeys(gpu.PARTS))  # none can be run again
    monkeypatch.setattr(gpu, "report", lambda out: "")
    assert gpu.main(command) == 0


def test_shares_are_of_the_rate_in_the_rows_precision(tmp_path: Path) -> None:
    about = {"machine": "", "precision": "fp16", "seconds": 1}
    rates = [{"precision": "fp16", "TFLOP/s": 100}, {"precision": "bf16", "TFLOP/s": 80}]
    rows = [{"ms": 1, "TFLOP/s": 25}, {"ms": "out of memory"}]
    for part, found in (("rate", rates), ("unet", rows)):
        (tmp_path / f"{part}.json").write_text(json.dumps({**about, "rows": found}))
    assert "| 1 | 25 | 25% |\n| out of memory |  |  |" in gpu.report(tmp_path)


def test_operations_of_a_unet_as_published() -> None:
    """SD1.5's at 512²: about 0.4 T multiply-adds a row."""
    assert row_flops(Unet(configs("sd15")["unet"]), 64) == pytest.approx(0.8e12, rel=0.02)


def test_a_controlnet_feeds_its_unet() -> None:
    made = configs("tiny")
    networks = [ControlNet("x", made["controlnet"], 0), Unet(made["unet"], controlled=True)]
    chain = Chain.random(networks, torch.device("cpu"), "fp32")
    chain.runner(2, 8, TorchSettings())()
    alone = Chain.random([Unet(made["unet"])], torch.device("cpu"), "fp32")
    assert chain.row_flops(8) > alone.row_flops(8)
