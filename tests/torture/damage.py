"""The golden store with one bit flipped, or one file cut off, anywhere: what is served is what was stored."""

from __future__ import annotations

import random
from collections import Counter
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

from pymq.errors import StoreError
from pymq.protocol.message import MessageRecord, decode_record
from pymq.store.messagestore import MessageStore
from tests.store.golden_store import facts, open_golden
from tests.store.making import put, records
from tests.store.sim_disk import SimDisk
from tests.store.sim_files import Content

ROOT = Path("/data/store")
_PARTS = ("commitlog/", "consumequeue/", "index/", "checkpoint")


class Damage(NamedTuple):
    """What is done to the folder before it is opened."""

    path: str
    """Of the file, from the store's folder on."""
    position: int
    bit: int
    """The bit of the byte at `position` that is flipped; -1: the file ends there."""
    is_clean: bool
    """Whether the store had been closed cleanly."""


class Golden:
    """The files of the golden store, as Apache left them or pymq after it, and what its messages say."""

    def __init__(self, folder: Path, *, is_ours: bool) -> None:
        """`folder`: of the unpacked store; `is_ours`: pymq has opened and closed it since."""
        self.files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("lock", "abort")
        }
        self._is_ours = is_ours
        if is_ours:
            disk = self._disk(Damage("", 0, 0, is_clean=True))
            open_golden(ROOT, disk).close()
            self.files = {
                str(Path(path).relative_to(ROOT)): content.data() for path, content in disk.contents.items()
            }
        self.spots = self._find_spots()
        self._stride = next(n for n in range(7919, 10_000) if gcd(n, len(self.spots)) == 1)
        self.messages: list[dict[str, Any]] = facts()["messages"]
        self._fields = {m["phyOffset"]: self._record(m) for m in self.messages}
        self.undetected: Counter[str] = Counter()
        """Field → how often it was served with another value than it was stored with: nothing covers it."""
        self.refused: Counter[str] = Counter()
        """Kind of the damaged file → how often the start was refused."""

    def _record(self, message: dict[str, Any]) -> MessageRecord:
        name = f"commitlog/{message['phyOffset'] // 65536 * 65536:020d}"
        start = message["phyOffset"] % 65536
        return decode_record(self.files[name][start : start + message["size"]], check_crc=True)

    # -- choosing

    def _find_spots(self) -> list[tuple[str, int]]:
        """Each byte of each file that holds data, and some of the empty rest."""
        return [
            (name, position)
            for name, data in self.files.items()
            if name.startswith(_PARTS)
            for position in range(min(len(data), len(data.rstrip(b"\0")) + 64))
        ]

    def damage(self, number: int) -> Damage:
        """The damage of this number: any `2 * len(spots)` in a row flip a bit in each byte, and cut there."""
        luck = random.Random(number)
        name, position = self.spots[number // 2 * self._stride % len(self.spots)]
        return Damage(name, position, luck.randrange(8) if number % 2 else -1, luck.random() < 0.5)

    # -- doing

    def check(self, damage: Damage) -> None:
        """Open the damaged folder, look at all that is served, write, and open it again."""
        disk = self._disk(damage)
        for life in range(2):
            store = self._open(disk, damage)
            if store is None:
                return
            served = self._look(store)
            if life == 0:
                self._check_complete(damage, served)
            put(store, "PlainTopic", 0, b"another" * (life + 1))
            store.close()
            assert not disk.exists(f"{ROOT}/abort")
            disk = disk.kill()

    def _open(self, disk: SimDisk, damage: Damage) -> MessageStore | None:
        """The store; None when it refused to start, for a good reason that it told."""
        refusal = ""
        try:
            return open_golden(ROOT, disk)
        except StoreError as error:
            refusal = str(error)
        assert damage.bit < 0, f"only a file of the wrong length may be refused: {refusal}"
        assert damage.path in refusal, f"the refusal does not name {damage.path}: {refusal}"
        self.refused[damage.path.partition("/")[0]] += 1
        return None

    def _disk(self, damage: Damage) -> SimDisk:
        disk = SimDisk()
        for name, data in self.files.items():
            disk.make_folder(str((ROOT / name).parent), sync=True)
            content = disk.contents[str(ROOT / name)] = Content.of(data)
            if name == damage.path and damage.bit < 0:
                content.resize(damage.position)
            elif name == damage.path:
                content.buffer[damage.position] ^= 1 << damage.bit
            content.sync()
        if not damage.is_clean:
            disk.write_bytes(f"{ROOT}/abort", b"")
        return disk

    def _look(self, store: MessageStore) -> set[int]:
        """Read every queue and the log. Gives the physical offsets of the golden messages that are served."""
        found: set[int] = set()
        for topic, queue_id in store.queues():
            offset, one_by_one = store.min_offset(topic, queue_id), []
            while offset < store.max_offset(topic, queue_id):
                result = store.get(topic, queue_id, offset, 1)
                assert result.next_begin_offset > offset
                offset = result.next_begin_offset
                for record in records(result):
                    assert (record.topic, record.queue_id) == (topic, queue_id)
                    assert record.queue_offset == offset - 1, f"served as number {offset - 1}: {record}"
                    one_by_one.append(record)
                    found |= self._check_record(store, record)
            assert self._read_by_many(store, topic, queue_id) == one_by_one
        for raw in store.records_from(store.commit_log_min_offset):
            assert raw == store.record_at(decode_record(raw, check_crc=True).physical_offset)
        self._ask_index(store)
        return found

    def _read_by_many(self, store: MessageStore, topic: str, queue_id: int) -> list[MessageRecord]:
        offset, found = store.min_offset(topic, queue_id), []
        while offset < store.max_offset(topic, queue_id):
            result = store.get(topic, queue_id, offset, 8)
            assert result.next_begin_offset > offset
            found += records(result)
            offset = result.next_begin_offset
        return found

    def _check_record(self, store: MessageStore, record: MessageRecord) -> set[int]:
        """It is whole, stands where it says, and is what was stored there but for what nothing covers."""
        raw = store.record_at(record.physical_offset)
        assert raw is not None
        assert decode_record(raw, check_crc=True) == record
        original = self._fields.get(record.physical_offset)
        if original is None or record.body.startswith(b"another"):
            assert record.body in (b"another", b"another" * 2), f"nobody stored {record}"
            return set()
        assert record.body == original.body, f"{record}, not {original}"
        for field in record.__struct_fields__:
            self.undetected[field] += getattr(record, field) != getattr(original, field)
        return {record.physical_offset}

    def _ask_index(self, store: MessageStore) -> None:
        """Whatever the index says, what it finds has the key; and it fails for nobody."""
        for message in self.messages[::40]:
            for key in str(message["properties"].get("KEYS", "")).split():
                for raw in store.search(message["topic"], key, 0, 1 << 62):
                    assert raw is None or decode_record(raw, check_crc=True).topic == message["topic"]

    def _check_complete(self, damage: Damage, served: set[int]) -> None:
        """What is derived from the log costs no message, and a damage in the log only what it meets."""
        expected = {m["phyOffset"] for m in self.messages if not m["sysFlag"] & 4}
        lost = sorted(expected - served)
        if not damage.path.startswith("commitlog/"):
            assert not lost, f"lost by a damage in {damage.path}: {lost}"
            return
        place = int(damage.path.removeprefix("commitlog/")) + damage.position
        before = [m["phyOffset"] for m in self.messages if m["phyOffset"] + m["size"] <= place]
        assert not set(before) & set(lost), f"lost before the damage at {place}: {lost}"
        if self._is_ours and damage.bit >= 0:
            met = {m["phyOffset"] for m in self.messages if 0 <= place - m["phyOffset"] < m["size"]}
            assert set(lost) <= met, f"lost behind the damage at {place}, though it was on the disk: {lost}"
