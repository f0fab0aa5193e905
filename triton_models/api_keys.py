"""API keys: a file of names and hashes of the keys that are accepted.

A key is 256 random bits, so its SHA-256 reveals nothing and needs no salt. The file contains only
hashes::

    # one line per key; a name may have several while keys are changed
    shop:6f0c…64 hex digits…
    {"shop": "6f0c…"}      ← or the whole file as one JSON object; its values may be lists
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from segs_client.contract import API_KEY_HEADER, ContractError, ErrorDetail
from triton_models import environment
from triton_models.errors import KeyFileError
from triton_models.internal_token import read_parameters

log = logging.getLogger(__name__)

CANARY = "canary"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 1 << 20


class ApiKey(NamedTuple):
    """A key's name and its SHA-256 in hex."""

    name: str
    sha256: str


def new_key() -> str:
    """A random key; its prefix lets scanners find keys in code and logs."""
    return f"segs_{secrets.token_urlsafe(32)}"


def hash_key(key: str) -> str:
    """A key's SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def key_line(name: str, key: str) -> str:
    """The key's line in a file.

    Raises:
        KeyFileError: the name is malformed.
    """
    return "{}:{}".format(*_checked(name, hash_key(key)))


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Reads the content of a file of keys.

    Raises:
        KeyFileError: names the wrong line or name.
    """
    if text.lstrip().startswith("{"):
        return _parse_json(text)
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, _, sha256 = line.partition(":")
        try:
            keys.append(_checked(name, sha256))
        except KeyFileError as error:
            raise KeyFileError(f"line {number}: {error}") from None
    return tuple(keys)


def _parse_json(text: str) -> tuple[ApiKey, ...]:
    expected = "a JSON object of names and hashes is expected"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise KeyFileError(f"not valid JSON; {expected}") from None
    values = {name: [each] if isinstance(each, str) else each for name, each in content.items()}
    if not all(isinstance(each, list) for each in values.values()):
        raise KeyFileError(expected)
    return tuple(_checked(name, each) for name, hashes in values.items() for each in hashes)


def _checked(name: str, sha256: object) -> ApiKey:
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"name {name[:80]!r}: 1 … 64 of A-Z a-z 0-9 _ . - are expected")
    # The value is not shown: it may be the key itself.
    if not isinstance(sha256, str) or not _HASH.fullmatch(sha256):
        raise KeyFileError(f"key of {name!r}: 64 hex digits of its SHA-256 are expected")
    return ApiKey(name, sha256)


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Reads a file that only its owner, this user or root, can write.

    Raises:
        KeyFileError: it cannot be read, is writable by others, malformed, or has no key.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            _check_owner(status)
            content = file.read(_MOST_BYTES + 1)
        keys = parse_keys(content.decode())
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{path}: not a text file") from None
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from None
    if len(content) > _MOST_BYTES:
        raise KeyFileError(f"{path}: longer than {_MOST_BYTES} bytes")
    if not keys:
        raise KeyFileError(f"{path}: holds no key; make one with: python -m serving new-key NAME")
    return keys


def _check_owner(status: os.stat_result) -> None:
    """Checks who can write the file and so add keys; reading it reveals none."""
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError("not a regular file")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeyFileError("others can write it; chmod go-w it")
    if status.st_uid not in (os.geteuid(), 0):
        raise KeyFileError(f"belongs to user {status.st_uid}; this user or root must own it")


class ApiKeys:
    """The keys of a file, read again whenever it changes.

    Args:
        path: the file.
        more: further keys, which are in no file.

    Raises:
        KeyFileError: as :func:`read_keys`.
    """

    def __init__(self, path: Path, more: Iterable[ApiKey] = ()) -> None:
        self._path = path
        self._more = tuple(more)
        self._read_stamp = _stamp(path)
        self._keys = read_keys(path)

    def check(self, parameters: str) -> str:
        """The name of a request's key.

        Args:
            parameters: of the request, as Triton's JSON text.

        Raises:
            ContractError: UNAUTHENTICATED: there is no key, or it is unknown.
        """
        self._refresh()
        given = _given(parameters)
        if given is None:
            raise _refused(f"an API key is required, as metadata {API_KEY_HEADER}")
        sha256 = hash_key(given)
        found = None
        for key in (*self._keys, *self._more):  # all of them, in constant time
            if hmac.compare_digest(key.sha256, sha256):
                found = key.name
        if found is None:
            raise _refused("unknown API key")
        return found

    def _refresh(self) -> None:
        """Reads a changed file. If it is broken or missing, the former keys stay valid: a file that
        is being written must neither refuse all callers nor accept others."""
        stamp = _stamp(self._path)
        if stamp == self._read_stamp:
            return
        self._read_stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except KeyFileError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("API keys read again: %d", len(self._keys))


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode


def _given(parameters: str) -> str | None:
    for name, value in read_parameters(parameters).items():
        if name.lower() == API_KEY_HEADER and isinstance(value, str):
            return value
    return None


def _refused(message: str) -> ContractError:
    return ContractError(ErrorDetail(code="UNAUTHENTICATED", message=message))


def keys_of_environment() -> ApiKeys | None:
    """The keys of this server by its environment; None if no key is required.

    Raises:
        KeyFileError: as :func:`read_keys`.
    """
    path = os.environ.get(environment.API_KEYS)
    if not path:
        return None
    canary = os.environ.get(environment.CANARY_KEY_SHA256)
    return ApiKeys(Path(path), [ApiKey(CANARY, canary)] if canary else [])
