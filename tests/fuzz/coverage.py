"""Coverage-guided fuzzing of what reads strangers' bytes: ``python -m tests.fuzz.coverage NAME``.

What is found is written to out/fuzz; small enough, it belongs to tests/fuzz/seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["segs_client", "request_plan", "preprocessing"]):
    from tests.fuzz.harness import HARNESSES, corpus

_FOUND = Path("out/fuzz")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage", description=__doc__)
    parser.add_argument("harness", choices=sorted(HARNESSES))
    parser.add_argument("--seconds", type=int, default=300)
    options = parser.parse_args()
    _FOUND.mkdir(parents=True, exist_ok=True)
    read = HARNESSES[options.harness]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for number, data in enumerate(corpus(options.harness)):
            (Path(folder) / str(number)).write_bytes(data)
            read(data)  # what is imported when first needed is no slow input
        atheris.Setup(
            [
                sys.argv[0],
                f"-max_total_time={options.seconds}",
                "-max_len=65536",
                "-timeout=30",
                "-rss_limit_mb=4096",
                f"-artifact_prefix={_FOUND}/{options.harness}-",
                folder,
            ],
            lambda data: read(data) and None,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
