"""`pymq store`: looking at a store's folder, checking, reading and mending it, without a broker."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pymq.store.inspection.files import StoreFolder
    from pymq.store.inspection.problems import Problem, Progress, Report
    from pymq.store.inspection.verify import Summary

F = TypeVar("F", bound=Callable[..., Any])

_CLEAR_LINE = "\r\x1b[K"


@click.group()
def store() -> None:
    """Look at a store's folder, pymq's or Apache's, while no broker runs on it."""


def folder_argument(command: F) -> F:
    """Give a command PATH and `--commitlog`."""
    path = click.Path(path_type=Path, exists=True, file_okay=False)
    option = click.option(
        "--commitlog",
        type=path,
        metavar="FOLDER",
        help="The commit log, if it is not in PATH (storePathCommitLog).",
    )
    return click.argument("path", type=path)(option(command))


def json_option(command: F) -> F:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")(command)


@store.command()
@folder_argument
@json_option
def ls(path: Path, commitlog: Path | None, as_json: bool) -> None:
    """Show what is in PATH (storePathRootDir).

    Files and offsets of commit log, queues and index, the tables of config, and the lines of a broker.conf
    with which Apache's broker opens the folder."""
    from pymq.cli import store_output
    from pymq.store.inspection.survey import survey

    found = survey(open_folder(path, commitlog))
    if as_json:
        click.echo(store_output.to_json(found))
    else:
        for line in store_output.survey_lines(found, is_in_use(path)):
            click.echo(line)


@store.command()
@folder_argument
@json_option
@click.pass_context
def verify(ctx: click.Context, path: Path, commitlog: Path | None, as_json: bool) -> None:
    """Check every message, queue unit, index slot and entry, and table of PATH.

    Prints what is wrong, a line each, and changes nothing. Ends with status 1 if anything is wrong."""
    from pymq.cli import store_output

    folder = open_folder(path, commitlog)
    warn_if_in_use(path)
    line = store_output.problem_json if as_json else store_output.problem_line
    summary = _verify(folder, lambda problem: click.echo(line(folder, problem)))
    if as_json:
        click.echo(store_output.to_json({"type": "summary"} | _members(summary)))
    else:
        click.echo("\n".join(store_output.summary_lines(summary)))
    ctx.exit(1 if summary.problems else 0)


def _verify(folder: StoreFolder, report: Report) -> Summary:
    """Verify, with a progress bar where somebody watches."""
    from pymq.store.inspection.verify import verify

    if not sys.stderr.isatty():
        return verify(folder, report)

    def report_above_the_bar(problem: Problem) -> None:
        click.echo(_CLEAR_LINE, nl=False, err=True)
        report(problem)

    with click.progressbar(length=folder.data_bytes(), label="checking", file=sys.stderr) as bar:
        progress: Progress = bar.update
        return verify(folder, report_above_the_bar, progress)


def _members(summary: Summary) -> dict[str, object]:
    import msgspec

    members: dict[str, object] = msgspec.structs.asdict(summary)
    return members


@store.command()
@folder_argument
@click.option("--topic", help="Only messages of this topic.")
@click.option("--queue", "queue_id", type=click.IntRange(min=0), help="Only messages of this queue.")
@click.option("--from", "from_offset", type=click.IntRange(min=0), help="Begin at this physical offset.")
@click.option(
    "--from-number",
    "from_queue_offset",
    type=click.IntRange(min=0),
    help="Begin at this number of the queue; goes with --topic and --queue.",
)
@click.option("--limit", type=click.IntRange(min=0), help="End after this many messages.")
@click.option(
    "--body",
    type=click.Choice(["text", "hex", "none"]),
    default="text",
    show_default=True,
    help="How to print bodies; those that are no text are printed in hex in any case.",
)
@json_option
@click.pass_context
def dump(
    ctx: click.Context,
    path: Path,
    commitlog: Path | None,
    topic: str | None,
    queue_id: int | None,
    from_offset: int | None,
    from_queue_offset: int | None,
    limit: int | None,
    body: str,
    as_json: bool,
) -> None:
    """Print the messages of PATH, oldest first.

    One line each: offset in the commit log, time of storing, topic/queue/number, size, tags, keys, body.
    Damage on the way is told on stderr and passed over; then the status is 1."""
    from pymq.cli import store_output
    from pymq.store.inspection.dump import Wanted
    from pymq.store.inspection.dump import dump as dump_records

    if from_queue_offset is not None and (topic is None or queue_id is None):
        raise click.UsageError("--from-number goes with --topic and --queue")
    folder = open_folder(path, commitlog)
    status = 0

    def report(problem: Problem) -> None:
        nonlocal status
        status = status if problem.is_note else 1
        click.echo(store_output.problem_line(folder, problem), err=True)

    line = store_output.record_json if as_json else store_output.record_line
    wanted = Wanted(topic, queue_id, from_offset, from_queue_offset, limit)
    for record in dump_records(folder, wanted, report):
        click.echo(line(record, body))
    ctx.exit(status)


@store.command()
@folder_argument
@click.option("--rebuild", is_flag=True, help="Make consume queues and index anew from the whole commit log.")
@click.option("--cut", is_flag=True, help="Give up sound messages behind damage, as a broker's start does.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option(
    "--delay-levels",
    metavar="LEVELS",
    default="",
    help="The broker's messageDelayLevel.  [default: as the queues tell, else Apache's]",
)
def repair(
    path: Path, commitlog: Path | None, rebuild: bool, cut: bool, dry_run: bool, delay_levels: str
) -> None:
    """Do to PATH what a broker does when it starts on it, and print what changed.

    Ends the commit log behind its last whole message, and brings queues and index to that point. Refuses
    while a broker runs on PATH, and, without --cut, when sound messages stand behind the cut."""
    from pymq.clock import SystemClock
    from pymq.disk import Disk
    from pymq.store.inspection.repair import Repair
    from pymq.store.inspection.repair import repair as repair_folder
    from pymq.system_disk import SystemDisk

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    disk: Disk = SystemDisk()
    if dry_run:
        from pymq.dry_disk import dry_disk

        disk = dry_disk(disk)
    what = Repair(delay_levels=delay_levels, rebuild=rebuild, may_cut_sound_messages=cut)
    root, log_folder = str(path.absolute()), str(commitlog.absolute()) if commitlog else ""
    changes = repair_folder(root, disk, SystemClock(), what, log_folder)
    if not changes:
        click.echo("nothing would change" if dry_run else "nothing had to be changed")
    elif dry_run:
        click.echo("would change:")
    for change in changes:
        click.echo(change)
    if changes and not dry_run:
        click.echo(f"now check it: pymq store verify {path}", err=True)


def open_folder(path: Path, commitlog: Path | None) -> StoreFolder:
    """The store's folder, to be read."""
    from pymq.store.inspection.files import StoreFolder
    from pymq.system_disk import SystemDisk

    return StoreFolder(str(path.absolute()), SystemDisk(), str(commitlog.absolute()) if commitlog else "")


def is_in_use(path: Path) -> bool:
    """Whether a broker holds the folder's lock."""
    from pymq.disk_lock import is_locked

    return is_locked(str(path / "lock"))


def warn_if_in_use(path: Path) -> None:
    """Say so when a broker runs on the folder."""
    if is_in_use(path):
        text = "pymq: a broker runs on this folder: what it is writing right now may look wrong"
        click.echo(text, err=True)
