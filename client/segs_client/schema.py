"""The contract as a JSON Schema file: ``python -m segs_client.schema [FILE]`` writes it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from segs_client.contract import CONTRACT_VERSION, DetailRequest, ErrorDetail, Report
from segs_client.events import StreamEvent

DEFAULT_PATH = Path("docs/contract.schema.json")
_PARTS: dict[str, type[BaseModel]] = {
    "request": DetailRequest,
    "report": Report,
    "error": ErrorDetail,
}
_EVENTS: tuple[type[BaseModel], ...] = get_args(get_args(StreamEvent)[0])


def contract_schema() -> dict[str, Any]:
    """The schema; ``#/$defs/request``, ``report``, ``error`` and ``event`` are the JSON documents.

    Example:
        >>> contract_schema()["$defs"]["request"]
        {'$ref': '#/$defs/DetailRequest'}
    """
    _, schema = models_json_schema(
        [(model, "validation") for model in (*_PARTS.values(), *_EVENTS)],
        title="SEGS Detailer contract",
        description=(
            "The JSON of a request (input tensor `request`), of a report (output tensor `report`), "
            "of an error (last line of the gRPC status message) and of a stream's event (output "
            "tensor `event`). Validate against #/$defs/request, #/$defs/report, #/$defs/error or "
            "#/$defs/event."
        ),
    )
    entries: dict[str, Any] = {
        name: {"$ref": f"#/$defs/{model.__name__}"} for name, model in _PARTS.items()
    }
    events = {each.model_fields["event"].default: each.__name__ for each in _EVENTS}
    places = {name: f"#/$defs/{model}" for name, model in events.items()}
    entries["event"] = {
        "discriminator": {"propertyName": "event", "mapping": places},
        "oneOf": [{"$ref": place} for place in places.values()],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": schema["title"],
        "description": schema["description"],
        "version": CONTRACT_VERSION,
        "$defs": {**entries, **schema["$defs"]},
    }


def schema_text() -> str:
    """The file's content."""
    return json.dumps(contract_schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(prog="python -m segs_client.schema", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=DEFAULT_PATH)
    parser.parse_args(arguments).file.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
