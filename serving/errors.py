"""Errors of finding, starting and supervising the server."""

from __future__ import annotations

from collections.abc import Mapping

from triton_models.errors import KeyFileError, ServingError, TracingError
from triton_models.state import model_of

__all__ = ["KeyFileError", "ServingError", "TracingError"]


class RepositoryError(ServingError):
    """A repository lacks a pipeline, or contains something that Triton would refuse."""


class EngineError(ServingError):
    """A compiled engine does not run with this TensorRT or on this GPU."""


class WrongResultsError(ServingError):
    """A network gives other results here than torch gave at its build."""


class TlsError(ServingError):
    """A certificate or a key is missing, malformed, or does not fit the others."""


class ExposureError(ServingError):
    """The server's exposure to a network would be unsafe."""


class InstallationError(ServingError):
    """tritonserver, its stub for this Python, or a shared library is missing."""


class PortTakenError(ServingError):
    """A requested port is in use."""


class StartError(ServingError):
    """tritonserver ended, or was not ready in time."""


class CrashError(StartError):
    """tritonserver crashed at its start, or another process took its port: a new start may help."""


class LimitsError(ServingError):
    """An unknown limit, or a value that is not allowed."""


class CanaryError(ServingError):
    """Triton reports the server as ready, but a canary fails.

    Args:
        is_overload: whether it was refused because of too much work, so that the server works.
    """

    def __init__(self, message: str, *, is_overload: bool = False) -> None:
        super().__init__(message)
        self.is_overload = is_overload


class ModelsDownError(ServingError):
    """Processes of Python models have ended or stall; loading these models again may help.

    Args:
        processes: process id by instance; None: it has ended.
    """

    def __init__(self, why: str, processes: Mapping[str, int | None]) -> None:
        named = [
            instance if pid is None else f"{instance} (pid {pid})"
            for instance, pid in sorted(processes.items())
        ]
        super().__init__(f"{why}: {', '.join(named)}")
        self.models = frozenset(model_of(instance) for instance in processes)
        self.stalled = frozenset(pid for pid in processes.values() if pid is not None)
        """Processes that still run and have to be killed first."""
