"""A cluster's state: a table that is painted anew in a terminal, elsewhere lines for what has changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from pymq.cli.cluster_state import MemberState
from pymq.cli.store_output import table

HEAD = ("NAME", "ROLE", "ADDRESS", "REGISTERED", "LOG END", "BEHIND", "STATE")
CLEAR_BELOW = "\x1b[J"
ROUTINE_S = 60.0
"""Outside a terminal, log ends and lags alone are worth a line only so often."""


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


class Display:
    """Shows the states of a cluster's members as they are given."""

    def __init__(self, out: TextIO, name_servers: int) -> None:
        """`name_servers`: how many there are."""
        self._out = out
        self._name_servers = name_servers
        self._painted: list[str] = []
        self._told: dict[str, MemberState] = {}
        self._told_at: float | None = None

    def show(self, states: Sequence[MemberState], now_s: float) -> None:
        """Show how things are. `now_s`: a monotonic time."""
        if self._out.isatty():
            self._erase()
            self._paint(table(HEAD, [self._row(state) for state in states]))
            return
        is_routine = self._told_at is None or now_s - self._told_at >= ROUTINE_S
        if is_routine:
            self._told_at = now_s
        for state in states:
            told = self._told.get(state.name)
            if told is None or (told != state if is_routine else _standing(told) != _standing(state)):
                self._told[state.name] = state
                print(self._line(state), file=self._out, flush=True)

    def say(self, line: str) -> None:
        """Print a line, above the table where there is one."""
        painted = self._painted
        self._erase()
        print(line, file=self._out, flush=True)
        self._paint(painted)

    def _row(self, state: MemberState) -> tuple[str, ...]:
        registered = "" if state.registered is None else f"{state.registered} of {self._name_servers}"
        is_broker = state.registered is not None
        return (
            state.name,
            state.role,
            state.address,
            registered,
            _number(state.log_end).rjust(len("LOG END")) if is_broker else "",
            _number(state.behind).rjust(len("BEHIND")) if is_broker else "",
            _standing_text(state) or "up",
        )

    def _line(self, state: MemberState) -> str:
        line = f"{state.name}: {state.role} at {state.address}"
        if text := _standing_text(state):
            line += f", {text}"
        if state.registered is not None:
            line += f", registered with {state.registered} of {self._name_servers} name servers"
        if state.log_end is not None:
            line += f", log end {state.log_end:,}"
        if state.behind is not None:
            line += f", {state.behind:,} bytes behind"
        return line

    def _paint(self, lines: list[str]) -> None:
        """Lines are cut where the terminal ends: one that wraps would shift the next painting."""
        columns, rows = os.get_terminal_size(self._out.fileno()) if lines else (0, 0)
        self._painted = lines[: rows - 1]
        for line in self._painted:
            self._out.write(line[:columns] + "\n")
        self._out.flush()

    def _erase(self) -> None:
        if self._painted:
            self._out.write(f"\x1b[{len(self._painted)}A\r{CLEAR_BELOW}")
            self._painted = []


def _standing(state: MemberState) -> tuple[object, ...]:
    """What is always worth a line."""
    return state.role, state.address, state.answers, state.registered, state.is_copying


def _standing_text(state: MemberState) -> str:
    """What is wrong; empty when nothing is."""
    if not state.answers:
        return "no answer"
    return "" if state.is_copying in (None, True) else "not copying"
