"""`pymq group`: how far consumer groups are, and moving them."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import click

from pymq.cli.options import namesrv_option

if TYPE_CHECKING:
    from pymq.client.group_offsets import ResetTo


@click.group()
def group() -> None:
    """Look at how far consumer groups are, and move them."""


@group.command()
@click.argument("name", metavar="GROUP")
@click.option("--topic", help="Only this topic.")
@namesrv_option
def lag(name: str, topic: str | None, namesrv: str) -> None:
    """Show how many messages GROUP has not consumed.

    A line for each queue, its retry topic's among them, and their sum. `behind` is how long the oldest
    message that is not consumed has been stored."""
    from pymq.cli import group_actions

    group_actions.lag(namesrv, name, topic)


@group.command()
@click.argument("name", metavar="GROUP")
@click.argument("topic")
@click.option(
    "--to",
    metavar="first|last|TIME|OFFSET",
    required=True,
    help="Where it goes on: TIME as 2024-05-01T12:00, OFFSET the number of a message in every queue.",
)
@namesrv_option
def reset(name: str, topic: str, to: str, namesrv: str) -> None:
    """Let GROUP go on elsewhere in TOPIC.

    Its running consumers, those in Java too, are told to; without any it is done for them. Prints the new
    offset of each queue."""
    from pymq.cli import group_actions

    group_actions.reset(namesrv, name, topic, target_of(to))


@group.command()
@click.argument("source")
@click.argument("target")
@click.option("--topic", help="Only this topic.")
@namesrv_option
def clone(source: str, target: str, topic: str | None, namesrv: str) -> None:
    """Let group TARGET begin where SOURCE stands."""
    from pymq.cli import group_actions

    group_actions.clone(namesrv, source, target, topic)


def target_of(text: str) -> ResetTo:
    """Read where a group is to go on; a time is local where it names no zone."""
    match text:
        case "first":
            return "first"
        case "last":
            return "last"
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        what = f"{text!r} is neither first, last, a time nor an offset"
        raise click.BadParameter(what, param_hint="--to") from None
