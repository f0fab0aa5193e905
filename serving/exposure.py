"""Checks the exposure of a server to a network before it starts."""

from __future__ import annotations

import ipaddress
import logging
import re

from serving.errors import ExposureError
from serving.installation import Installation
from serving.options import ServerOptions

log = logging.getLogger(__name__)

FIXED_VERSION = (2, 71)
"""tritonserver of NVIDIA's release 26.07, the latest in a known security bulletin."""
FIXED_RELEASE = "26.07"


def is_loopback(host: str) -> bool:
    """Whether an address can be called only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(options: ServerOptions, installation: Installation) -> None:
    """Checks the server's address, version and access; logs at most one warning.

    Raises:
        ExposureError: its version is known to be vulnerable, or HTTP would bypass TLS.
    """
    if is_loopback(options.host):
        return
    if not (options.allow_old_server or _is_fixed(installation.version)):
        raise ExposureError(
            f"--host {options.host}: tritonserver {installation.version or 'of unknown version'} "
            f"lacks security fixes; a network needs NVIDIA's release {FIXED_RELEASE} or later. "
            "Listen on 127.0.0.1, or give --allow-old-server where only you can reach the port"
        )
    if options.tls is not None and options.http_port is not None:
        raise ExposureError(
            f"--http-port on {options.host}: Triton's HTTP has no TLS, so it would go around "
            "--tls-cert; leave it off, or put a proxy with TLS before a server on 127.0.0.1"
        )
    risks = [
        text
        for text, is_open in (
            ("nothing is encrypted (--tls-cert)", options.tls is None),
            ("callers are not checked (--api-keys, --tls-client-ca)", not _authenticates(options)),
        )
        if is_open
    ]
    if risks:
        log.warning("listening on %s: %s", options.host, "; ".join(risks))


def _is_fixed(version: str | None) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return found is not None and (int(found[1]), int(found[2])) >= FIXED_VERSION


def _authenticates(options: ServerOptions) -> bool:
    with_certificates = options.tls is not None and options.tls.client_ca is not None
    return options.api_keys is not None or with_certificates
