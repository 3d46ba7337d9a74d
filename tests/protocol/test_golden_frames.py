"""Frames recorded from Apache: cut, decoded, read typed, and written again to the same meaning."""

from __future__ import annotations

import random

import msgspec
import pytest

from pymq.protocol import command as remoting
from pymq.protocol.codes import LanguageCode
from pymq.protocol.command import Command, Serialization
from pymq.protocol.framing import FrameReader, frame
from pymq.protocol.header import Header, to_text
from tests.protocol.header_classes import REQUESTS
from tests.protocol.recorded import RecordedFrame, recorded_frames

WITH_HEADER = (0, 10, 11, 12, 19, 20, 21)
"""The response codes with which an answer carries its header."""

LATER = {
    *("ReqT", "attributes", "bname", "boundaryType", "committed", "enableActingMaster", "force", "lo", "n"),
    *("maxMsgBytes", "groupSysFlag", "topicSysFlag", "IS_SUPPORT_HEART_BEAT_V2", "IS_SUB_CHANGE"),
}
"""Fields of 4.9.4 (ReqT) and 5.x that a 4.x broker ignores."""

LATER_TOPIC = {33, 37, 39, 309}
"""Requests to which 5.x adds a `topic`."""


def decode(recorded: RecordedFrame) -> Command:
    reader = FrameReader()
    reader.feed(recorded.bytes)
    [one] = reader
    assert reader.pending == 0
    return remoting.decode(*one)


def fields_of(command: Command) -> dict[str, str]:
    if command.fields is not None:
        return command.fields
    return msgspec.json.decode(command.raw_fields, type=dict[str, str])


def typed() -> list[tuple[RecordedFrame, type[Header]]]:
    """The frames for which there is a header class."""
    pairs = []
    for recorded in recorded_frames():
        cls = REQUESTS.get(recorded.code)
        if cls is None:
            continue
        if recorded.kind != "response":
            pairs.append((recorded, cls))
        elif recorded.status in WITH_HEADER:
            pairs.append((recorded, cls.answer))
    return pairs


def test_all_recorded_frames_are_there() -> None:
    assert len(recorded_frames()) == 1196
    assert len(typed()) > 900


def test_every_frame_is_cut_whole_and_its_header_is_in_its_serialisation() -> None:
    for recorded in recorded_frames():
        command = decode(recorded)
        assert Serialization(command.serialization).name == recorded.header
        assert command.is_response == (recorded.kind == "response")
        assert command.is_oneway == (recorded.kind == "oneway")
        assert command.code == (recorded.status if recorded.kind == "response" else recorded.code)
        assert command.language in LanguageCode.__members__
        assert command.version in (277, 401, 479)
        assert all(isinstance(value, str) for value in fields_of(command).values())


def test_every_frame_is_cut_byte_for_byte_as_it_was() -> None:
    for recorded in recorded_frames():
        reader = FrameReader()
        reader.feed(recorded.bytes)
        assert [frame(*one) for one in reader] == [recorded.bytes]


@pytest.mark.parametrize("cuts", ["one byte at a time", "anywhere"])
def test_the_frames_as_one_stream_may_be_cut_anywhere(cuts: str) -> None:
    frames = [recorded.bytes for recorded in recorded_frames()[:: 5 if cuts == "anywhere" else 20]]
    stream = b"".join(frames)
    seed = random.Random(4)
    reader = FrameReader()
    got: list[bytes] = []
    at = 0
    while at < len(stream):
        size = seed.choice((1, 2, 7, 100, 5000)) if cuts == "anywhere" else 1
        reader.feed(stream[at : at + size])
        got += (frame(*one) for one in reader)
        at += size
    assert got == frames


def test_typed_headers_say_what_the_recorded_fields_say() -> None:
    for recorded, cls in typed():
        command = decode(recorded)
        header = command.read(cls)
        fields = fields_of(command)
        written = to_text(header)
        if recorded.server == "5.3.3" and recorded.code in LATER_TOPIC:
            fields.pop("topic", None)
        known = cls.__struct_encode_fields__
        kept = {name: text for name, text in fields.items() if name in known or name not in LATER}
        defaults = {name: text for name, text in written.items() if name not in fields}
        assert {name: text for name, text in written.items() if name in fields} == kept, (cls, recorded)
        assert defaults == {}, (cls, recorded)


@pytest.mark.parametrize("serialization", list(Serialization))
def test_typed_headers_are_written_again_to_the_same_meaning(serialization: Serialization) -> None:
    for recorded, cls in typed():
        command = decode(recorded)
        header = command.read(cls)
        head = remoting.encode(
            command.code,
            command.flag,
            command.opaque,
            header=header,
            remark=command.remark,
            body_length=len(command.body),
            serialization=serialization,
        )
        reader = FrameReader()
        reader.feed(head + command.body)
        [one] = reader
        again = remoting.decode(*one)
        assert again.serialization == serialization
        assert (again.code, again.flag, again.opaque) == (command.code, command.flag, command.opaque)
        assert (again.remark or None, again.body) == (command.remark or None, command.body)
        assert again.read(cls) == header
        if serialization != Serialization.MSGPACK:
            assert fields_of(again) == to_text(header)
