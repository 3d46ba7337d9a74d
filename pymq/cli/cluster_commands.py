"""`pymq cluster`: name servers and brokers of one layout, in words. The work is done in `cluster.py`."""

from __future__ import annotations

from pathlib import Path

import click

from pymq.cli.background import Background
from pymq.cli.options import background_options, pairs_of, set_option


@click.group()
def cluster() -> None:
    """Run whole clusters on this machine."""


@cluster.command()
@click.argument("layout", nargs=-1, required=True, metavar="LAYOUT|FOLDER|FILE...")
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for everything that is stored.  [default: data/LAYOUT]",
)
@click.option("--free-ports", is_flag=True, help="Any free ports instead of those of the conf files.")
@set_option
@background_options
def up(
    layout: tuple[str, ...],
    data: Path | None,
    free_ports: bool,
    pairs: tuple[str, ...],
    daemon: bool,
    pid_file: Path | None,
    log_file: Path | None,
) -> None:
    """Run the name servers and brokers of a layout and show their state.

    LAYOUT is 1m, 2m-noslave, 2m-2s-async or 2m-2s-sync. A folder with conf files, or such files, one for each
    broker, do as well. Each name server and broker is a process of its own on this machine, everything it
    stores lies below one folder, and Ctrl-C stops them all. --set goes for all brokers.
    """
    from pymq.cli.cluster import run_cluster

    settings = pairs_of(pairs, "--set")
    run_cluster(layout, data, free_ports, settings, Background(daemon, pid_file, log_file))
