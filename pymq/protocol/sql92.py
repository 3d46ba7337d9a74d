"""SQL92 filters on message properties (semantics.md §2.3).

    a BETWEEN 0 AND 3 AND region IN ('north', 'east') AND note IS NOT NULL

The grammar, the types and the logic of NULL are Apache's. An expression is compiled once, and evaluated for
each message. Two things are refused that Apache takes: what follows a complete expression (Apache passes over
it in silence, and with it maybe over half of the condition), and what is beyond the limits below.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from pymq.protocol import sql92_nodes as nodes
from pymq.protocol.properties import decode_properties
from pymq.protocol.sql92_nodes import NUMBERS, Kind, Node
from pymq.protocol.sql92_tokens import END, WRONG, Sql92Error, Token, tokenize
from pymq.protocol.sql92_values import INT_MAX, LONG_MAX, Unmatched

__all__ = ["SQL92", "Sql92Error", "Sql92Filter", "compile_sql92"]

SQL92 = "SQL92"
"""The expression type of a subscription."""

LENGTH_MAX = 32_768
"""Characters of an expression; Apache has no limit."""
DEPTH_MAX = 100
"""How deeply an expression may nest; Apache ends when its stack overflows. AND and OR chains do not count."""
_CACHED_CHARACTERS = 256 * 1024
"""Of all compiled expressions that are remembered."""

_ORDER_SIGNS = (">", ">=", "<", "<=")
_A_VALUE = 'expected a property, a value or "("'


class Sql92Filter:
    """A compiled expression.

    Attributes:
        expression: its text.
        cost: how many operations it has: the measure of the time that one evaluation takes.
    """

    __slots__ = ("_evaluate", "cost", "expression")

    def __init__(self, expression: str, node: Node) -> None:
        self.expression = expression
        self.cost = node.cost
        self._evaluate = node.evaluate

    def matches(self, properties: Mapping[str, str]) -> bool:
        """Whether a message with these properties is wanted: not when the result is NULL, or fails."""
        try:
            return self._evaluate(properties) is True
        except Unmatched:
            return False

    def matches_text(self, properties: str) -> bool:
        """As `matches`, of properties as they are stored."""
        return self.matches(decode_properties(properties))


class _Compiled:
    """The expressions compiled last, and the errors of those that are wrong; bounded by their characters."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._known: OrderedDict[str, Sql92Filter | Sql92Error] = OrderedDict()

    def get(self, expression: str) -> Sql92Filter | Sql92Error:
        """The filter, or what is wrong with it."""
        found = self._known.get(expression)
        if found is not None:
            self._known.move_to_end(expression)
            return found
        try:
            found = Sql92Filter(expression, _Parser(expression).parse())
        except Sql92Error as error:
            found = error.with_traceback(None)
        if len(expression) <= LENGTH_MAX:
            self._known[expression] = found
            self._size += len(expression)
            while self._size > self._limit:
                self._size -= len(self._known.popitem(last=False)[0])
        return found


_compiled = _Compiled(_CACHED_CHARACTERS)


def compile_sql92(expression: str) -> Sql92Filter:
    """Compile an expression, or take it from those compiled last.

    Raises Sql92Error, which points at the character, when it is none.
    """
    found = _compiled.get(expression)
    if isinstance(found, Sql92Error):
        raise Sql92Error(expression, found.position, found.reason)
    return found


class _Parser:
    """Recursive descent; each method reads one level of precedence, from OR down to a single value."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens: Iterator[Token] = iter(())
        self._token = self._next = Token(END, "", 0)
        self._nesting = 0

    def parse(self) -> Node:
        if len(self._expression) > LENGTH_MAX:
            raise self._error(LENGTH_MAX, f"it has more than {LENGTH_MAX} characters")
        self._tokens = tokenize(self._expression)
        self._advance()
        self._advance()
        if self._token.kind == END:
            raise self._error(0, "the expression is empty")
        node = self._condition(self._or())
        if self._token.kind != END and not self._is_comment():
            raise self._unexpected("expected AND, OR or the end")
        return node

    # -- words --------------------------------------------------------------------------------------

    def _advance(self) -> Token:
        token = self._token
        self._token = self._next
        self._next = next(self._tokens, self._next)
        if self._token.kind == WRONG:
            raise self._error(self._token.position, self._token.text)
        return token

    def _expect(self, kind: str, expected: str) -> Token:
        if self._token.kind != kind:
            raise self._unexpected(expected)
        return self._advance()

    def _is_comment(self) -> bool:
        return self._expression.startswith("--", self._token.position)

    def _error(self, position: int, reason: str) -> Sql92Error:
        return Sql92Error(self._expression, position, reason)

    def _unexpected(self, expected: str) -> Sql92Error:
        return self._error(self._token.position, f"{expected}, found {self._token}")

    def _bounded(self, node: Node) -> Node:
        if node.depth > DEPTH_MAX:
            raise self._too_deep(node.position)
        return node

    def _too_deep(self, position: int) -> Sql92Error:
        return self._error(position, f"it nests more than {DEPTH_MAX} deep")

    # -- AND, OR, NOT -------------------------------------------------------------------------------

    def _or(self) -> Node:
        return self._chain("OR", self._and)

    def _and(self) -> Node:
        return self._chain("AND", self._equality)

    def _chain(self, joint: str, term: Callable[[], Node]) -> Node:
        node = term()
        if self._token.kind != joint:
            return node
        terms = [self._condition(node)]
        while self._token.kind == joint:
            self._advance()
            terms.append(self._condition(term()))
        return self._bounded(nodes.joined(joint, terms))

    def _condition(self, node: Node) -> Node:
        if node.is_condition:
            return node
        if node.name is not None:
            return self._bounded(nodes.cast(node))
        raise self._error(node.position, "this is a value, where something true or false is needed")

    # -- comparisons --------------------------------------------------------------------------------

    def _equality(self) -> Node:
        node = self._comparison()
        while self._token.kind in ("=", "<>", "IS"):
            sign = self._advance()
            if sign.kind == "IS":
                node = self._is(node)
                continue
            node = self._equal(node, self._comparison())
            if sign.kind == "<>":
                node = self._bounded(nodes.inverted(node, node.position))
        return node

    def _is(self, node: Node) -> Node:
        is_not = self._token.kind == "NOT"
        if is_not:
            self._advance()
        null = self._expect("NULL", "expected NULL" if is_not else "expected NULL or NOT NULL")
        node = self._bounded(nodes.equal(node, nodes.literal(Kind.NOTHING, None, null.position)))
        return self._bounded(nodes.inverted(node, node.position)) if is_not else node

    def _equal(self, left: Node, right: Node) -> Node:
        for node in (left, right):
            if node.is_literal and node.kind is Kind.NOTHING:
                raise self._error(node.position, "NULL is equal to nothing: write IS NULL or IS NOT NULL")
        if left.is_literal and right.is_literal and left.is_condition and not right.is_condition:
            raise self._error(right.position, "TRUE and FALSE cannot be compared with this")
        return self._bounded(nodes.equal(left, right))

    def _comparison(self) -> Node:
        node = self._unary()
        while True:
            kind = self._token.kind
            if kind in _ORDER_SIGNS:
                self._advance()
                node = self._ordered(node, kind, self._unary())
                continue
            is_not = kind == "NOT"
            if is_not:
                kind = self._next.kind
                if kind not in ("BETWEEN", "IN"):
                    self._advance()
                    raise self._unexpected("expected BETWEEN or IN behind NOT")
            if kind == "BETWEEN":
                node = self._between(node, is_not)
            elif kind == "IN":
                node = self._in(node, is_not)
            else:
                return node

    def _ordered(self, left: Node, sign: str, right: Node) -> Node:
        for node in (left, right):
            if node.is_condition or (node.is_literal and node.kind not in NUMBERS):
                raise self._error(node.position, f"{sign} takes numbers and properties only")
        return self._bounded(nodes.ordered(left, sign, right))

    def _between(self, node: Node, is_not: bool) -> Node:
        if is_not:
            self._advance()
        self._advance()
        low = self._unary()
        self._expect("AND", "expected AND and the upper bound of BETWEEN")
        high = self._unary()
        if is_not:
            parts = self._ordered(node, "<", low), self._ordered(node, ">", high)
        else:
            parts = self._ordered(node, ">=", low), self._ordered(node, "<=", high)
            if low.is_literal and high.is_literal:
                backwards = nodes.ordered(high, "<", low).evaluate({})
                if backwards:
                    raise self._error(low.position, "the lower bound of BETWEEN is above the upper one")
        return self._bounded(nodes.joined("OR" if is_not else "AND", parts))

    def _in(self, node: Node, is_not: bool) -> Node:
        if node.name is None:
            raise self._error(node.position, "IN takes a property on its left")
        if is_not:
            self._advance()
        self._advance()
        self._expect("(", 'expected "(" and texts behind IN')
        texts = [self._text()]
        while self._token.kind == ",":
            self._advance()
            texts.append(self._text())
        self._expect(")", 'expected "," or ")"')
        return self._bounded(nodes.among(node, texts, is_in=not is_not))

    def _text(self) -> str:
        return _unquoted(self._expect("string", "expected a text in single quotes"))

    # -- values -------------------------------------------------------------------------------------

    def _unary(self) -> Node:
        token = self._token
        if token.kind not in ("+", "-", "NOT", "("):
            return self._value()
        self._nesting += 1
        if self._nesting > DEPTH_MAX:
            raise self._too_deep(token.position)
        self._advance()
        if token.kind == "(":
            node = self._or()
            self._expect(")", 'expected AND, OR or ")"')
        else:
            node = self._unary()
            if token.kind == "-":
                node = self._bounded(nodes.negated(node, token.position))
            elif token.kind == "NOT":
                node = self._bounded(nodes.inverted(self._condition(node), token.position))
        self._nesting -= 1
        return node

    def _value(self) -> Node:
        token = self._token
        match token.kind:
            case "name":
                node = nodes.named(token.text, token.position)
            case "string":
                node = nodes.literal(Kind.TEXT, _unquoted(token), token.position)
            case "decimal":
                node = self._decimal(token)
            case "float":
                node = self._float(token)
            case "TRUE" | "FALSE":
                node = nodes.literal(Kind.BOOLEAN, token.kind == "TRUE", token.position)
            case "NULL":
                node = nodes.literal(Kind.NOTHING, None, token.position)
            case _:
                raise self._unexpected(_A_VALUE)
        self._advance()
        return node

    def _decimal(self, token: Token) -> Node:
        digits = token.text.rstrip("lL")
        if len(digits) > len(str(LONG_MAX)) or int(digits) > LONG_MAX:
            raise self._error(token.position, f"the number is above {LONG_MAX}")
        value = int(digits)
        return nodes.literal(Kind.INT if value <= INT_MAX else Kind.LONG, value, token.position)

    def _float(self, token: Token) -> Node:
        value = float(token.text)
        if value == 0.0 or value == float("inf"):
            reason = "has to be above 0 (write 0 without a point)" if value == 0.0 else "is above 1.8E308"
            raise self._error(token.position, f"a number with a point or an exponent {reason}")
        return nodes.literal(Kind.DOUBLE, value, token.position)


def _unquoted(token: Token) -> str:
    return token.text[1:-1].replace("''", "'")
