"""The command line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from examples.demo_checkpoint.export import export, restore
from examples.demo_checkpoint.run import Pace
from examples.demo_checkpoint.stages import STAGES, Plan, train_all

PROJECT = Path(__file__).resolve().parent.parent.parent
TOKENIZER = PROJECT / "tests" / "data" / "checkpoints" / "sd15" / "tokenizer"
STEPS = {"vae": 6000, "decoder": 2000, "unet": 8000, "controlnet": 1500, "inpaint": 1500}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains the stages that are not finished, one by one; writes or reads a checkpoint."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.command == "export":
        export(options.state, options.out, options.tokenizer)
        return 0
    if options.command == "restore":
        restore(options.checkpoint, options.state, options.tokenizer)
        return 0
    torch.set_num_threads(options.threads)
    # Adds on the tensor cores of a GPU; nothing here needs the last bits.
    torch.set_float32_matmul_precision("high")
    options.state.mkdir(parents=True, exist_ok=True)
    (options.state / "pid").write_text(f"{os.getpid()}\n")
    plan = Plan(
        state=options.state,
        tokenizer=options.tokenizer,
        device=torch.device(options.device),
        steps={name: getattr(options, f"{name}_steps") for name in STAGES},
        scale=options.scale,
        shards=options.shards,
        workers=options.workers,
        compiled=options.compile,
    )
    return 0 if train_all(plan, Pace(end_s=time.monotonic() + options.limit_s)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.demo_checkpoint")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train, or go on; 1 if the time was up")
    exporting = commands.add_parser("export", help="write the checkpoint")
    restoring = commands.add_parser("restore", help="begin a training where a checkpoint ended")
    for command in (training, exporting, restoring):
        command.add_argument(
            "--state", type=Path, default=Path("out/demo_checkpoint"), metavar="DIR"
        )
        command.add_argument("--tokenizer", type=Path, default=TOKENIZER, metavar="DIR")
    restoring.add_argument("checkpoint", type=Path, help="what export wrote")
    exporting.add_argument("out", type=Path, help="the folder to write")
    cuda = torch.cuda.is_available()
    training.add_argument("--device", default="cuda" if cuda else "cpu")
    training.add_argument("--threads", type=int, default=2, help="of torch, on a CPU")
    training.add_argument("--workers", type=int, default=0, help="processes that draw")
    training.add_argument(
        "--compile", action="store_true", help="by torch.compile; minutes at first"
    )
    training.add_argument(
        "--limit-s", type=float, default=float("inf"), help="stop after so many seconds"
    )
    training.add_argument(
        "--scale", type=int, default=1, help="as many times as many examples a step"
    )
    training.add_argument("--shards", type=int, default=40, help="of 256 portraits each")
    for name in STAGES:
        training.add_argument(f"--{name}-steps", type=int, default=STEPS[name])
    return parser


if __name__ == "__main__":
    sys.exit(main())
