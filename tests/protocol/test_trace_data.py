"""Trace data, as each version of Java's client writes it, and as it is written here."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.protocol.trace_data import (
    ConsumeReturnType,
    EndTransaction,
    MessageType,
    Pub,
    Recall,
    SubAfter,
    SubBefore,
    TraceData,
    TraceRecord,
    decode_trace,
    encode_trace,
    trace_keys,
)

ID = "0A00000100002A139DB57E014E0E2F2A99AE0F590009"
REQUEST = "0A00000100002A139DB57E014E0E2F2A99AE12A6000B"
OFFSET_ID = "7F000001000075900000000000000000"


def wire(text: str) -> bytes:
    """Trace data with its separators written as ^ and ~."""
    return text.replace("^", "\x01").replace("~", "\x02").encode()


PUB = Pub(
    1796069521241, "DefaultRegion", "shop", "orders", ID, "t", "k-1 all", "127.0.0.1:30096", 4, 328,
    MessageType.NORMAL, OFFSET_ID, True,
)  # fmt: skip
BEFORE = SubBefore(1796069522086, None, "billing", REQUEST, ID, 0, "k-1 all")
AFTER = SubAfter(REQUEST, ID, 6, False, "k-1 all", ConsumeReturnType.FAILED, 1796069522092, "billing")
END = EndTransaction(
    1796069527001, "DefaultRegion", "deals", "orders", ID, None, "k-1", "127.0.0.1:30096", MessageType.COMMIT,
    ID, "ROLLBACK_MESSAGE", False,
)  # fmt: skip

PUB_TEXT = (
    f"Pub^1796069521241^DefaultRegion^shop^orders^{ID}^t^k-1 all^127.0.0.1:30096^4^328^0^{OFFSET_ID}^true~"
)
BEFORE_TEXT = f"SubBefore^1796069522086^null^billing^{REQUEST}^{ID}^0^k-1 all~"
AFTER_TEXT = f"SubAfter^{REQUEST}^{ID}^6^false^k-1 all^4^1796069522092^billing~"
END_TEXT = (
    f"EndTransaction^1796069527001^DefaultRegion^deals^orders^{ID}^null^k-1^127.0.0.1:30096^2^{ID}"
    "^ROLLBACK_MESSAGE^false~"
)

BOTH_WAYS: list[tuple[str, list[TraceRecord]]] = [
    (PUB_TEXT, [PUB]),
    (BEFORE_TEXT + AFTER_TEXT, [BEFORE, AFTER]),
    (END_TEXT, [END]),
    (
        PUB_TEXT.replace("^t^k-1 all^", "^null^null^"),
        [msgspec.structs.replace(PUB, tags=None, keys=None)],
    ),
]
"""As 4.9.4 writes it (recorded from its clients, names and ids changed), and what it says."""


@pytest.mark.parametrize(("text", "records"), BOTH_WAYS)
def test_what_4_9_4_writes_is_read_and_written(text: str, records: list[TraceRecord]) -> None:
    assert decode_trace(wire(text)) == TraceData(records, 0)
    assert encode_trace(records).encode() == wire(text)


_PUB = "Pub^1796069522086^DefaultRegion^g^orders^ID^t^k-1 all^10.0.0.9:10911^4^6^0^OFF^true"
_BEFORE = "SubBefore^1796069522086^DefaultRegion^g^REQUEST^ID^1^k-1 all"
_AFTER = "SubAfter^REQUEST^ID^6^true^k-1 all^4"
SENT = Pub(
    1796069522086, "DefaultRegion", "g", "orders", "ID", "t", "k-1 all", "10.0.0.9:10911", 4, 6, 0, "OFF",
    True,
)  # fmt: skip
BEGUN = SubBefore(1796069522086, "DefaultRegion", "g", "REQUEST", "ID", 1, "k-1 all")
ENDED = SubAfter("REQUEST", "ID", 6, True, "k-1 all", 4, 1796069522086, "g")
UNTIMED = msgspec.structs.replace(ENDED, time_ms=None, group=None)


@pytest.mark.parametrize(
    ("version", "text", "records"),
    [
        ("4.4.0, 4.7.1", f"{_PUB}~{_BEFORE}~{_AFTER}~", [SENT, BEGUN, UNTIMED]),
        (
            "4.8.0",
            f"{_PUB}^10.0.0.1~{_BEFORE}^10.0.0.1~{_AFTER}^1796069522086^g~",
            [
                msgspec.structs.replace(SENT, client_host="10.0.0.1"),
                msgspec.structs.replace(BEGUN, client_host="10.0.0.1"),
                ENDED,
            ],
        ),
        (
            "5.3.3",
            f"{_PUB}~Recall^1796069522086^DefaultRegion^g^orders^ID^true~{_BEFORE}~{_AFTER}^1796069522086^g~",
            [SENT, Recall(1796069522086, "DefaultRegion", "g", "orders", "ID", True), BEGUN, ENDED],
        ),
        ("5.3.3 for the cloud", f"{_AFTER}^~", [UNTIMED]),
    ],
)
def test_what_other_versions_write_is_read(version: str, text: str, records: list[TraceRecord]) -> None:
    """The texts are what the TraceDataEncoder of each version gave for the same message."""
    assert decode_trace(wire(text)) == TraceData(records, 0)


@pytest.mark.parametrize(
    ("text", "record"),
    [
        # Java's decoder knows a Pub without the broker's id and a SubAfter without a reason.
        (_PUB.replace("^OFF", ""), msgspec.structs.replace(SENT, offset_msg_id=None)),
        (_AFTER.removesuffix("^4"), msgspec.structs.replace(UNTIMED, context_code=None)),
        # 5.x has a kind of message that 4.x does not have; a later one may have others.
        (_PUB.replace("^6^0^", "^6^4^"), msgspec.structs.replace(SENT, msg_type=MessageType.ORDER)),
        (_PUB.replace("^6^0^", "^6^9^"), msgspec.structs.replace(SENT, msg_type=9)),
        # Java writes a message's keys as they are, also when they are empty.
        (_BEFORE.removesuffix("k-1 all"), msgspec.structs.replace(BEGUN, keys=None)),
        (_PUB.replace("true", "TRUE"), SENT),
    ],
)
def test_what_java_could_read_is_read(text: str, record: TraceRecord) -> None:
    assert decode_trace(wire(text + "~")) == TraceData([record], 0)


def test_damaged_and_unknown_records_are_counted_and_cost_no_others() -> None:
    damaged = [
        "Pub^x^~",
        PUB_TEXT.replace("^328^", "^^"),
        f"SubAfter^{REQUEST}~",
        "Unheard^of~",
        "~~",
        "\xff~",
    ]
    assert decode_trace(wire("".join([PUB_TEXT, *damaged, END_TEXT]))) == TraceData([PUB, END], 5)
    assert decode_trace(b"") == TraceData([], 0)


@given(st.binary() | st.text("PubSAfter^~01truenll", max_size=200).map(wire))
def test_nothing_that_a_stranger_stores_raises(body: bytes) -> None:
    decode_trace(body)


TEXT = st.text(
    st.characters(blacklist_characters="\x01\x02", blacklist_categories=["Cs"]), min_size=1
).filter(lambda text: text != "null")
OPTIONAL = st.none() | TEXT
NUMBER = st.integers(0, 2**63 - 1)
ANY_RECORD = st.lists(
    st.one_of(
        st.builds(
            Pub, NUMBER, OPTIONAL, OPTIONAL, OPTIONAL, TEXT, OPTIONAL, OPTIONAL, OPTIONAL, NUMBER, NUMBER,
            st.sampled_from(MessageType), OPTIONAL, st.booleans(),
        ),
        st.builds(SubBefore, NUMBER, OPTIONAL, OPTIONAL, TEXT, TEXT, NUMBER, OPTIONAL),
        st.builds(
            SubAfter, TEXT, TEXT, NUMBER, st.booleans(), OPTIONAL, st.sampled_from(ConsumeReturnType), NUMBER,
            OPTIONAL,
        ),
        st.builds(
            EndTransaction, NUMBER, OPTIONAL, OPTIONAL, OPTIONAL, TEXT, OPTIONAL, OPTIONAL, OPTIONAL,
            st.sampled_from(MessageType), OPTIONAL, TEXT, st.booleans(),
        ),
        st.builds(Recall, NUMBER, OPTIONAL, OPTIONAL, OPTIONAL, TEXT, st.booleans()),
    )
)  # fmt: skip


@given(ANY_RECORD)
def test_what_is_written_is_read(records: list[TraceRecord]) -> None:
    assert decode_trace(encode_trace(records).encode()) == TraceData(records, 0)


@given(ANY_RECORD)
def test_java_finds_a_last_field_that_is_not_empty(records: list[TraceRecord]) -> None:
    """Its split loses empty fields at a record's end, and then it fails."""
    assert "\x01\x02" not in encode_trace(records)


def test_a_record_is_found_by_its_messages_id_and_keys() -> None:
    assert trace_keys(PUB) == [ID, "k-1", "all"]
    assert trace_keys(msgspec.structs.replace(PUB, keys=None)) == [ID]
    assert trace_keys(Recall(0, None, None, None, ID, True)) == [ID]
