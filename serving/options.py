"""What can be chosen about a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from request_plan.limits import DEFAULT, Limits

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
"""Triton's protocols that ask for the admin key: they change the server or reveal its set-up."""


@dataclass(frozen=True)
class TlsFiles:
    """Files (PEM) of a server's TLS.

    Args:
        cert: the server's certificate, then those between it and its authority.
        key: its private key, without a password.
        client_ca: certificates that clients' are checked with; None: clients show none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class ServerOptions:
    """One server. A port of 0 is chosen by the system; None leaves that protocol closed."""

    repositories: tuple[Path, ...] = ()
    """Folders of pipelines, as build_engines writes them."""
    model_repository: Path = MODEL_REPOSITORY
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int | None = None
    metrics_port: int | None = None
    health_port: int | None = None
    """Of ``/health/live`` and ``/health/ready``, which ``python -m serving serve`` answers."""
    grpc_health_port: int | None = None
    """Of ``grpc.health.v1.Health``, likewise."""
    tritonserver: Path | None = None
    """The binary to run; None takes the one on PATH, else the one in nvidia-pytriton."""
    model_threads: int = 1
    """OpenMP and BLAS threads of each Python model's own small array work."""
    log_level: str = "INFO"
    log_format: str = "text"
    """Of the Python models' lines: ``text``, or ``json`` with the request that each is about."""
    log_path: Path | None = None
    """File that gets the server's output as it is; None keeps only its tail in memory."""
    start_timeout_s: float = 600.0
    stop_timeout_s: float = 8.0
    """From asking the server to stop until it is killed."""
    drain_timeout_s: float = 30.0
    """For requests under way to end before a server under supervision is asked to stop."""
    canary: bool = True
    api_keys: Path | None = None
    """File of the keys that clients have to show; None: everybody may call."""
    tls: TlsFiles | None = None
    """Of gRPC; None: it is not encrypted."""
    open_protocols: tuple[str, ...] = ()
    """Those of :data:`RESTRICTED` that are open to everybody who reaches the port."""
    allow_old_server: bool = False
    """Beyond loopback also with a tritonserver that lacks known security fixes."""
    verify: bool = True
    """Compare the pipelines' files with the SHA-256 in their descriptors before the start."""
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
