"""`python -m tests.torture`: kills, power cuts and damages, for as long as one likes.

Each failure ends the run and says how to see it again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.store.golden_store import unpack
from tests.torture.damage import Golden
from tests.torture.kill_loop import kill_loop
from tests.torture.losses import Losses
from tests.torture.storm import Storm

_TURN_S = 60.0
"""So long at most one part runs before the next has its turn."""


def storms(seed: int) -> Iterator[str]:
    """Power cuts and kills on the simulated disk, seed after seed."""
    lives = checked = 0
    while True:
        storm = Storm(seed)
        try:
            storm.run()
        except BaseException as error:
            error.add_note(f"what happened: {'; '.join(storm.story[-12:])}")
            raise
        lives, checked, seed = lives + storm.lives, checked + storm.checked, seed + 1
        yield f"{lives} lives of a store, {checked} messages looked at"


def losses(seed: int) -> Iterator[str]:
    """Messages and units damaged between the lives of a store, seed after seed."""
    lives = checked = 0
    while True:
        loss = Losses(seed)
        try:
            loss.run()
        except BaseException as error:
            error.add_note(f"what happened: {'; '.join(loss.story[-20:])}")
            raise
        lives, checked, seed = lives + loss.lives, checked + loss.checked, seed + 1
        yield f"{lives} lives of a store, {checked} messages looked at"


def damages(seed: int) -> Iterator[str]:
    """A bit flipped or a file cut off in the golden store, place after place."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = unpack(Path(folder))
        stores = [Golden(unpacked, is_ours=is_ours) for is_ours in (False, True)]
    while True:
        golden = stores[seed % 2]
        damage = golden.damage(seed // 2)
        try:
            golden.check(damage)
        except BaseException as error:
            error.add_note(f"{damage} of the store that {('Apache', 'pymq')[seed % 2]} left")
            raise
        seed += 1
        not_covered = ", ".join(sorted(field for field in golden.undetected if golden.undetected[field]))
        yield f"4 × {len(golden.spots)} cases; changed without being noticed: {not_covered or 'nothing'}"


def kills(rounds: int) -> Callable[[int], Iterator[str]]:
    """A real broker, killed for so many rounds on one store, then on another."""

    def run(seed: int) -> Iterator[str]:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f"pymq-kill-{seed}-"))
            flush = ("ASYNC_FLUSH", "SYNC_FLUSH")[seed % 2]
            try:
                line = asyncio.run(kill_loop(folder, seed, rounds, flush=flush))
            except BaseException as error:
                error.add_note(f"the store and the logs are in {folder}")
                raise
            _remove(folder)
            seed += 1
            yield f"{rounds} rounds of {flush}: {line}"

    return run


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("parts", nargs="*", help="of storm, loss, damage, kill; all unless given")
    parser.add_argument("--seconds", type=float, default=3600, help="how long")
    parser.add_argument("--rounds", type=int, default=20, help="kills of one store")
    parser.add_argument(
        "--seed", type=int, default=None, help="where to begin; chosen and printed unless given"
    )
    parser.add_argument("--once", action="store_true", help="only this seed")
    options = parser.parse_args()
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    logging.disable(logging.NOTSET if options.once else logging.CRITICAL)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
    makers = {"storm": storms, "loss": losses, "damage": damages, "kill": kills(options.rounds)}
    unknown = set(options.parts) - makers.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    print(f"first seed {seed}", flush=True)
    running = {part: makers[part](seed) for part in options.parts or makers}
    next_seed = dict.fromkeys(running, seed)
    end = time.monotonic() + options.seconds
    turn_s = min(_TURN_S, options.seconds / len(running))
    while time.monotonic() < end:
        for part, steps in running.items():
            turn_end = min(end, time.monotonic() + turn_s)
            line = ""
            while not line or time.monotonic() < turn_end:
                try:
                    line = next(steps)
                except BaseException as error:
                    again = shlex.join([part, "--once", "--seed", str(next_seed[part])])
                    error.add_note(f"to see it again: {sys.executable} -m tests.torture {again}")
                    raise
                next_seed[part] += 1
                if options.once:
                    break
            print(f"{part} up to seed {next_seed[part] - 1}: {line}", flush=True)
        if options.once:
            return


if __name__ == "__main__":
    main()
