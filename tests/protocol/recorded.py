"""Frames recorded from live Apache 4.3.2, 4.9.4 and 5.3.3, and what those answered to broken ones."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path

import msgspec

GOLDEN = Path(__file__).parent / "golden"


class RecordedFrame(msgspec.Struct):
    """One frame on its way between two Apache programs.

    `code` and `name` are the request's, for an answer too; `status` is an answer's own code.
    """

    server: str
    role: str
    dir: str
    kind: str
    code: int
    name: str
    header: str
    hex: str
    status: int | None = None

    @property
    def bytes(self) -> bytes:
        """The whole frame."""
        return bytes.fromhex(self.hex)


class MalformedCase(msgspec.Struct):
    """What one Apache server did with one hand-made request: `reply`, `closed` or `silent`.

    `sent` and `reply` are whole frames in hex.
    """

    server: str
    role: str
    case: str
    sent: str
    outcome: str
    reply: str


@functools.cache
def recorded_frames() -> tuple[RecordedFrame, ...]:
    """All recorded frames."""
    return tuple(msgspec.convert(line, RecordedFrame) for line in _lines("frames.jsonl.gz"))


@functools.cache
def malformed_cases() -> tuple[MalformedCase, ...]:
    """All hand-made requests with their outcome, three servers each."""
    return tuple(msgspec.convert(line, MalformedCase) for line in _lines("malformed.jsonl.gz"))


def _lines(name: str) -> list[object]:
    with gzip.open(GOLDEN / name, "rt") as file:
        return [json.loads(line) for line in file]
