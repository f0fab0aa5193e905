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
from serving.errors import ServingError, TlsError
from serving.health import check_health
from serving.limit_flags import add_limits, chosen_limits
from serving.options import MODEL_REPOSITORY, RESTRICTED, ServerOptions, TlsFiles
from serving.supervise import supervise
from triton_models.api_keys import key_line, new_key
from triton_models.log_format import FORMATS, JsonFormatter

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
            supervise(_server_options(options), options.ready_file)
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


def _server_options(options: argparse.Namespace) -> ServerOptions:
    return ServerOptions(
        repositories=tuple(options.repository),
        model_repository=options.model_repository,
        host=options.host,
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        metrics_port=options.metrics_port,
        health_port=options.health_port,
        grpc_health_port=options.grpc_health_port,
        tritonserver=options.tritonserver,
        model_threads=options.model_threads,
        log_level=options.log_level,
        log_format=options.log_format,
        log_path=options.log_file,
        start_timeout_s=options.start_timeout,
        stop_timeout_s=options.stop_timeout,
        drain_timeout_s=options.drain_timeout,
        canary=not options.no_canary,
        api_keys=options.api_keys,
        tls=_tls(options),
        open_protocols=tuple(options.open_protocols),
        allow_old_server=options.allow_old_server,
        verify=not options.no_verify,
        limits=chosen_limits(options),
    )


def _tls(options: argparse.Namespace) -> TlsFiles | None:
    cert, key, client_ca = options.tls_cert, options.tls_key, options.tls_client_ca
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise TlsError("TLS takes --tls-cert and --tls-key; --tls-client-ca comes beside them")
    return TlsFiles(cert, key, client_ca)


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
    add = serve.add_argument
    add(
        "--repository",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        metavar="DIR",
        help="folder of pipelines, as build_engines writes it; may be given several times",
    )
    add(
        "--model-repository",
        type=Path,
        default=MODEL_REPOSITORY,
        metavar="DIR",
        help="the project's own Triton models",
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--grpc-port", type=_port, default=8001, help="default 8001; 0: any free one")
    add("--http-port", type=_port, metavar="PORT", help="also serve HTTP (usually 8000)")
    add(
        "--metrics-port",
        type=_port,
        metavar="PORT",
        help="also serve Prometheus metrics (usually 8002)",
    )
    add(
        "--health-port",
        type=_port,
        metavar="PORT",
        help="also answer probes: HTTP /health/live and /health/ready (usually 8003)",
    )
    add(
        "--grpc-health-port",
        type=_port,
        metavar="PORT",
        help="also answer gRPC's own probe, grpc.health.v1.Health (usually 8004)",
    )
    add(
        "--tritonserver",
        type=Path,
        metavar="PATH",
        help="the server to run; default: on PATH, else the one in nvidia-pytriton",
    )
    add(
        "--model-threads",
        type=_positive,
        default=1,
        metavar="N",
        help="OpenMP threads of each Python model (the networks have their own; default 1)",
    )
    add(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help="JSON with pid and ports, there while the server is ready",
    )
    add("--log-file", type=Path, metavar="FILE", help="keep tritonserver's own output here")
    add("--start-timeout", type=float, default=600.0, metavar="SECONDS")
    add(
        "--stop-timeout",
        type=float,
        default=8.0,
        metavar="SECONDS",
        help="from asking tritonserver to stop until it is killed (default %(default)g)",
    )
    add(
        "--drain-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="before that, for requests under way to end; new ones are refused as UNAVAILABLE "
        "(default %(default)g)",
    )
    add("--no-canary", action="store_true", help="be ready without having answered a request")
    _add_access(serve.add_argument_group("who may call, and what"))
    add_limits(serve)

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
        command.add_argument(
            "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
        )
        command.add_argument(
            "--log-format",
            default="text",
            choices=FORMATS,
            help="json: one object a line, with the id of the request that it is about",
        )
    return parser


def _add_access(group: argparse._ArgumentGroup) -> None:
    """More in docs/hardening.md."""
    add = group.add_argument
    add(
        "--api-keys",
        type=Path,
        metavar="FILE",
        help="take requests with a key of this file only; see new-key",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="gRPC with TLS: certificate chain (PEM)")
    add("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    add(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="mutual TLS: take clients with a certificate that one of these (PEM) signed only",
    )
    add(
        "--open-protocols",
        type=_protocols,
        default=(),
        metavar="NAMES",
        help="open these of Triton's protocols to everybody, for load tests for instance: "
        + ",".join(RESTRICTED),
    )
    add(
        "--allow-old-server",
        action="store_true",
        help="listen beyond this machine with a tritonserver that lacks known security fixes",
    )
    add(
        "--no-verify",
        action="store_true",
        help="start without comparing the pipelines' files with their SHA-256",
    )


def _protocols(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = set(names) - set(RESTRICTED)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: known are {', '.join(RESTRICTED)}"
        )
    return names


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port is 0 to 65535")
    return port


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: 1 at least")
    return number


if __name__ == "__main__":
    sys.exit(main())
