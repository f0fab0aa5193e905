"""A thousand hostile calls of a real server, and every seed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.options import MODEL_REPOSITORY
from serving.server import EmbeddedServer
from tests.fuzz.calls import PREFIX, Call, Calls
from tests.fuzz.harness import HARNESSES
from tests.fuzz.models import Material, read_models
from tests.fuzz.runner import Run
from tests.fuzz.sending import Sender
from tests.fuzz.target import Target
from tests.fuzz.verdicts import BAD, judge

SEEDS = Path(__file__).parent / "seeds"
PIPELINE = "sd15"
CALLS = 1000
SEED = 6


@pytest.fixture(scope="module")
def target(full_server: EmbeddedServer, repository: Path) -> Iterator[Target]:
    with Target([repository], PIPELINE, full_server) as running:
        yield running


@pytest.mark.server
def test_a_thousand_hostile_calls(target: Target, repository: Path) -> None:
    models = read_models([MODEL_REPOSITORY, repository])
    run = Run(target, Calls(SEED, models, Material([repository], PIPELINE)))
    run.run(range(CALLS))
    assert [finding.what for finding in run.findings] == []
    assert target.wounds() == []
    counts = {kind: tally.count for kind, tally in run.tallies.items()}
    assert sum(counts.values()) == CALLS
    assert all(counts.values())
    assert run.tallies["valid"].verdicts["answered"] == counts["valid"]
    # Only a network may fail, at what our own models would never send it.
    failed = {kind for kind, tally in run.tallies.items() if tally.verdicts["failed"]}
    assert failed <= {"network"}


@pytest.mark.server
@pytest.mark.parametrize("path", sorted(SEEDS.glob("ModelInfer/*")), ids=lambda path: path.stem)
def test_a_seed_does_no_harm(target: Target, path: Path) -> None:
    call = Call(0, "seed", f"{PREFIX}ModelInfer", path.read_bytes())
    sender = Sender(target)
    outcome = sender.send(call)
    sender.close()
    assert judge(outcome, call.body) not in (*BAD, "failed"), outcome
    assert target.wounds() == []
    assert target.canary() < 30


@pytest.mark.parametrize(
    "path",
    sorted(path for name in HARNESSES for path in SEEDS.glob(f"{name}/*")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_a_seed_is_read_or_refused(path: Path) -> None:
    HARNESSES[path.parent.name](path.read_bytes())
