"""What the index is built from: keys of messages, as `put` hands them on or as the commit log has them."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from pymq.errors import StoreCorrupt
from pymq.protocol.message import BLANK_MAGIC, MESSAGE_MAGIC, MESSAGE_MAGIC_V2, RECORD_FIXED_SIZE
from pymq.protocol.properties import KEY_SEPARATOR
from pymq.protocol.sysflags import TRANSACTION_MASK, TRANSACTION_ROLLBACK
from pymq.store.commitlog import BLANK_RECORD, CommitLog
from pymq.store.key_hashes import TopicHashes, entry_hashes
from pymq.store.scan import LogScan

Row = tuple[str, str, int, int]
"""Topic, property text, physical offset, store time (ms) of a message that was not rolled back."""

_MAGIC_AND_PLACE = Struct(">4xI20xq")
"""Of a record's head."""
_CHUNK = 256 << 10
SKIP_BYTES = 16 << 20
"""So much of a damaged log is passed over at once."""

_UNIQUE_KEY_FIRST, _UNIQUE_KEY = "UNIQ_KEY\x01", "\x02UNIQ_KEY\x01"
_KEYS_FIRST, _KEYS = "KEYS\x01", "\x02KEYS\x01"


class Columns(NamedTuple):
    """Entries to be: of each its key hash, and its message's physical offset and store time (ms)."""

    hashes: Sequence[int]
    offsets: Sequence[int]
    timestamps: Sequence[int]

    def part(self, start: int, end: int) -> Columns:
        """The entries from number `start` up to `end`."""
        return Columns(self.hashes[start:end], self.offsets[start:end], self.timestamps[start:end])


class Keys:
    """Finds the keys of messages and hashes them."""

    def __init__(self) -> None:
        self._topics = TopicHashes()

    def columns(self, rows: Sequence[Row]) -> Columns:
        """The entries of these messages, in their order: of each the unique key, then each of its KEYS."""
        # Each send passes here: what `index_file.keys_of` does, written out.
        keys: list[str] = []
        owners: list[Row] = []
        for row in rows:
            text = row[1]
            at = text.find(_UNIQUE_KEY) + len(_UNIQUE_KEY)
            if at >= len(_UNIQUE_KEY) or text.startswith(_UNIQUE_KEY_FIRST):
                end = text.find("\x02", at)
                key = text[at:end] if end >= 0 else text[at:]
                if key:
                    keys.append(key)
                    owners.append(row)
            if text.startswith(_KEYS_FIRST):
                at = len(_KEYS_FIRST)
            else:
                at = text.find(_KEYS) + len(_KEYS)
                if at < len(_KEYS):
                    continue
            end = text.find("\x02", at)
            key = text[at:end] if end >= 0 else text[at:]
            if KEY_SEPARATOR in key:
                pieces = [piece for piece in key.split(KEY_SEPARATOR) if piece]
                keys += pieces
                owners += [row] * len(pieces)
            elif key:
                keys.append(key)
                owners.append(row)
        if not keys:
            return Columns((), (), ())
        topics, _, offsets, timestamps = zip(*owners, strict=True)
        return Columns(entry_hashes(keys, [self._topics[topic] for topic in topics]), offsets, timestamps)


class LogRows:
    """Reads messages from the commit log, only as far as the index needs them."""

    def __init__(self, commit_log: CommitLog, segment_bytes: int) -> None:
        self._log = commit_log
        self._segment_bytes = segment_bytes
        # What a damaged body belongs to is still found by its keys: a search says what is wrong with it.
        self._scan = LogScan(commit_log.segments, check_crc=False)

    def read(self, offset: int, chunk: int = _CHUNK) -> tuple[list[Row], int]:
        """The messages of about `chunk` bytes from `offset` on, where one begins; and the offset behind them.

        They end before the first record that does not stand all checks of `scan`. StoreCorrupt when that is
        the first one.
        """
        segment_end = offset - offset % self._segment_bytes + self._segment_bytes
        size = min(chunk, segment_end - offset, self._log.end - offset)
        data = self._log.read(offset, size) or b""
        records = self._scan.records_in(data, offset)
        if not records and not self._is_blank(data, 0, segment_end - offset):
            record = self._scan.record_at(offset)  # a large one
            self._scan.forget()
            if record is None:
                raise StoreCorrupt(f"there is no sound message at {offset} of the commit log")
            records = [record]
        end = records[-1].physical_offset + records[-1].total_size if records else offset
        rows = [
            (each.topic, str(each.text, "utf-8", "replace"), each.physical_offset, each.store_timestamp)
            for each in records
            if each.sys_flag & TRANSACTION_MASK != TRANSACTION_ROLLBACK
        ]
        return rows, segment_end if self._is_blank(data, end - offset, segment_end - end) else end

    @staticmethod
    def _is_blank(data: bytes, at: int, rest: int) -> bool:
        """Whether all the `rest` of a file is marked as blank from there on."""
        if len(data) - at < BLANK_RECORD.size:
            return False
        return BLANK_RECORD.unpack_from(data, at) == (rest, BLANK_MAGIC)

    def skip(self, offset: int) -> int:
        """Where to go on when nothing can be read at `offset`: at the next sound record.

        A long stretch without one is left in steps of `SKIP_BYTES`.
        """
        limit = min(offset + SKIP_BYTES, self._log.end)
        sound = self._scan.next_sound(offset, limit)
        self._scan.forget()
        return limit if sound is None else sound

    def is_damaged_message(self, offset: int) -> bool:
        """Whether a message begins at `offset`, though it may not stand: its magic or its place is right."""
        head = self._log.read(offset, RECORD_FIXED_SIZE) or b""
        if len(head) < RECORD_FIXED_SIZE:
            return False
        magic, place = _MAGIC_AND_PLACE.unpack_from(head)
        return magic in (MESSAGE_MAGIC, MESSAGE_MAGIC_V2) or place == offset
