"""Starts a program with arguments that other users of the machine cannot read.

Everybody can read a process's command line (``/proc/PID/cmdline``, ps, records of exec); its
environment only its own user can. So a hidden argument travels in the environment, a placeholder
stands for it in the command line, and before the program's first instruction (the stop that
ptrace makes at exec) its ``argv`` is pointed to the environment's string: no moment shows it. The
variable is taken out of the environment again, so that the program's own children do not have it.

Linux, 64 bits. Docker's default seccomp profile allows ptrace of one's own children (kernel 4.8
and later).
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PLACEHOLDER = "hidden"
_TRACEME, _CONT, _DETACH = 0, 7, 17
_VARIABLE = "SEGS_HIDDEN_ARGUMENT_{}="
_WORD = struct.calcsize("P")
_ELF = b"\x7fELF"


class HidingError(Exception):
    """The arguments cannot be hidden here."""


def start_hidden(
    command: Sequence[str],
    secrets: Mapping[str, str],
    *,
    before_exec: Callable[[], None],
) -> subprocess.Popen[bytes]:
    """Starts the program; to be called in a process of one thread.

    Args:
        command: with ``{name}`` for each secret, as :meth:`str.replace` would fill it in.
        secrets: name → value.
        before_exec: called in the child.

    Raises:
        HidingError: it cannot be done, and nothing was started.
    """
    hidden = {
        index: fill(word, secrets)
        for index, word in enumerate(command)
        if fill(word, secrets) != word
    }
    if not _is_binary(command[0]):
        raise HidingError(f"{command[0]} is a script, whose interpreter starts others")
    environment = dict(os.environ)
    for index, word in hidden.items():
        environment[_VARIABLE.format(index)[:-1]] = word

    def prepare() -> None:
        before_exec()
        if _ptrace(_TRACEME, 0) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    shown = [fill(word, dict.fromkeys(secrets, PLACEHOLDER)) for word in command]
    try:
        process = subprocess.Popen(
            shown, stdin=subprocess.DEVNULL, preexec_fn=prepare, env=environment
        )
    except subprocess.SubprocessError:
        raise HidingError("ptrace is not allowed here") from None
    try:
        _wait_for_exec(process.pid)
        _point_to_environment(process.pid, len(shown), sorted(hidden))
        if _ptrace(_DETACH, process.pid) != 0:
            raise HidingError("ptrace does not let go")
    except (OSError, HidingError) as error:
        process.kill()
        process.wait()
        raise HidingError(str(error)) from None
    return process


def fill(word: str, values: Mapping[str, str]) -> str:
    """The word with each ``{name}`` replaced by its value."""
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _is_binary(program: str) -> bool:
    try:
        with Path(program).open("rb") as file:
            return file.read(len(_ELF)) == _ELF
    except OSError as error:
        raise HidingError(str(error)) from None


def _wait_for_exec(pid: int) -> None:
    """Returns once the child stands before its first instruction."""
    while True:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            raise HidingError("the program ended before it began")
        if os.WSTOPSIG(status) == signal.SIGTRAP:
            return
        _ptrace(_CONT, pid, os.WSTOPSIG(status))


def _point_to_environment(pid: int, count: int, indexes: Sequence[int]) -> None:
    """Edits what the kernel has put on the new program's stack: the number of arguments, their
    addresses, 0, the addresses of the environment's strings, 0."""
    stack = _start_of_stack(pid)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        if _words(memory, stack, 1) != (count,):
            raise HidingError("the program's stack is not as expected")
        arguments = stack + _WORD
        variables = arguments + (count + 1) * _WORD
        addresses = _until_zero(memory, variables)
        texts = [os.pread(memory, 64, address) for address in addresses]
        ours = {}
        for index in indexes:
            prefix = _VARIABLE.format(index).encode()
            at = next(n for n, text in enumerate(texts) if text.startswith(prefix))
            ours[at] = addresses[at] + len(prefix)
            _write_word(memory, arguments + index * _WORD, ours[at])
        other = next(each for n, each in enumerate(addresses) if n not in ours)
        for at in ours:  # none may be missing: what follows the addresses is found by counting
            _write_word(memory, variables + at * _WORD, other)
    finally:
        os.close(memory)


def _start_of_stack(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    address = int(fields[25])  # startstack, the 28th with process id and name
    if sys.maxsize <= 2**32 or address == 0:
        raise HidingError("the program's stack is not to be seen")
    return address


def _words(memory: int, address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"{count}P", os.pread(memory, count * _WORD, address))


def _until_zero(memory: int, address: int) -> list[int]:
    found: list[int] = []
    while True:
        (word,) = _words(memory, address + len(found) * _WORD, 1)
        if word == 0:
            return found
        found.append(word)


def _write_word(memory: int, address: int, value: int) -> None:
    os.pwrite(memory, struct.pack("P", value), address)


def _ptrace(request: int, pid: int, data: int = 0) -> int:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.restype = ctypes.c_long
    call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return int(call(request, pid, None, data))
