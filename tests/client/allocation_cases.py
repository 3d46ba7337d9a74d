"""Groups and queues to share, and what Java's classes make of them.

`golden/allocations.jsonl` holds a case a line with the share that RocketMQ's Java client gives; the interop
tests ask the Java clients whether it still does.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Case = dict[str, Any]
"""`name` of the rule, `own` id, `ids` of all members, `queues` as `broker:queue id`, `rooms` or `config`."""

GOLDEN = Path(__file__).parent / "golden/allocations.jsonl"

_NAMES = (
    "AVG",
    "AVG_BY_CIRCLE",
    "CONSISTENT_HASH",
    "CONFIG",
    "MACHINE_ROOM",
    "MACHINE_ROOM_NEARBY-AVG",
    "MACHINE_ROOM_NEARBY-AVG_BY_CIRCLE",
    "MACHINE_ROOM_NEARBY-CONSISTENT_HASH",
)
_ROOMS = ("east", "west", "south", "north")


def make_cases(count: int = 400, seed: int = 1) -> list[Case]:
    """Cases of all rules in turn; with the same numbers, the same ones."""
    chance = random.Random(seed)
    return [_case(chance, _NAMES[number % len(_NAMES)]) for number in range(count)]


def _case(chance: random.Random, name: str) -> Case:
    rooms = chance.sample(_ROOMS, chance.randint(1, 3))
    queues = [
        f"{broker}:{queue_id}"
        for broker in dict.fromkeys(_broker(chance, name) for _ in range(chance.randint(1, 4)))
        for queue_id in range(chance.choice((1, 2, 4, 8, 11)))
    ]
    ids = [
        f"{chance.choice(_ROOMS)}@10.0.0.{chance.randint(1, 99)}#{chance.randint(1, 10**9)}"
        for _ in range(chance.choice((1, 1, 2, 3, 4, 7, 13)))
    ]
    if chance.random() < 0.15:
        ids.append(chance.choice(ids))  # listed twice: one client with two connections
    chance.shuffle(queues)
    case: Case = {"name": name, "own": chance.choice(ids), "ids": ids, "queues": queues}
    if name == "MACHINE_ROOM":
        case["rooms"] = rooms
    if name == "CONFIG":
        case["config"] = chance.sample(queues, chance.randint(1, len(queues)))
    return case


def _broker(chance: random.Random, name: str) -> str:
    room = chance.choice(_ROOMS)
    names = [f"{room}@broker-{chance.randint(1, 30)}", f"{room}@b@c", f"{room}@"]
    if name == "MACHINE_ROOM":
        names += [f"@{room}@x", f"{room}@broker@@", room]
    return chance.choice(names)


def read_golden() -> list[Case]:
    """The cases with their `share`."""
    return [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def write_golden(cases: list[Case], shares: list[list[str]]) -> None:
    """Write what a Java client gave."""
    lines = [json.dumps(case | {"share": share}) for case, share in zip(cases, shares, strict=True)]
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("\n".join(lines) + "\n")
