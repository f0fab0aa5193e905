"""docker-compose.yml as the tests see it: with the settings of .env.example filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "docker-compose.yml"
SETTINGS = ROOT / ".env.example"

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
_SETTING = re.compile(r"^(#?)(\w+)=(.*)$", re.MULTILINE)

Service = dict[str, Any]


def variables() -> dict[str, set[str | None]]:
    """Every variable of the compose file, with the defaults it is given there; None: it is
    required."""
    found: dict[str, set[str | None]] = {}
    for name, operator, value in _VARIABLE.findall(COMPOSE.read_text()):
        found.setdefault(name, set()).add(value if operator == "-" else None)
    return found


def settings() -> dict[str, tuple[str, bool]]:
    """.env.example's variables: value, and whether it is the default and commented out."""
    return {
        name: (value, bool(comment))
        for comment, name, value in _SETTING.findall(SETTINGS.read_text())
    }


def services() -> dict[str, Service]:
    """The services by name."""
    values = {name: value for name, (value, _) in settings().items()}
    text = _VARIABLE.sub(lambda match: values[match[1]], COMPOSE.read_text())
    loaded: dict[str, Service] = YAML(typ="safe").load(text)["services"]
    return loaded
