"""A cluster's state as a terminal shows it, and as a pipe gets it."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import termios
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pymq.cli.cluster_display import ROUTINE_S, Display
from pymq.cli.cluster_state import MemberState

NAMES = MemberState("namesrv-1", "name server", "127.0.0.1:9876", answers=True)
MASTER = MemberState("a-0", "SYNC_MASTER", "127.0.0.1:10911", answers=True, registered=1, log_end=12_345)
COPY = MemberState(
    "a-1", "SLAVE", "127.0.0.1:10711", True, registered=1, log_end=12_000, behind=99, is_copying=True
)  # fmt: skip


class Terminal:
    """A terminal of so many columns, and what stands on it."""

    def __init__(self, columns: int, rows: int) -> None:
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.columns = columns
        self.out = open(theirs, "w")  # noqa: SIM115

    def screen(self) -> list[str]:
        """The lines on it, those that are empty at its end left out."""
        self.out.flush()
        lines, row, column = [""], 0, 0
        text = self._written().decode()
        for part in re.findall(r"\x1b\[\d*[A-Z]|.", text, re.DOTALL):
            match part:
                case "\r":
                    column = 0
                case "\n":
                    row += 1
                    lines += [""] * (row + 1 - len(lines))
                case "\x1b[J":
                    del lines[row + 1 :]
                    lines[row] = lines[row][:column]
                case part if part.startswith("\x1b["):
                    assert part.endswith("A"), part
                    row -= int(part[2:-1])
                    assert row >= 0
                case _:
                    lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + 1 :]
                    column += 1
                    assert column <= self.columns, "a line that wraps shifts all that is painted later"
        return lines[: len(lines) - (lines[-1] == "")]

    def _written(self) -> bytes:
        written = b""
        while select.select([self._own], [], [], 0.1)[0]:
            written += os.read(self._own, 1 << 16)
        return written

    def close(self) -> None:
        """Take it away."""
        self.out.close()
        os.close(self._own)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal(columns=90, rows=24)
    yield made
    made.close()


def test_a_terminal_shows_one_table_that_is_painted_anew_below_what_was_said(terminal: Terminal) -> None:
    print("it is ready", file=terminal.out)
    display = Display(terminal.out, name_servers=2)
    display.show([NAMES, MASTER, COPY], 0.0)
    display.say("a-0 has ended: killed by SIGKILL")
    alone = replace(COPY, is_copying=False)
    display.show([NAMES, replace(MASTER, answers=False, log_end=None, registered=0), alone], 1.0)
    assert terminal.screen() == [
        "it is ready",
        "a-0 has ended: killed by SIGKILL",
        "  NAME       ROLE         ADDRESS          REGISTERED  LOG END  BEHIND  STATE",
        "  namesrv-1  name server  127.0.0.1:9876                                up",
        "  a-0        SYNC_MASTER  127.0.0.1:10911  0 of 2            -       -  no answer",
        "  a-1        SLAVE        127.0.0.1:10711  1 of 2       12,000      99  not copying",
    ]


def test_a_small_terminal_shows_what_fits() -> None:
    terminal = Terminal(columns=30, rows=3)
    display = Display(terminal.out, name_servers=2)
    for second in range(3):
        display.show([NAMES, MASTER, COPY], second)
    assert terminal.screen() == ["  NAME       ROLE         ADDR", "  namesrv-1  name server  127."]
    terminal.close()


def test_a_pipe_gets_lines_for_what_changes_and_the_rest_now_and_then() -> None:
    out = io.StringIO()
    display = Display(out, name_servers=2)

    def told(*states: MemberState, at: float) -> list[str]:
        out.truncate(0)
        out.seek(0)
        display.show(states, at)
        return out.getvalue().splitlines()

    assert told(NAMES, MASTER, COPY, at=0.0) == [
        "namesrv-1: name server at 127.0.0.1:9876",
        "a-0: SYNC_MASTER at 127.0.0.1:10911, registered with 1 of 2 name servers, log end 12,345",
        "a-1: SLAVE at 127.0.0.1:10711, registered with 1 of 2 name servers, log end 12,000, 99 bytes behind",
    ]
    caught_up = replace(COPY, log_end=12_345, behind=0)
    assert told(NAMES, MASTER, caught_up, at=1.0) == []
    assert told(NAMES, replace(MASTER, registered=2), caught_up, at=2.0) == [
        "a-0: SYNC_MASTER at 127.0.0.1:10911, registered with 2 of 2 name servers, log end 12,345"
    ]
    assert told(replace(caught_up, is_copying=False), at=2.0) == [
        "a-1: SLAVE at 127.0.0.1:10711, not copying, registered with 1 of 2 name servers, log end 12,345,"
        " 0 bytes behind"
    ]
    assert told(replace(NAMES, answers=False), at=3.0) == [
        "namesrv-1: name server at 127.0.0.1:9876, no answer"
    ]
    assert told(MASTER, caught_up, at=ROUTINE_S) == [
        "a-0: SYNC_MASTER at 127.0.0.1:10911, registered with 1 of 2 name servers, log end 12,345",
        "a-1: SLAVE at 127.0.0.1:10711, registered with 1 of 2 name servers, log end 12,345, 0 bytes behind",
    ]
    assert told(MASTER, caught_up, at=2 * ROUTINE_S) == []
