"""SQL92 filters: what they mean, what is refused and where, and that no expression does harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from pymq.protocol import sql92
from pymq.protocol.sql92 import DEPTH_MAX, LENGTH_MAX, Sql92Error, compile_sql92
from pymq.protocol.sql92_values import Unmatched
from tests.protocol.sql92_cases import read_golden

IS_STRICTER = "expected AND, OR or the end"
"""Java ends reading at the first word that does not go on with the expression."""

CHOSEN = (
    """
a = 5|a = '5'|a >= 5.0|a > 5 OR TRUE|TRUE OR a > 5|b IS NULL|b IS NOT NULL|flag = TRUE|TRUE = flag|b = c
missing = c|c = missing|missing <> c|c <> missing
missing <> missing|TAGS = 'tg'|NOT (b = 1)|NOT b = 1|flag|NOT flag
a > b|a < b|a <= b|b >= a|a = b|a > '3'|a BETWEEN 0 AND 7|a NOT BETWEEN 0 AND 7|a BETWEEN b AND 7
a BETWEEN 7 AND 0|a NOT BETWEEN 7 AND 0|a BETWEEN -1 AND -5|a BETWEEN 1 AND NULL|5 BETWEEN a AND 9
a BETWEEN '1' AND '2'|a BETWEEN TRUE AND TRUE|a IN ('5', 'x')|a NOT IN ('5', 'x')|(a) IN ('5')|5 IN ('5')
a IN (5)|a IN ()|missing IN ('5')|missing NOT IN ('5')|-a IN ('5')|NULL|NULL IS NULL|5 IS NULL|a = NULL
a IS TRUE|TRUE|FALSE|5|'x'|-a|+a|-TRUE IS NULL|a = -5|a = - 5|a = --5|a = -(-5)|a = - - 5|a > -'x'
a > TRUE|TRUE = 5|5 = TRUE|TRUE = TRUE|'true' = TRUE|TRUE = 'true'|5 = 5L|5 = 5.0|'5' = 5|5.0 = '5'
(a = 5) = TRUE|(a = 5) = (b = 'x')|a = 5 = TRUE|a = 5 <> FALSE|a > 5 > 3|a = 1 AND b|a AND b|NOT NOT a|not a
9007199254740993 = 9007199254740992.0|a > 9223372036854775807|a > 9223372036854775808|a = -9223372036854775807
a = 5 -- five|a = 5 -- five\n|-- five\na = 5|a /* or b */ = 5|a = /* 5|a = 5 /* ** */|a = 5 /*/|a=5 b=6|a = 5)
A = 5|Flag = TRUE|a = 'x|a = x'|a = 'it''s'|a = '|a = ''''|_u$ = 5.5|_u$ > .5|a = 1E3|c = 1e3|a = 5.|a > 1E400
a > 0.0|a > 1e-400|a = 0|a = -0|a > 00|a > 0L|c = 5.0D|a == 5|a != 5|a <> 5|a => 5
a LIKE '5'|a = "5"|a & b|é = 5
AND|a AND|a OR OR b|(a|a)|()|a IS|a IS NOT|a NOT|a NOT NULL|a BETWEEN 1|a BETWEEN 1 AND|a BETWEEN 1 OR 2
a IN ('5'|a IN ('5',)|a = (5)|a = (b)|(a = 5) AND (b = 'x' OR (c IS NULL AND NOT (flag = TRUE)))|a > b AND c
""".replace("\n", "|")
    .replace("\\n", "\n")
    .strip("|")
    .split("|")
)


def outcome(expression: str, messages: Sequence[Mapping[str, str]]) -> str | None:
    """What pymq makes of an expression, in the letters of the golden table."""
    try:
        compiled = compile_sql92(expression)
    except Sql92Error:
        return None
    letters = ""
    for properties in messages:
        try:
            letters += {True: "t", False: "f", None: "n"}[compiled._evaluate(properties)]  # type: ignore[index]
        except Unmatched:
            letters += "e"
    return letters


def test_every_expression_means_what_rocketmq_makes_of_it() -> None:
    messages, lines = read_golden()
    different = []
    for line in lines:
        ours = outcome(line.expression, messages)
        if ours != line.results and not (ours is None and refusal(line.expression).startswith(IS_STRICTER)):
            different.append((line, ours))
    assert not different, f"{len(different)} of {len(lines)}: {different[:5]}"
    assert sum(line.results is None for line in lines) > 100
    assert sum("t" in (line.results or "") for line in lines) > 100


def refusal(expression: str) -> str:
    with pytest.raises(Sql92Error) as refused:
        compile_sql92(expression)
    return refused.value.reason


@pytest.mark.parametrize(
    ("expression", "position", "said"),
    [
        ("a > > 1", 4, 'expected a property, a value or "(", found ">" [a > ^> 1]'),
        ("a = 1 b = 2", 6, 'expected AND, OR or the end, found "b" [a = 1 ^b = 2]'),
        ("(a = 1 OR b", 11, 'expected AND, OR or ")", found the end [(a = 1 OR b^]'),
        ("a = 'x AND b = 1", 4, "a text that does not end: the closing ' is missing [a = ^'x AND b = 1]"),
        ("a = 1 /* b", 6, "a comment that does not end: */ is missing [a = 1 ^/* b]"),
        ("a = 1 & b = 2", 6, "'&' means nothing here [a = 1 ^& b = 2]"),
        ("a > 'x'", 4, "> takes numbers and properties only [a > ^'x']"),
        ("a BETWEEN 3 AND 1", 10, "the lower bound of BETWEEN is above the upper one [a BETWEEN ^3 AND 1]"),
        (
            "a BETWEEN 3 OR 1",
            12,
            'expected AND and the upper bound of BETWEEN, found "OR" [a BETWEEN 3 ^OR 1]',
        ),
        ("a IN (1)", 6, 'expected a text in single quotes, found "1" [a IN (^1)]'),
        ("5 IN ('a')", 0, "IN takes a property on its left [^5 IN ('a')]"),
        ("a = NULL", 4, "NULL is equal to nothing: write IS NULL or IS NOT NULL [a = ^NULL]"),
        ("a IS 5", 5, 'expected NULL or NOT NULL, found "5" [a IS ^5]'),
        ("a AND 'x'", 6, "this is a value, where something true or false is needed [a AND ^'x']"),
        ("a = 9223372036854775808", 4, "the number is above 9223372036854775807 [a = ^9223372036854775808]"),
        (
            "a > 0.0",
            4,
            "a number with a point or an exponent has to be above 0 (write 0 without a point) [a > ^0.0]",
        ),
        ("  ", 0, "the expression is empty [^]"),
    ],
)
def test_an_error_says_what_is_wrong_and_marks_where(expression: str, position: int, said: str) -> None:
    with pytest.raises(Sql92Error) as refused:
        compile_sql92(expression)
    assert refused.value.position == position
    assert str(refused.value) == f"SQL92 filter, character {position + 1}: {said}"


def test_an_error_in_a_long_expression_quotes_only_what_is_near() -> None:
    expression = " AND ".join(["alpha = 1"] * 50 + ["= beta"] + ["gamma = 2"] * 50)
    with pytest.raises(Sql92Error) as refused:
        compile_sql92(expression)
    assert str(refused.value).endswith("[...D alpha = 1 AND alpha = 1 AND ^= beta AND gamma = 2...]")


def test_an_expression_is_compiled_once_and_a_wrong_one_refused_once_for_all() -> None:
    assert compile_sql92("remembered = 1") is compile_sql92("remembered = 1")
    for _ in range(2):
        with pytest.raises(Sql92Error, match="character 14"):
            compile_sql92("remembered = = 1")


@pytest.mark.parametrize("pattern", ["({})", "NOT {}", "- {}", "+{}", "a = {}", "NOT ({})"])
def test_an_expression_that_nests_too_deep_is_refused_and_one_that_does_not_is_not(pattern: str) -> None:
    def nested(depth: int) -> str:
        expression = "a"
        for _ in range(depth):
            expression = pattern.format(expression)
        return f"b = 1 OR ({expression}) IS NULL"

    assert compile_sql92(nested(DEPTH_MAX // 2 - 3)).matches({"b": "1"})
    assert "nests" in refusal(nested(DEPTH_MAX + 1))
    assert "nests" in refusal(nested(4000))


def test_long_chains_are_no_nesting() -> None:
    flat = " OR ".join(f"a = {n}" for n in range(2000))
    brackets = "(" * 90 + "a = 0" + "".join(f" OR a = {n})" for n in range(1, 91))
    for expression in (flat, brackets, flat.replace("OR", "AND").replace("= ", "<> ")):
        compiled = compile_sql92(expression)
        assert compiled.matches({"a": "90"}) is ("OR" in expression)
        assert compiled.matches({"a": "-1"}) is ("AND" in expression)


def test_an_expression_has_a_length_limit() -> None:
    fits = "a = '" + "x" * (LENGTH_MAX - 6) + "'"
    assert compile_sql92(fits).matches({"a": "x" * (LENGTH_MAX - 6)})
    assert "more than 32768 characters" in refusal(fits + " ")


def test_what_is_remembered_is_bounded() -> None:
    compiled = sql92._Compiled(limit=1000)
    for number in range(500):
        compiled.get(f"a = {number}")
        compiled.get(f"a = = {number}")
    assert compiled._size <= 1000
    assert sum(map(len, compiled._known)) == compiled._size
    assert "a = 499" in compiled._known
    assert "a = 0" not in compiled._known


def test_the_cost_grows_with_the_expression() -> None:
    short, long = compile_sql92("a = 1"), compile_sql92(" AND ".join(["a = 1"] * 100))
    assert short.cost < 5
    assert 200 < long.cost < 400


def test_numbers_in_properties_of_any_length_are_read() -> None:
    compiled = compile_sql92("a = 5")
    assert compiled.matches({"a": "0" * 30_000 + "5"})
    assert not compiled.matches({"a": "5" * 30_000})
    assert not compile_sql92("a > 1.5").matches({"a": "x" * 30_000})


def test_digits_of_any_script_are_digits_as_far_as_java_sees_them() -> None:
    compiled = compile_sql92("a = 5")
    assert compiled.matches({"a": "５"})
    assert not compiled.matches({"a": "\N{MATHEMATICAL DOUBLE-STRUCK DIGIT FIVE}"})  # of two chars in Java


def test_a_comment_may_end_with_the_expression() -> None:
    for expression in ("a = 5 -- it's five", "a = 5 -- five\n", "a = 5 /* five */", "-- five\na = 5"):
        assert compile_sql92(expression).matches({"a": "5"})
    assert compile_sql92("a = --5").matches({"a": "5"})  # two signs, as Apache has it
