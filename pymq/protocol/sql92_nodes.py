"""What SQL92 filters are made of: closures over a message's properties (semantics.md §2.3).

The kind of each operand is known before any message is seen (a property is a text, always), so each closure
holds just the conversion that its two kinds need. Three-valued: `None` is SQL's NULL.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pymq.protocol.sql92_values import (
    INT_MAX,
    LONG_MAX,
    Unmatched,
    compare_doubles,
    java_double,
    java_integer,
)

Value = str | bool | int | float | None
Evaluate = Callable[[Mapping[str, str]], Value]
"""The value for a message's properties. Raises Unmatched."""


class Kind(enum.Enum):
    """The Java type of a value that is not NULL."""

    TEXT = "text"
    INT = "int"
    LONG = "long"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    NOTHING = "nothing"
    """It is always NULL."""


NUMBERS = (Kind.INT, Kind.LONG, Kind.DOUBLE)


class Node(msgspec.Struct, gc=False):
    """A part of an expression.

    `position`: where it begins. `is_literal` and `is_condition` are what Apache's classes ConstantExpression
    and BooleanExpression say: a negative number is no literal to it, and NULL is a condition.
    """

    kind: Kind
    evaluate: Evaluate
    position: int
    is_literal: bool = False
    is_condition: bool = False
    name: str | None = None
    """The property, when it is just one."""
    depth: int = 1
    """How deeply closures call each other."""
    cost: int = 1
    """How many closures there are."""
    joint: str = ""
    """AND or OR, with the terms that it joins."""
    terms: Sequence[Node] = ()


def literal(kind: Kind, value: Value, position: int) -> Node:
    """A constant."""
    is_condition = kind in (Kind.BOOLEAN, Kind.NOTHING)
    return Node(kind, lambda properties: value, position, is_literal=True, is_condition=is_condition)


def named(name: str, position: int) -> Node:
    """A property of the message."""
    return Node(Kind.TEXT, lambda properties: properties.get(name), position, name=name)


def cast(node: Node) -> Node:
    """A property where a condition is needed: texts are no booleans, so it is never true."""
    evaluate = node.evaluate
    return _condition(node.position, lambda properties: None if evaluate(properties) is None else False, node)


def negated(node: Node, position: int) -> Node:
    """The number with the other sign; of anything else NULL."""
    evaluate = node.evaluate
    if node.kind in NUMBERS:
        value: Any = evaluate({})
        return msgspec.structs.replace(
            literal(node.kind, -value, position), is_literal=False, depth=node.depth + 1
        )

    def nothing(properties: Mapping[str, str]) -> None:
        evaluate(properties)

    return Node(Kind.NOTHING, nothing, position, depth=node.depth + 1, cost=node.cost + 1)


def inverted(node: Node, position: int) -> Node:
    """NOT."""
    evaluate = node.evaluate

    def invert(properties: Mapping[str, str]) -> bool | None:
        value = evaluate(properties)
        return None if value is None else not value

    return _condition(position, invert, node)


def joined(joint: str, nodes: Sequence[Node]) -> Node:
    """AND, or OR. Nested ones of a kind become one: neither the result nor what is evaluated changes."""
    terms = [term for node in nodes for term in (node.terms if node.joint == joint else (node,))]
    evaluates = tuple(term.evaluate for term in terms)
    deciding = joint == "OR"

    def join(properties: Mapping[str, str]) -> bool | None:
        result: bool | None = not deciding
        for evaluate in evaluates:
            value = evaluate(properties)
            if value is deciding:
                return deciding
            if value is None:
                result = None
        return result

    node = _condition(terms[0].position, join, *terms)
    node.joint, node.terms = joint, terms
    return node


def among(node: Node, texts: Sequence[str], is_in: bool) -> Node:
    """IN, or NOT IN."""
    evaluate, wanted = node.evaluate, frozenset(texts)

    def contains(properties: Mapping[str, str]) -> bool | None:
        value = evaluate(properties)
        return None if value is None else (value in wanted) is is_in

    return _condition(node.position, contains, node)


def equal(left: Node, right: Node) -> Node:
    """Whether two values are equal. NULL on the left gives NULL, on the right false, on both true."""
    first, second, same = left.evaluate, right.evaluate, _sameness(left.kind, right.kind)

    def equals(properties: Mapping[str, str]) -> bool | None:
        a, b = first(properties), second(properties)
        if a is None:
            return True if b is None else None
        return False if b is None else same(a, b)

    return _condition(left.position, equals, left, right)


def ordered(left: Node, sign: str, right: Node) -> Node:
    """How two numbers stand to each other; of two properties both have to be numbers. NULL gives NULL."""
    first, second = left.evaluate, right.evaluate
    order, holds = _order(left.kind, right.kind), _HOLDS[sign]

    def compares(properties: Mapping[str, str]) -> bool | None:
        a = first(properties)
        if a is None:
            return None
        b = second(properties)
        return None if b is None else holds(order(a, b), 0)

    return _condition(left.position, compares, left, right)


_HOLDS: dict[str, Callable[[int, int], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def _condition(position: int, evaluate: Evaluate, *parts: Node) -> Node:
    depth = 1 + max(part.depth for part in parts)
    cost = 1 + sum(part.cost for part in parts)
    return Node(Kind.BOOLEAN, evaluate, position, is_condition=True, depth=depth, cost=cost)


_READ: dict[Kind, Callable[[str], Any]] = {
    Kind.INT: lambda text: java_integer(text, INT_MAX),
    Kind.LONG: lambda text: java_integer(text, LONG_MAX),
    Kind.DOUBLE: java_double,
}
"""A text as the number that it is compared with."""


def _sameness(left: Kind, right: Kind) -> Callable[[Any, Any], bool]:
    if Kind.BOOLEAN in (left, right):
        if left is right:
            return operator.eq
        if left is Kind.TEXT:
            return lambda a, b: (a.lower() == "true") is b
        return _text_as_condition if right is Kind.TEXT else lambda a, b: False
    if left is right is Kind.TEXT:
        return operator.eq
    order = _order(left, right)
    return lambda a, b: order(a, b) == 0


def _text_as_condition(left: bool, right: str) -> bool:
    """Apache fails where a condition stands before the text."""
    raise Unmatched


def _order(left: Kind, right: Kind) -> Callable[[Any, Any], int]:
    """Less than 0, 0 or more than 0: the order of two values that are not NULL."""
    if left is right is Kind.TEXT:
        return lambda a, b: compare_doubles(java_double(a), java_double(b))
    order = compare_doubles if Kind.DOUBLE in (left, right) else _compare_integers
    if left is Kind.TEXT:
        read = _READ.get(right)
        return _never if read is None else lambda a, b: order(read(a), b)
    if right is Kind.TEXT:
        read_right = _READ.get(left)
        return _never if read_right is None else lambda a, b: order(a, read_right(b))
    if Kind.DOUBLE in (left, right):
        return lambda a, b: compare_doubles(float(a), float(b))
    return order


def _compare_integers(a: int, b: int) -> int:
    return (a > b) - (a < b)


def _never(a: object, b: object) -> int:
    """Stands where one side is always NULL."""
    raise Unmatched
