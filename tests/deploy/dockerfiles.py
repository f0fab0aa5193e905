"""Dockerfiles as the tests see them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from dockerfile_parse import DockerfileParser


class Dockerfile:
    """One file's instructions."""

    def __init__(self, path: Path) -> None:
        structure = DockerfileParser(str(path)).structure
        self.instructions = [
            (entry["instruction"], entry["value"])
            for entry in structure
            if entry["instruction"] != "COMMENT"
        ]

    def values(self, instruction: str) -> list[str]:
        """What follows each of these instructions."""
        return [value for name, value in self.instructions if name == instruction]

    @property
    def user(self) -> str:
        """Whom the image runs as."""
        return self.values("USER")[-1]

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments → their defaults."""
        return dict(value.split("=", 1) for value in self.values("ARG"))

    @property
    def copied(self) -> list[str]:
        """Sources of every COPY, in the build context."""
        return [source for value in self.values("COPY") for source in shlex.split(value)[:-1]]

    def folders_made_for(self, user: str) -> set[str]:
        """Folders that ``install --directory`` makes for this uid:gid."""
        uid, gid = user.split(":")
        pattern = rf"install --directory --owner={uid} --group={gid} ([^&|;]+)"
        found = (re.findall(pattern, value) for value in self.values("RUN"))
        return {folder for matches in found for match in matches for folder in match.split()}
