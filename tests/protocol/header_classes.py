"""Every header class there is, and a Hypothesis strategy for each, made from its annotations."""

from __future__ import annotations

import types
import typing
from typing import Any

from hypothesis import strategies as st

from pymq.protocol.header import Flag, Header, Int, Long
from pymq.protocol.headers import administration, groups, messaging, naming
from pymq.protocol.headers.messaging import SendMessageResponse

MODULES = (administration, groups, messaging, naming)

HEADER_CLASSES: list[type[Header]] = [
    member
    for module in MODULES
    for member in vars(module).values()
    if isinstance(member, type) and issubclass(member, Header) and member.__module__ == module.__name__
]

REQUESTS: dict[int, type[Header]] = {int(cls.code): cls for cls in HEADER_CLASSES if hasattr(cls, "code")}

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

_BY_KIND: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    bool: st.booleans(),
    Flag: st.sampled_from(("true", "false")),
    Int: st.integers(-(2**31), 2**31 - 1),
    Long: st.integers(-(2**63), 2**63 - 1),
    type(None): st.none(),
}

# Written without quoting, since the broker makes them itself.
_SPECIAL: dict[type[Header], dict[str, st.SearchStrategy[Any]]] = {
    SendMessageResponse: {
        "msg_id": st.text("0123456789ABCDEF,", max_size=70),
        "trace_on": st.sampled_from(("true", "false")),
    }
}


def field_kinds(cls: type[Header]) -> dict[str, tuple[Any, ...]]:
    """Field name → what its values may be: str, bool, Flag, Int, Long, NoneType."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: _parts(hints[name]) for name in cls.__struct_fields__}


def _parts(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def headers_of(cls: type[Header]) -> st.SearchStrategy[Header]:
    """Any header of this class."""
    fields = {
        name: st.one_of(*(_BY_KIND[kind] for kind in kinds)) for name, kinds in field_kinds(cls).items()
    }
    return st.builds(cls, **{**fields, **_SPECIAL.get(cls, {})})


def wire_name(cls: type[Header], name: str) -> str:
    """The field's name on the wire."""
    return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))[name]
