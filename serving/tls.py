"""TLS of a server's gRPC, and its use by calls from this machine.

The canary calls the server by a loopback address, whatever names its certificate has, and trusts
only that certificate. With mutual TLS it uses a client certificate that is made for this start and
trusted only by this server; its key is never in a file.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from serving.errors import TlsError
from serving.options import TlsFiles

_ROOTS_FILE = "client-roots.pem"
_CANARY_DAYS = 3650
_CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class OpenedTls:
    """TLS of one start of a server."""

    arguments: tuple[str, ...]
    """tritonserver's arguments."""
    connection: Mapping[str, Any]
    """Keyword arguments of tritonclient's ``InferenceServerClient``, for this machine's calls."""


def open_tls(files: TlsFiles, workspace: Path) -> OpenedTls:
    """Checks the files, and writes the server's own files into its workspace.

    Raises:
        TlsError: a file is missing, malformed, or does not fit the others.
    """
    chain = _read(files.cert)
    certificate = _certificates(files.cert)[0]
    if _public_bytes(_private_key(files.key).public_key()) != _public_bytes(
        certificate.public_key()
    ):
        raise TlsError(f"--tls-key {files.key}: not the key of {files.cert}")
    if certificate.not_valid_after_utc <= datetime.datetime.now(datetime.timezone.utc):
        raise TlsError(f"--tls-cert {files.cert}: expired at {certificate.not_valid_after_utc}")
    arguments = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={files.cert.absolute()}",
        f"--grpc-server-key={files.key.absolute()}",
    ]
    key: bytes | None = None
    cert: bytes | None = None
    if files.client_ca is not None:
        _certificates(files.client_ca)
        key, cert = _make_identity()
        roots = workspace / _ROOTS_FILE
        roots.write_bytes(_read(files.client_ca).rstrip() + b"\n" + cert)
        arguments += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={roots}"]
    name = _name_of(certificate, files.cert)
    return OpenedTls(
        tuple(arguments),
        {
            "creds": grpc.ssl_channel_credentials(chain, key, cert),
            "channel_args": [("grpc.ssl_target_name_override", name)],
        },
    )


def _name_of(certificate: x509.Certificate, path: Path) -> str:
    """A host name of the certificate."""
    try:
        names = certificate.extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        ).value
    except x509.ExtensionNotFound:
        names = None
    if isinstance(names, x509.SubjectAlternativeName):
        for name in names.get_values_for_type(x509.DNSName):
            return name.replace("*", "canary", 1)
        for address in names.get_values_for_type(x509.IPAddress):
            return str(address)
    raise TlsError(f"--tls-cert {path}: names no host (subjectAltName), so no client accepts it")


def _make_identity() -> tuple[bytes, bytes]:
    """A private key, and its self-signed certificate for a client; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "segs-detailer canary")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=_CANARY_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return secret, certificate.public_bytes(serialization.Encoding.PEM)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from None


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise TlsError(f"{path}: holds no certificate (PEM)") from None


def _private_key(path: Path) -> Any:
    try:
        return serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError):
        raise TlsError(f"{path}: holds no private key (PEM) without a password") from None


def _public_bytes(key: Any) -> bytes:
    return bytes(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
