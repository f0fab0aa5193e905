"""``segs-server`` and ``python -m serving``: serve pipelines, ask a server how it is, make keys."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from segs_client import __version__, access
from segs_client.errors import InvalidRequest
from serving.canary import Canary, run_canary
from serving.connection import Connection
from serving.errors import ServingError
from serving.flags import add_log_options, add_server_options, server_options
from serving.health import check_health
from serving.supervise import supervise
from triton_models.api_keys import key_line, new_key
from triton_models.log_format import JsonFormatter

log = logging.getLogger("serving")

_TEXT_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 1 after an error, 2 for bad usage."""
    options = _parser().parse_args(arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if options.log_format == "json" else logging.Formatter(_TEXT_FORMAT)
    )
    logging.basicConfig(level=options.log_level, handlers=[handler])
    try:
        if options.command == "serve":
            supervise(server_options(options), options.ready_file)
        elif options.command == "healthcheck":
            check_health(options.url, options.timeout)
        elif options.command == "new-key":
            _write_key(options.name)
        else:
            settings = access.connection(None)
            server = Connection(options.url, access.headers(None), options=settings)
            canary = Canary(options.pipeline, options.controlnet)
            taken_s = run_canary(server, canary, options.timeout)
            log.info("%s answered in %.2f s", canary, taken_s)
    except (ServingError, InvalidRequest) as error:
        log.error("%s", error)
        return 1
    return 0


def _write_key(name: str) -> None:
    """The key on the first line, its line for the file of keys on the second."""
    key = new_key()
    line = key_line(name, key)
    sys.stdout.write(f"{key}\n{line}\n")
    log.info("the first line is the key, shown only now; the second is for the file of keys")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving" if Path(sys.argv[0]).name == "__main__.py" else None,
        description="Serve pipelines on tritonserver, ask a server how it is, make API keys.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    serve = commands.add_parser(
        "serve",
        help="start tritonserver and keep it up",
        epilog="OTEL_EXPORTER_OTLP_ENDPOINT=http://… in the environment has every request traced; "
        "see docs/tracing.md",
    )
    serve.add_argument(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help="JSON with pid and ports, there while the server is ready",
    )
    add_server_options(serve)

    canary = commands.add_parser("canary", help="ask a running server for one tiny picture")
    canary.add_argument("pipeline", help="name of the pipeline")
    canary.add_argument("--controlnet", metavar="NAME", help="also go through this ControlNet")
    canary.add_argument("--url", default="127.0.0.1:8001", help="host:port of gRPC")
    canary.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    health = commands.add_parser("healthcheck", help="ask a server's --health-port: 0 if ready")
    health.add_argument("--url", default="http://127.0.0.1:8003", help="of the health port")
    health.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS")
    key = commands.add_parser("new-key", help="make an API key, and its line for --api-keys")
    key.add_argument("name", help="whose key it is; stands in the log")
    for command in (serve, canary, health, key):
        add_log_options(command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
