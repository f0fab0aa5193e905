"""Faults that fail one SEG alone, and incidents; nothing here takes long to import."""

from __future__ import annotations

import logging
import uuid

log = logging.getLogger(__name__)


class AnswerError(Exception):
    """A network's answer cannot be used."""


class MalformedAnswerError(AnswerError):
    """A network's answer lacks an output, or one has another shape or type than it should."""


class NotFiniteError(AnswerError):
    """There are NaN or infinite values where a network's answer, or what was made of it, should
    have numbers."""


class IncidentError(Exception):
    """A request failed by our own fault, which the log has under ``incident`` already."""

    def __init__(self, incident: str) -> None:
        super().__init__(incident_message(incident))
        self.incident = incident


def open_incident(error: BaseException, request_id: str, where: str = "") -> str:
    """Logs what is our own fault, with its trace, and returns its id, for the caller."""
    incident = uuid.uuid4().hex[:12]
    log.error("incident %s, request %r%s", incident, request_id, where, exc_info=error)
    return incident


def incident_message(incident: str, what: str = "internal error") -> str:
    """The message for the caller: nothing of the error itself but the incident's id."""
    return f"{what}; the log has incident {incident}"
