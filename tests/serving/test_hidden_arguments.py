"""Arguments that nobody else sees, in processes of their own: ptrace goes by the thread."""

from __future__ import annotations

import ctypes
import json
import platform
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_PROGRAM = """
import os, sys
print(sys.argv[1:], [name for name in os.environ if "SECRET" in os.environ[name]])
print(open("/proc/self/cmdline").read().split(chr(0))[-5:-1])
sys.stdin.read()
"""

_STARTER = """
import ctypes, json, os, signal, subprocess, sys
from serving.hidden_arguments import HidingError, start_hidden

{before}
command = [*json.loads(sys.argv[1]), "--a={{key}}", "plain", "{{key}}/{{key}}", "{{other}}"]
try:
    process = start_hidden(
        command, {{"key": "SECRET", "other": "SECRET2"}}, before_exec=lambda: None
    )
except HidingError as error:
    print("refused:", error)
else:
    environ = open(f"/proc/{{process.pid}}/environ", "rb")
    assert os.fstat(environ.fileno()).st_mode & 0o077 == 0
    print(process.wait())
"""

_NO_PTRACE = """
from tests.serving.test_hidden_arguments import forbid_ptrace
forbid_ptrace()
"""


def start(program: list[str], before: str = "") -> list[str]:
    """What program and starter print."""
    code = textwrap.dedent(_STARTER).format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_program_sees_what_others_do_not() -> None:
    arguments, shown, status = start([sys.executable, "-c", _PROGRAM])
    assert arguments == "['--a=SECRET', 'plain', 'SECRET/SECRET', 'SECRET2'] []"
    assert shown == "['--a=hidden', 'plain', 'hidden/hidden', 'hidden']"
    assert status == "0"


def test_its_status_and_its_end_are_seen() -> None:
    assert start([sys.executable, "-c", "import sys; sys.exit(7)"]) == ["7"]
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert start([sys.executable, "-c", kill]) == ["-9"]


def test_scripts_and_missing_programs_are_refused(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho $@\n")
    script.chmod(0o755)
    (said,) = start([str(script)])
    assert said.startswith("refused:") and said.endswith(
        "a script, whose interpreter starts others"
    )
    (said,) = start([str(tmp_path / "none")])
    assert said.startswith("refused: ") and "No such file" in said


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter knows one machine's numbers")
def test_where_ptrace_is_forbidden_nothing_is_started() -> None:
    (said,) = start([sys.executable, "-c", _PROGRAM], _NO_PTRACE)
    assert said == "refused: ptrace is not allowed here"


def forbid_ptrace() -> None:
    """Makes every ptrace of this process and its children fail with EPERM, as a container's
    seccomp profile may."""

    def statement(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    load_number, jump_if_equal, give = 0x20, 0x15, 0x06
    program = b"".join(
        (
            statement(load_number, 0, 0, 0),
            statement(jump_if_equal, 0, 1, 101),  # ptrace of x86-64
            statement(give, 0, 0, 0x00050001),  # fail with EPERM
            statement(give, 0, 0, 0x7FFF0000),  # allow
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert libc.prctl(22, 2, filter_, 0, 0) == 0, ctypes.get_errno()
