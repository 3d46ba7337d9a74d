"""Conf files: Java's properties syntax, and typed values that remember where they came from.

The syntax is that of java.util.Properties, read as UTF-8. Two habits of people are
forgiven, with a warning that says what Apache would make of the line: a ` # comment` behind a value, and
blanks at its end. What would silently lose a setting stops the start: two settings on one line, a value of
the wrong type.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo, fields, replace

from pymq.errors import ConfigError
from pymq.java_properties import Entry, escape, parse_properties

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1

Count = Annotated[int, Meta(ge=0, le=INT_MAX)]
"""A Java int that may not be negative."""
Positive = Annotated[int, Meta(ge=1, le=INT_MAX)]
"""A Java int of at least one."""
Long = Annotated[int, Meta(ge=0, le=LONG_MAX)]
"""A Java long that may not be negative: bytes, timestamps."""
Port = Annotated[int, Meta(ge=0, le=65_535)]
"""A TCP port; 0 lets the system choose."""

SETTING_INSIDE = re.compile(r"[ \t\f]([A-Za-z]\w*)[ \t\f]*[=:]")


class InvalidValue(ValueError):
    """A value that cannot be used.

    Attributes:
        key: the key as it stands in the conf file.
        expected: what should have stood there.
    """

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(f"{key}: {expected}")
        self.key = key
        self.expected = expected


class Config(msgspec.Struct, rename="camel", kw_only=True):
    """Base of the typed configurations: a field is a key of the conf file, in Apache's spelling."""

    ALIASES: ClassVar[Mapping[str, str]] = {}
    """Other spellings of a key that Apache (of some version) takes too."""
    MISSPELLINGS: ClassVar[Mapping[str, str]] = {}
    """Spellings taken here that Apache ignores: a warning says so."""
    NO_EFFECT: ClassVar[Mapping[str, str]] = {}
    """Keys that are checked and shown, but change nothing in this version → why."""
    IGNORED: ClassVar[Mapping[str, str]] = {}
    """Keys of Apache that mean nothing here (thread counts and the like) → Apache's default.

    Whoever sets another value expects something of it: a warning says that nothing comes of it.
    """
    ENVIRONMENT: ClassVar[Mapping[str, str]] = {}
    """Environment variable → key whose default it gives."""

    def settle(self, warn: Callable[[str, str], None]) -> None:
        """Check what no single key shows, and correct what Apache corrects.

        `warn(key, text)` reports a correction. Raises InvalidValue.
        """


C = TypeVar("C", bound=Config)


@dataclass
class Loaded(Generic[C]):
    """A configuration, where each of its values came from, and what is to be told about it."""

    value: C
    origins: dict[str, str] = field(default_factory=dict)
    """key → where its value came from; keys at their default are absent."""
    warnings: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    """Keys of Apache that mean nothing here → the text given for them."""

    def origin(self, key: str) -> str:
        """Say where `key` was set: `default`, `FILE:LINE`, `environment NAME` or `command line`."""
        return self.origins.get(key, "default")

    def fill(self, key: str, text: str, origin: str) -> None:
        """Give a key that nobody set, and whose default is empty, its real value (a host's name, say)."""
        name = attribute(self.value, key)
        if not getattr(self.value, name):
            setattr(self.value, name, text)
            self.origins[key] = origin

    def describe(self) -> str:
        """Give the effective configuration, one `key=value  # origin` a line (what `-p` prints)."""
        lines = [(f"{key}={text}", self._origin_and_effect(key)) for key, text in settings(self.value)]
        lines += [
            (f"{key}={text}", f"{self.origin(key)}, ignored: pymq has no use for it")
            for key, text in self.ignored.items()
        ]
        width = min(max((len(setting) for setting, _ in lines), default=0), 60)
        return "\n".join(f"{setting:<{width}}  # {origin}" for setting, origin in lines)

    def _origin_and_effect(self, key: str) -> str:
        reason = self.value.NO_EFFECT.get(key)
        return self.origin(key) + (f", no effect in this version: {reason}" if reason else "")


def home(*parts: str) -> str:
    """Give a path under the user's home folder, Apache's place for what no key places."""
    return os.path.join(os.path.expanduser("~"), *parts)


def keys_with_values(text: str) -> dict[str, str]:
    """Read `key=value` pairs with blanks between them; a value may be empty."""
    return dict(pair.split("=", 1) for pair in text.split())


def absolute(path: str) -> str:
    """Give a path that no longer depends on the folder the process works in."""
    return os.path.abspath(path)


def split_addresses(text: str) -> list[str]:
    """Split `host:port;host:port`, dropping blanks and repeats. Raises ValueError for what is none."""
    addresses = [part.strip() for part in text.split(";") if part.strip()]
    for address in addresses:
        match = re.fullmatch(r"[^\s,/]+:([0-9]{1,5})", address)
        if match is None or not 0 < int(match[1]) < 65_536:
            raise ValueError(f"{address!r} is not host:port")
    return list(dict.fromkeys(addresses))


def load(
    cls: type[C],
    path: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Loaded[C]:
    """Make a configuration: defaults, then the environment, then the file, then the command line.

    Args:
        cls: the configuration's class.
        path: the conf file.
        overrides: settings of the command line, key → text.
        environment: the process environment; only the variables in `cls.ENVIRONMENT` count.

    Raises ConfigError, whose text names file, line, key and what was expected.
    """
    reading = _Reading(cls)
    for variable, key in cls.ENVIRONMENT.items():
        if (environment or {}).get(variable):
            reading.take(key, (environment or {})[variable], f"environment {variable}")
    if path is not None:
        reading.take_entries(parse_properties(_read(path), str(path)), str(path))
    for key, text in (overrides or {}).items():
        reading.take_override(key, text)
    return reading.settled()


def update(config: Config, text: str) -> dict[str, str]:
    """Change a running configuration by a properties text (requests 25 and 318): all of it, or nothing.

    Keys that are not known are left out, as Apache does. Gives the changed keys with their new values as
    text. Raises ConfigError.
    """
    reading = _Reading(type(config))
    reading.take_entries(parse_properties(text, "update"), "update")
    attributes = {reading.known[key].name: value for key, value in reading.values.items()}
    changed = replace(config, **attributes)
    reading.settle(changed)
    before, after = dict(settings(config)), dict(settings(changed))
    for info in fields(config):
        setattr(config, info.name, getattr(changed, info.name))
    return {key: value for key, value in after.items() if before[key] != value}


def settings(config: Config) -> Iterator[tuple[str, str]]:
    """Give each key and its value as the text that a conf file would hold."""
    for info in fields(config):
        yield info.encode_name, _text(getattr(config, info.name))


def attribute(config: Config, key: str) -> str:
    """Give the attribute that holds `key`. Raises KeyError."""
    return {info.encode_name: info.name for info in fields(config)}[key]


def properties_text(config: Config) -> str:
    """Give the whole configuration as a properties text, in ASCII (requests 26 and 319)."""
    return "".join(f"{key}={escape(text)}\n" for key, text in settings(config))


def _read(path: str | os.PathLike[str]) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the conf file {path}: {error.strerror or error}") from None
    # A comment in another encoding does no harm; a value in one is found when it is used.
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


class _Reading(Generic[C]):
    """The values gathered so far for one configuration."""

    def __init__(self, cls: type[C]) -> None:
        self.cls = cls
        self.known = {info.encode_name: info for info in fields(cls)}
        self.spellings = {key.lower() for key in (*self.known, *cls.ALIASES, *cls.MISSPELLINGS, *cls.IGNORED)}
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.ignored: dict[str, str] = {}
        self.warnings: list[str] = []

    def take_entries(self, entries: Iterable[Entry], source: str) -> None:
        seen: dict[str, Entry] = {}
        for entry in entries:
            where = f"{source}:{entry.line}"
            self._refuse_two_settings(entry, where)
            key = self._canonical(entry.key, where)
            if key is None:
                continue
            if key in seen:
                self.warnings.append(
                    f"{where}: {entry.key} was already set in line {seen[key].line}; "
                    f"this one, {entry.value!r}, is taken"
                )
            seen[key] = entry
            if entry.value != entry.apache_value and key in self.known:
                self.warnings.append(f"{where}: {_leniency(self.known[key], entry)}")
            self.take(key, entry.value, where)

    def take(self, key: str, text: str, origin: str) -> None:
        self.origins[key] = origin
        if key in self.cls.IGNORED:
            self.ignored[key] = text
            return
        try:
            self.values[key] = _convert(self.known[key], text)
        except InvalidValue as error:
            raise ConfigError(f"{origin}: {key}: expected {error.expected}, got {text!r}") from None
        self.texts[key] = text

    def take_override(self, key: str, text: str) -> None:
        """Take a setting of the command line; a key that is not known there is a mistake, not a warning."""
        known = self._canonical(key, "command line")
        if known is None:
            raise ConfigError(self.warnings[-1])
        self.take(known, text, "command line")

    def settled(self) -> Loaded[C]:
        value = self.cls(**{self.known[key].name: item for key, item in self.values.items()})
        self.settle(value)
        for key, reason in self.cls.NO_EFFECT.items():
            if key in self.origins:
                self.warnings.append(f"{self.origins[key]}: {key} has no effect in this version: {reason}")
        for key, text in self.ignored.items():
            if text.strip().lower() != self.cls.IGNORED[key].lower():
                self.warnings.append(f"{self.origins[key]}: {key} has no effect: pymq has no use for it")
        return Loaded(value, self.origins, self.warnings, self.ignored)

    def settle(self, value: Config) -> None:
        def warn(key: str, text: str) -> None:
            self.warnings.append(f"{self.origins.get(key, 'default')}: {key}: {text}")

        try:
            value.settle(warn)
        except InvalidValue as error:
            got = f", got {self.texts[error.key]!r}" if error.key in self.texts else ""
            where = self.origins.get(error.key, "default")
            raise ConfigError(f"{where}: {error.key}: expected {error.expected}{got}") from None

    def _refuse_two_settings(self, entry: Entry, where: str) -> None:
        for match in SETTING_INSIDE.finditer(entry.value):
            if match[1].lower() in self.spellings:
                raise ConfigError(
                    f"{where}: two settings on one line, {entry.key} and {match[1]}: "
                    f"expected {entry.key}=… and {match[1]}=… on lines of their own"
                )

    def _canonical(self, key: str, where: str) -> str | None:
        if key in self.known or key in self.cls.IGNORED:
            return key
        if key in self.cls.ALIASES:
            return self.cls.ALIASES[key]
        if key in self.cls.MISSPELLINGS:
            right = self.cls.MISSPELLINGS[key]
            self.warnings.append(f"{where}: {key} is read as {right}; Apache ignores this spelling")
            return right
        self.warnings.append(f"{where}: unknown key {key}{self._nearest(key)}")
        return None

    def _nearest(self, key: str) -> str:
        by_lower = {known.lower(): known for known in (*self.known, *self.cls.IGNORED)}
        near = difflib.get_close_matches(key.lower(), by_lower, n=1, cutoff=0.6)
        return f": did you mean {by_lower[near[0]]}?" if near else ", and no known one is like it"


def _convert(info: FieldInfo, text: str) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue(info.encode_name, "a value in UTF-8") from None
    if "\0" in text:
        raise InvalidValue(info.encode_name, "a value without NUL")
    kind = _kind(info)
    value: object = text
    if kind is int:
        # Exactly what Integer.parseInt takes: int() alone would also take blanks, 5_000 and other digits.
        value = int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else text
    elif kind is bool:
        value = {"true": True, "false": False}.get(text.lower(), text)
    try:
        return msgspec.convert(value, info.type)
    except msgspec.ValidationError:
        raise InvalidValue(info.encode_name, _expected(info)) from None


def _kind(info: FieldInfo) -> type:
    kind = getattr(info.type, "__origin__", info.type)
    assert isinstance(kind, type)
    return kind


def _expected(info: FieldInfo) -> str:
    kind = msgspec.inspect.type_info(info.type)
    match kind:
        case msgspec.inspect.IntType():
            return f"a whole number from {kind.ge} to {kind.le}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.EnumType():
            return "one of " + ", ".join(str(item.value) for item in kind.cls)
        case _:
            return "a text"


def _leniency(info: FieldInfo, entry: Entry) -> str:
    """Say what was cut from a value, and what Apache makes of it (store.md §11)."""
    comment = entry.apache_value[len(entry.value) :].strip()
    cut = f"the comment {comment!r}" if comment else "blanks at the end"
    default = "" if info.default is msgspec.NODEFAULT else _text(info.default)
    kind = _kind(info)
    if kind is bool:
        apache = "Apache would read the value as false"
    elif kind is int or issubclass(kind, Enum):
        apache = f"Apache would drop the whole line without a word and use its default, {default}"
    else:
        apache = f"Apache would keep it, as part of the value: {entry.apache_value!r}"
    return f"{entry.key}: {cut} cut off, the value is {entry.value!r}. {apache}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value.value if isinstance(value, Enum) else value)
