"""Trains one stage: steps, moving averages, states on disk that a later run resumes from."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import nn

from examples.demo_checkpoint.curves import draw_curves
from examples.demo_checkpoint.muon import Muon

log = logging.getLogger("demo_checkpoint")

_EMA_DECAY = 0.999
_WARM_UP_STEPS = 50
_COOL_DOWN_SHARE = 0.3
_GRADIENT_NORM = 1.0
_VECTOR_LEARNING_RATE = 2e-3


class Stage(Protocol):
    """What is trained in one stage."""

    name: str
    trained: nn.Module
    steps: int
    learning_rate: float

    def batches(self, first_step: int) -> Iterable[Any]:
        """One batch per step, from that step on; the same step has the same batch."""

    def losses(self, step: int, batch: Any) -> dict[str, torch.Tensor]:
        """Scalars to note; "loss" is the one to lower."""

    def measure(self) -> tuple[dict[str, float], Image.Image]:
        """Figures and a sample sheet of the network as it is now."""


@dataclass(frozen=True)
class Pace:
    """How often, in seconds, a stage's state is saved and its samples are drawn; and when, by
    ``time.monotonic``, all stops, to be resumed by the next run."""

    save_s: float = 180.0
    sample_s: float = 600.0
    end_s: float = float("inf")


class Average:
    """The exponential moving average of a module's weights."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {name: value.detach().clone() for name, value in _floats(module)}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after a step."""
        decay = min(_EMA_DECAY, (1 + step) / (10 + step))
        names = [name for name, _ in _floats(module)]
        torch._foreach_lerp_(
            [self.weights[name] for name in names], [v for _, v in _floats(module)], 1 - decay
        )

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchanges the average and the module's own weights."""
        for name, value in _floats(module):
            own = value.detach().clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(own)


def _floats(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()


def is_done(folder: Path) -> bool:
    """Whether a stage's last step is saved."""
    return (folder / "weights.pt").exists()


def has_state(folder: Path) -> bool:
    """Whether a stage has begun, and saved something."""
    return is_done(folder) or (folder / "state.pt").exists()


def averaged_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a stage, finished or not.

    Raises:
        FileNotFoundError: the stage has no state yet.
    """
    if is_done(folder):
        weights: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", map_location="cpu")
        return weights
    state = torch.load(folder / "state.pt", map_location="cpu")
    return {**state["model"], **state["average"]}


def train(stage: Stage, folder: Path, pace: Pace) -> bool:
    """Trains a stage to its end, from where the folder's state is; returns whether it got there.

    Without a state, start.pt, where it is, has the first weights. ``folder`` gets state.pt,
    log.jsonl, curves.png, samples.png (and one picture per sampling), at the end weights.pt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(stage, folder)
    run.resume()
    saved_s = sampled_s = time.monotonic()
    for batch in stage.batches(run.step):
        run.advance(batch)
        now_s = time.monotonic()
        late = now_s > pace.end_s
        finished = run.step >= stage.steps
        if finished or late or now_s - saved_s > pace.save_s:
            run.save()
            saved_s = now_s
        if finished or now_s - sampled_s > pace.sample_s:
            run.sample()
            sampled_s = now_s
        if finished or late:
            break
    if run.step < stage.steps:
        return False
    run.finish()
    return True


class _Run:
    """A stage under way."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.folder, self.step = stage, folder, 0
        self.average = Average(stage.trained)
        self.optimizers = _optimizers(stage)
        self._recent: list[tuple[dict[str, torch.Tensor], float]] = []

    def advance(self, batch: Any) -> None:
        """One step."""
        began_s = time.monotonic()
        self._set_rates()
        torch.manual_seed(self.step)
        losses = self.stage.losses(self.step, batch)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.stage.trained.parameters(), _GRADIENT_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.stage.trained, self.step)
        detached = {name: value.detach() for name, value in losses.items()}
        self._recent.append((detached, time.monotonic() - began_s))
        if len(self._recent) == 50:
            self._note_recent()

    def _set_rates(self) -> None:
        left = (self.stage.steps - self.step) / (_COOL_DOWN_SHARE * self.stage.steps)
        factor = min(1.0, (self.step + 1) / _WARM_UP_STEPS, max(0.02, left))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * factor

    def _note_recent(self) -> None:
        notes = {
            name: round(statistics.fmean(float(each[name]) for each, _ in self._recent), 5)
            for name in self._recent[0][0]
        }
        step_s = statistics.median(seconds for _, seconds in self._recent)
        self._recent.clear()
        self._note({**notes, "step_s": round(step_s, 3)})

    def _note(self, notes: Mapping[str, float]) -> None:
        line = {"step": self.step, **notes}
        log.info("%s %s", self.stage.name, json.dumps(line))
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def sample(self) -> None:
        """Figures, a sample sheet and the loss curves, of the averaged weights."""
        self.average.swap(self.stage.trained)
        self.stage.trained.eval()
        with torch.no_grad():
            figures, sheet = self.stage.measure()
        self.stage.trained.train()
        self.average.swap(self.stage.trained)
        self._note(figures)
        sheet.save(self.folder / "samples.png")
        sheet.save(self.folder / f"samples-{self.step:06}.png")
        draw_curves(self.folder / "log.jsonl").save(self.folder / "curves.png")

    def save(self) -> None:
        """The whole state, in place of the last."""
        state = {
            "step": self.step,
            "model": self.stage.trained.state_dict(),
            "average": self.average.weights,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        write_whole(self.folder / "state.pt", state)

    def resume(self) -> None:
        """Goes on from the folder's state, if there is one."""
        path = self.folder / "state.pt"
        if not path.exists():
            self._start()
            return
        state = torch.load(path, map_location="cpu")
        self.step = state["step"]
        self.stage.trained.load_state_dict(state["model"])
        for name, value in self.average.weights.items():
            value.copy_(state["average"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            full = [group["full_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, rate in zip(optimizer.param_groups, full, strict=True):
                group["full_lr"] = rate
        log.info("%s: from step %d of %d", self.stage.name, self.step, self.stage.steps)

    def _start(self) -> None:
        path, begins = self.folder / "start.pt", "the start"
        if path.exists():
            self.stage.trained.load_state_dict(torch.load(path, map_location="cpu"))
            self.average = Average(self.stage.trained)
            begins = "known weights"
        log.info("%s: from %s, %d steps", self.stage.name, begins, self.stage.steps)

    def finish(self) -> None:
        """The averaged weights, for the stages that build on this one."""
        self.average.swap(self.stage.trained)
        weights = {name: value.cpu() for name, value in self.stage.trained.state_dict().items()}
        write_whole(self.folder / "weights.pt", weights)


def write_whole(path: Path, value: Any) -> None:
    """Saves with torch so that the file is never seen half written."""
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    partial.replace(path)


def _optimizers(stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the layers' weights; Adam for biases, norms and embeddings."""
    embeddings = {
        id(module.weight) for module in stage.trained.modules() if isinstance(module, nn.Embedding)
    }
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in stage.trained.parameters():
        if parameter.requires_grad:
            layer = parameter.ndim >= 2 and id(parameter) not in embeddings
            (matrices if layer else vectors).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=stage.learning_rate, weight_decay=0.01),
        torch.optim.Adam(vectors, lr=_VECTOR_LEARNING_RATE, betas=(0.9, 0.99)),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers
