"""Errors of finding, starting and supervising the server."""

from __future__ import annotations

from collections.abc import Collection


class ServingError(Exception):
    """Root of this package's errors; the message tells an operator what to do."""


class RepositoryError(ServingError):
    """A repository lacks a pipeline, or holds something that Triton would refuse."""


class EngineError(ServingError):
    """A compiled engine does not run with this TensorRT or on this GPU."""


class KeyFileError(ServingError):
    """The file of API keys is missing, malformed or open to others."""


class TlsError(ServingError):
    """A certificate or a key is missing, malformed, or does not fit the others."""


class ExposureError(ServingError):
    """The server would be open to others in a way that nobody should be offered."""


class InstallationError(ServingError):
    """tritonserver, its stub for this Python, or a shared library is missing."""


class PortTakenError(ServingError):
    """A port that was asked for is in use."""


class StartError(ServingError):
    """tritonserver ended, or was not ready in time."""


class CrashError(StartError):
    """tritonserver itself crashed while it started, by no fault of what it was to load."""


class LimitsError(ServingError):
    """A limit was chosen that there is not, or a value that it may not have."""


class CanaryError(ServingError):
    """The server says that it is ready but a small request fails."""


class ModelsDownError(ServingError):
    """Python models' processes have died or hang; loading these models again may mend it."""

    def __init__(self, why: str, models: Collection[str], hanging: Collection[int] = ()) -> None:
        super().__init__(f"{why}: {', '.join(sorted(models))}")
        self.models = frozenset(models)
        self.hanging = frozenset(hanging)
        """Processes that are still there, to be killed first."""
