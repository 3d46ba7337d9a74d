"""One damaged record costs the index that record's keys, and no others'."""

from __future__ import annotations

import pytest

from pymq.store.messagestore import MessageStore
from tests.store.damage import FIRST_LOG, flip
from tests.store.making import BORN_HOST, open_store, put
from tests.store.sim_disk import SimDisk

INDEX = "/s/index"
COUNT = 40
BAD = 13
POSITIONS = [0, 1, 2, 3, 5, 34, 84, 85, 86, 87, 93, 95, 96]
"""Of size, magic, physical offset, body length, topic length and properties length."""


def filled_and_damaged(position: int) -> SimDisk:
    """A closed store with a bit flipped in an old record, at this place of it."""
    disk = SimDisk()
    store = open_store(disk, "/s", None)
    places = [
        store.put("T", 0, b"hello", f"KEYS\x01k{n}", born_host=BORN_HOST).physical_offset
        for n in range(COUNT)
    ]
    for _ in range(30):
        put(store, "other", body=b"z" * 100)
    store.close()
    flip(disk, FIRST_LOG, places[BAD] + position)
    return disk


def opened(disk: SimDisk, monkeypatch: pytest.MonkeyPatch) -> MessageStore:
    """The store, when recovery does not look back to the damaged record."""
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 100)
    return open_store(disk, "/s", None)


def found(store: MessageStore) -> list[int]:
    """Which messages a search finds."""
    return [n for n in range(COUNT) if n != BAD and any(store.search("T", f"k{n}", 0, 1 << 60))]


ALL_OTHERS = [n for n in range(COUNT) if n != BAD]


@pytest.mark.parametrize("position", POSITIONS)
def test_an_index_that_is_built_from_the_log_has_all_others(
    position: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = filled_and_damaged(position)
    disk.remove_folder(INDEX)
    assert found(opened(disk, monkeypatch)) == ALL_OTHERS


@pytest.mark.parametrize("position", POSITIONS)
def test_after_a_kill_the_index_has_all_others(position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = filled_and_damaged(position)
    disk.write_bytes("/s/abort", b"")
    assert found(opened(disk, monkeypatch)) == ALL_OTHERS


@pytest.mark.parametrize("position", POSITIONS)
def test_a_sound_index_stays_whatever_is_asked_for(position: int, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = filled_and_damaged(position)
    [name] = disk.list_folder(INDEX)
    before = disk.read_bytes(f"{INDEX}/{name}")
    store = opened(disk, monkeypatch)
    for _ in range(2):
        list(store.search("T", f"k{BAD}", 0, 1 << 60))
        assert found(store) == ALL_OTHERS
    store.close()
    assert disk.list_folder(INDEX) == [name]
    assert disk.read_bytes(f"{INDEX}/{name}") == before


def test_where_the_newest_indexed_message_is_damaged_those_behind_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", None)
    last = store.put("T", 0, b"hello", "KEYS\x01k0", born_host=BORN_HOST).physical_offset
    for _ in range(30):
        put(store, "other", body=b"z" * 100)
    store.close()
    flip(disk, FIRST_LOG, last + 5)
    store = opened(disk, monkeypatch)
    store.put("T", 0, b"hello", "KEYS\x01k1", born_host=BORN_HOST)
    assert any(store.search("T", "k1", 0, 1 << 60))
