"""The options of a server."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from request_plan.limits import DEFAULT, Limits
from triton_models.log_format import FORMATS

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent
MODEL_REPOSITORY = REPOSITORY_ROOT / "model_repository"
RESTRICTED = (
    "shared-memory",
    "model-repository",
    "model-config",
    "statistics",
    "trace",
    "logging",
)
"""Triton's protocols that require the admin key: they change the server or reveal its set-up."""


@dataclass(frozen=True)
class TlsFiles:
    """Files (PEM) of a server's TLS.

    Args:
        cert: the server's certificate, followed by intermediate certificates.
        key: its private key, without a password.
        client_ca: CA certificates to check clients'; None: clients need no certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port is 0 to 65535")
    return port


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 at least")
    return number


def _protocols(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = set(names) - set(RESTRICTED)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: known are {', '.join(RESTRICTED)}"
        )
    return names


def _option(default: Any, text: str, flag: str, **argument: Any) -> Any:
    """A field with its flag's help and argparse options."""
    return field(default=default, metadata={"flag": flag, "help": text, **argument})


def _port_option(default: int | None, text: str, flag: str) -> Any:
    return _option(default, text, flag, type=_port, metavar="PORT")


@dataclass(frozen=True)
class ServerOptions:
    """The options of one server. Port 0: chosen by the system; None: the protocol is closed.

    Each field but ``tls`` and ``limits`` is a flag of ``python -m serving serve``, by its metadata.
    """

    repositories: tuple[Path, ...] = _option(
        (), "folder of pipelines, as build_engines writes it; may be given several times",
        "--repository", type=Path, nargs="+", action="extend", required=True, metavar="DIR",
    )  # fmt: skip
    model_repository: Path = _option(
        MODEL_REPOSITORY, "the project's own Triton models",
        "--model-repository", type=Path, metavar="DIR",
    )  # fmt: skip
    host: str = _option("127.0.0.1", "address to listen on (default: this machine only)", "--host")
    grpc_port: int = _port_option(8001, "of gRPC (default 8001); 0: any free one", "--grpc-port")
    http_port: int | None = _port_option(None, "also serve HTTP (usually 8000)", "--http-port")
    metrics_port: int | None = _port_option(
        None, "also serve Prometheus metrics (usually 8002)", "--metrics-port"
    )
    health_port: int | None = _port_option(
        None,
        "also answer probes: HTTP /health/live and /health/ready (usually 8003)",
        "--health-port",
    )
    grpc_health_port: int | None = _port_option(
        None,
        "also answer gRPC's own probe, grpc.health.v1.Health (usually 8004)",
        "--grpc-health-port",
    )
    tritonserver: Path | None = _option(
        None, "the server to run; default: on PATH, else the one in nvidia-pytriton",
        "--tritonserver", type=Path, metavar="PATH",
    )  # fmt: skip
    model_threads: int = _option(
        1, "OpenMP threads of each Python model (the networks have their own; default 1)",
        "--model-threads", type=_positive, metavar="N",
    )  # fmt: skip
    log_level: str = _option(
        "INFO", "least level that is logged (default INFO)",
        "--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"],
    )  # fmt: skip
    log_format: str = _option(
        "text", "json: one object a line, with the id of the request that it is about",
        "--log-format", choices=FORMATS,
    )  # fmt: skip
    log_path: Path | None = _option(
        None, "keep tritonserver's own output here; else only its tail is kept, in memory",
        "--log-file", type=Path, metavar="FILE",
    )  # fmt: skip
    start_timeout_s: float = _option(
        600.0, "from the start until the server is ready (default %(default)g)",
        "--start-timeout", type=float, metavar="SECONDS",
    )  # fmt: skip
    stop_timeout_s: float = _option(
        8.0, "from asking tritonserver to stop until it is killed (default %(default)g)",
        "--stop-timeout", type=float, metavar="SECONDS",
    )  # fmt: skip
    drain_timeout_s: float = _option(
        30.0, "before that, for requests in flight to end; new ones are refused as UNAVAILABLE "
        "(default %(default)g)",
        "--drain-timeout", type=float, metavar="SECONDS",
    )  # fmt: skip
    canary: bool = _option(
        True, "be ready without having answered a request or compared a network with its reference",
        "--no-canary", action="store_false",
    )  # fmt: skip
    api_keys: Path | None = _option(
        None, "take requests with a key of this file only; see new-key",
        "--api-keys", type=Path, metavar="FILE",
    )  # fmt: skip
    tls: TlsFiles | None = None
    """TLS of gRPC; None: not encrypted."""
    open_protocols: tuple[str, ...] = _option(
        (), "open these of Triton's protocols to every caller, for load tests for instance: "
        + ",".join(RESTRICTED),
        "--open-protocols", type=_protocols, metavar="NAMES",
    )  # fmt: skip
    allow_old_server: bool = _option(
        False, "listen beyond this machine with a tritonserver that lacks known security fixes",
        "--allow-old-server", action="store_true",
    )  # fmt: skip
    verify: bool = _option(
        True, "start without comparing the pipelines' files with their SHA-256",
        "--no-verify", action="store_false",
    )  # fmt: skip
    limits: Limits = DEFAULT

    def __post_init__(self) -> None:
        if self.stop_timeout_s < 1 or self.start_timeout_s <= 0 or self.model_threads < 1:
            raise ValueError(
                "stop_timeout_s >= 1, start_timeout_s > 0 and model_threads >= 1 are required, got "
                f"{self.stop_timeout_s}, {self.start_timeout_s}, {self.model_threads}"
            )
        unknown = set(self.open_protocols) - set(RESTRICTED)
        if unknown:
            raise ValueError(f"open_protocols {sorted(unknown)}: known are {', '.join(RESTRICTED)}")
