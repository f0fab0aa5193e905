"""What it costs the engine's loop that a client follows a request, whether it reads or not, and
that a request is traced.

    python -m benchmarks.followed

Latents are 64×64 (pictures of 512²); one thread. Microseconds of a step, medians.
"""

from __future__ import annotations

import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from benchmarks.machine import describe
from request_plan.plan import Piece, Plan, PlannedSeg
from sampling.progress import BatchSeen, Step
from segs_client.contract import DetailRequest, StreamOptions
from triton_models.event_channel import EventPublisher
from triton_models.progress_publisher import ProgressPublisher
from triton_models.seg_spans import SegSpans
from triton_models.tracing import Span, Tracing

SHAPE = (1, 4, 64, 64)
STEPS = 5_000


def seconds_a_step(folder: Path, preview_every: int, *, is_read: bool) -> float:
    """The median of what telling a step takes.

    Args:
        folder: gets the socket.
        is_read: whether a subscriber takes the events off it.
    """
    path = folder / f"events-{preview_every}-{is_read}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        if is_read:
            threading.Thread(target=_read_all, args=(listening,), daemon=True).start()
        request = DetailRequest(pipeline="base", stream=StreamOptions(preview_every=preview_every))
        publisher = ProgressPublisher(EventPublisher(path), "token", _plan(request))
        if preview_every:
            publisher.colours = torch.randn(3, SHAPE[1]), torch.randn(3)
        watch = publisher.watch(0, 0)
        latent = torch.randn(SHAPE)
        taken_s = []
        for number in range(1, STEPS + 1):
            start_s = time.perf_counter()
            watch(Step(0, number, STEPS, latent))
            taken_s.append(time.perf_counter() - start_s)
    return statistics.median(taken_s)


def seconds_a_traced_step() -> float:
    """The median of what noting a step and its batch takes."""
    seg = PlannedSeg(
        label="", confidence=1.0, bbox=(0, 0, 8, 8), crop_region=(0, 0, 8, 8), seed=1, steps=STEPS,
        cfg=1.0, denoise=1.0, mask=Piece(offset=0, height=8, width=8), positives=(), negatives=(),
    )  # fmt: skip
    plan = _plan(DetailRequest(pipeline="base")).model_copy(update={"segs": (seg,)})
    spans = SegSpans(Tracing(), Span(), plan)
    spans.started(0, 0)
    watch, witness = spans.watch(0, 0), spans.witness(0, 0)
    latent, taken_s = torch.zeros(SHAPE), []
    for number in range(1, STEPS + 1):
        start_s = time.perf_counter()
        asked_ns, begun_ns, ended_ns = time.time_ns(), time.time_ns(), time.time_ns()
        witness(BatchSeen("base_unet", asked_ns, begun_ns, ended_ns, 2, 2, 1, 1, True))
        watch(Step(0, number, STEPS, latent))
        taken_s.append(time.perf_counter() - start_s)
    return statistics.median(taken_s)


def _plan(request: DetailRequest) -> Plan:
    return Plan(
        request=request, request_id="", deadline_s=None, image_size=(512, 512), segs=(),
        prepare_s=0.0, memory_bytes=0,
    )  # fmt: skip


def _read_all(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        while connection.recv(1 << 16):
            pass


def main() -> int:
    """Prints the table."""
    torch.set_num_threads(1)
    lines = [describe(), "", "| | read, µs | not read, µs |", "| --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        for name, every in (("a step", 0), ("a step with its preview", 1)):
            times_s = [
                seconds_a_step(Path(folder), every, is_read=is_read) for is_read in (True, False)
            ]
            read_us, unread_us = (each * 1e6 for each in times_s)
            lines.append(f"| {name} | {read_us:.1f} | {unread_us:.1f} |")
    lines += ["", f"A step that is traced: {seconds_a_traced_step() * 1e6:.1f} µs."]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
