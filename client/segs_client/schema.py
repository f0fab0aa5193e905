"""The contract as a JSON Schema file: ``python -m segs_client.schema [FILE]`` writes it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from segs_client.contract import CONTRACT_VERSION, DetailRequest, ErrorDetail, Report

DEFAULT_PATH = Path("docs/contract.schema.json")
_PARTS: dict[str, type[BaseModel]] = {
    "request": DetailRequest,
    "report": Report,
    "error": ErrorDetail,
}


def contract_schema() -> dict[str, Any]:
    """The schema; ``#/$defs/request``, ``report`` and ``error`` are the three JSON documents.

    Example:
        >>> contract_schema()["$defs"]["request"]
        {'$ref': '#/$defs/DetailRequest'}
    """
    _, schema = models_json_schema(
        [(model, "validation") for model in _PARTS.values()],
        title="SEGS Detailer contract",
        description=(
            "The JSON of a request (input tensor `request`), of a report (output tensor `report`) "
            "and of an error (last line of the gRPC status message). Validate against "
            "#/$defs/request, #/$defs/report or #/$defs/error."
        ),
    )
    entries = {name: {"$ref": f"#/$defs/{model.__name__}"} for name, model in _PARTS.items()}
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
