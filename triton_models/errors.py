"""Errors of a server's configuration, and the root of all errors for an operator."""

from __future__ import annotations


class ServingError(Exception):
    """Root of the errors of configuring and supervising a server; the message is for an operator
    and has the remedy."""


class KeyFileError(ServingError):
    """The file of API keys is missing, malformed or writable by others."""


class TracingError(ServingError):
    """Traces are configured, but the packages that send them are missing."""
