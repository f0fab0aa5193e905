"""The command line: arguments, logging, signals, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType

from build_engines import build
from build_engines.errors import BuildError, OptionError
from build_engines.options import (
    PRECISIONS,
    PREDICTIONS,
    QUANTIZATIONS,
    TARGETS,
    Lora,
    QualityLimits,
    QuantizeOptions,
    TargetOptions,
)
from segs_client import __version__

log = logging.getLogger("build_engines")

INTERRUPTED = 130
_DESCRIPTION = """\
Compiles a Stable Diffusion checkpoint into the Triton models of one pipeline: text encoder,
UNet, VAE encoder and decoder, ControlNets, tokenizer, and a descriptor. Each network is
compared with the checkpoint's own before it is accepted. An unchanged checkpoint is not built
again; a build that fails or is interrupted leaves an older one as it was."""
_EXIT_CODES = """\
exit codes: 0 built, or unchanged; 1 failed; 2 wrong arguments; 3 the checkpoint cannot be used;
4 an exported network differs from the checkpoint's; 5 a quantised one differs too much;
130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    _quiet_libraries(options.verbose)
    # Where the cores are shared, torch's threads that spin while they wait cost several times
    # what they save. Read when torch is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        build(
            *(options.checkpoint, options.name, options.repository, _target(options)),
            controlnets=_by_name("controlnet", options.controlnet),
            prediction=options.prediction,
            loras=options.lora,
            embeddings=_by_name("embedding", options.embedding),
            clip_skip=options.clip_skip,
        )
    except BuildError as error:
        log.error("%s", error, exc_info=options.verbose)
        return error.exit_code
    except OSError as error:
        log.error("%s", error, exc_info=options.verbose)
        return BuildError.exit_code
    except KeyboardInterrupt:
        log.error("interrupted; what was built before is as it was")
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m build_engines" if Path(sys.argv[0]).name == "__main__.py" else None,
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="a diffusers folder with safetensors weights, or a single .safetensors file: "
        "SD 1.x, 2.x, XL, XL refiner",
    )
    parser.add_argument(
        "--name", required=True, help="the pipeline's name; its models are NAME_unet and so on"
    )
    parser.add_argument(
        "--repository", required=True, type=Path, help="the Triton model repository to write into"
    )
    _add_target(parser.add_argument_group("what runs the networks"))
    _add_quantization(parser.add_argument_group("a quantised UNet (docs/quantization.md)"))
    parser.add_argument(
        "--controlnet",
        action="append",
        default=[],
        type=_named_path,
        metavar="NAME=PATH",
        help="a ControlNet, a diffusers folder or a single .safetensors file, and the name it "
        "gets; may be given several times",
    )
    parser.add_argument(
        "--prediction",
        choices=PREDICTIONS,
        help="what the UNet predicts; by default what the checkpoint declares, and epsilon if it "
        "declares nothing",
    )
    parser.add_argument(
        "--clip-skip",
        type=int,
        metavar="N",
        help="the text encoders' layer that is used, counted from the last one; 2 is what many "
        "anime checkpoints of SD 1.x need (default: the family's own and the least, 1 for SD 1.x, "
        "2 for all others). diffusers' clip_skip counts skipped layers: N-1 for SD 1.x, N-2 for "
        "all others; ComfyUI's stop_at_clip_layer is -N",
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        type=_lora,
        metavar="FILE[:STRENGTH[:CLIP]]",
        help="a LoRA (.safetensors, or the folder it was saved to) to fold into the weights, and "
        "its strength (default 1); with CLIP the first is the UNet's, CLIP the text encoders'; "
        "may be given several times",
    )
    parser.add_argument(
        "--embedding",
        action="append",
        default=[],
        type=_named_path,
        metavar="NAME=FILE",
        help="a textual inversion (.safetensors), in prompts embedding:NAME; may be given "
        "several times",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log details and tracebacks")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _add_target(group: argparse._ArgumentGroup) -> None:
    default = TargetOptions()
    add = group.add_argument
    add(
        "--target",
        default=default.name,
        help=f"{', '.join(TARGETS)} (default %(default)s: onnxruntime on a CPU; openvino, in half "
        "the time on a CPU with bfloat16)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="of weights and values (default: fp16 for tensorrt, bf16 for openvino, fp32 else)",
    )
    add(
        "--memory",
        type=float,
        metavar="GB",
        help="of the GPU that the models are made for (default: of the one that is there)",
    )
    add(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="tensorrt: what its builder has measured, read and written, so that the next build "
        "is faster",
    )
    add(
        "--optimization-level",
        type=int,
        choices=range(6),
        default=default.optimization_level,
        help="tensorrt: how long its builder searches (default %(default)s)",
    )
    add(
        "--refit",
        action="store_true",
        help="tensorrt: engines whose weights can be exchanged; building another checkpoint of "
        "the same shape under the same name then takes seconds",
    )
    add(
        "--weight-streaming",
        action="store_true",
        help="tensorrt: engines whose weights may stay in host memory, for programs that set a "
        "budget; Triton sets none and keeps them on the GPU",
    )


def _add_quantization(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--quantize", choices=QUANTIZATIONS, help="what its weights and activations become")
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="pictures and prompts.txt to calibrate with (default: a drawn scene, plain prompts); "
        "gets what was recorded, and the report",
    )
    add(
        "--calibration-side",
        type=int,
        metavar="PX",
        help="greatest side of what is sampled (default: what the checkpoint was trained at)",
    )
    add(
        "--quantizer-python",
        type=Path,
        metavar="FILE",
        help="the interpreter that has NVIDIA ModelOpt (default: this one)",
    )
    for field in fields(QualityLimits):
        add(
            f"--max-{field.name.replace('_', '-')}",
            type=float,
            default=field.default,
            metavar="X",
            help="beyond it the build is refused (default %(default)s)",
        )


def _quantize(options: argparse.Namespace) -> QuantizeOptions | None:
    if options.quantize is None:
        if options.calibration is not None:
            raise OptionError("calibration: only with --quantize")
        return None
    if options.calibration is None:
        raise OptionError("quantize: --calibration DIR is needed, a folder; it may be a new one")
    limits = {each.name: getattr(options, f"max_{each.name}") for each in fields(QualityLimits)}
    return QuantizeOptions(
        mode=options.quantize,
        folder=options.calibration,
        python=options.quantizer_python or Path(sys.executable),
        side=options.calibration_side,
        limits=QualityLimits(**limits),
    )


def _target(options: argparse.Namespace) -> TargetOptions:
    return TargetOptions(
        name=options.target,
        precision=options.precision,
        memory_gb=options.memory,
        timing_cache=options.timing_cache,
        optimization_level=options.optimization_level,
        refit=options.refit,
        weight_streaming=options.weight_streaming,
        quantize=_quantize(options),
    )


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r}; NAME=PATH is expected")
    return name, Path(path)


def _lora(text: str) -> Lora:
    """Up to two numbers at the end are strengths, unless a file of the longer name exists."""
    path, strengths = text, list[float]()
    while len(strengths) < 2 and not Path(path).exists():
        start, _, end = path.rpartition(":")
        try:
            strength = float(end)
        except ValueError:
            break
        if not start:
            break
        path, strengths = start, [strength, *strengths]
    strengths = strengths or [1.0]
    return Lora(Path(path), strengths[0], strengths[-1])


def _by_name(option: str, pairs: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    by_name = dict(pairs)
    if len(by_name) < len(pairs):
        raise OptionError(f"{option}: {', '.join(name for name, _ in pairs)}: a name comes twice")
    return by_name


def _quiet_libraries(verbose: bool) -> None:
    """Keeps the libraries' own chatter out of the log; errors stay."""
    if verbose:
        return
    for name in ("diffusers", "transformers", "torch", "onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
