"""Hostile requests by the thousand: none may end a process, hang, or be answered wrongly.

``python -m tests.fuzz --requests 100000`` sends them to a real server (see :mod:`.__main__`);
``python -m tests.fuzz.coverage`` lets a coverage-guided fuzzer (atheris) loose on what reads
strangers' bytes, in one process; ``pytest tests/fuzz`` is the short form of both, and replays the
seeds in ``seeds/``, each of which once found something.
"""
