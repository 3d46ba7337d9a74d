"""`pymq trace`: the life of a message."""

from __future__ import annotations

import click

from pymq.cli.options import namesrv_option
from pymq.cli.store_commands import json_option


@click.command()
@click.argument("key", metavar="MSGID")
@click.option("--topic", default="RMQ_SYS_TRACE_TOPIC", show_default=True, help="The trace topic.")
@json_option
@namesrv_option
def trace(key: str, topic: str, as_json: bool, namesrv: str) -> None:
    """Show what became of the message MSGID.

    Who sent it, when and how that went, who handled it how long, and what came of it, as far as the clients
    are traced: Python's with trace=True, Java's with enableMsgTrace. A key of messages does as well as an id.
    Times are those of the clients' clocks."""
    from pymq.cli import trace_actions

    trace_actions.trace(namesrv, key, topic, as_json)
