"""Faults that fail one SEG only, and incidents; imports nothing slow."""

from __future__ import annotations

import logging
import uuid

log = logging.getLogger(__name__)


class AnswerError(Exception):
    """A network's outputs cannot be used."""


class MalformedAnswerError(AnswerError):
    """An output of a network is missing or has a wrong shape or type."""


class NotFiniteError(AnswerError):
    """A network's outputs, or values computed from them, contain NaN or infinity."""


class IncidentError(Exception):
    """A request failed by an internal error, which is logged under ``incident`` already."""

    def __init__(self, incident: str) -> None:
        super().__init__(incident_message(incident))
        self.incident = incident


def open_incident(error: BaseException, request_id: str, where: str = "") -> str:
    """Logs an internal error with its traceback and returns the incident's id."""
    incident = uuid.uuid4().hex[:12]
    log.error("incident %s, request %r%s", incident, request_id, where, exc_info=error)
    return incident


def incident_message(incident: str, what: str = "internal error") -> str:
    """The message for the client: the incident's id without details of the error."""
    return f"{what}; the log has incident {incident}"
