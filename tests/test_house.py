"""The house rules: who may import whom, and who may touch the outside world.

They are read off the source, so that a broken rule names its file and line.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("namesrv", "broker", "client")
HANDS = ("cli", "console", "admin", "testing")
DISK = ("disk", "disk_calls", "disk_files", "disk_lock", "disk_threads", "dry_disk", "system_disk")
LEAVES = (*DISK, "clock", "network", "config", "java_properties", "errors")

MAY_IMPORT: dict[str, set[str]] = {
    "leaves": set(),
    "protocol": {"leaves"},
    "transport": {"protocol", "leaves"},
    "store": {"protocol", "leaves"},
    "namesrv": {"transport", "protocol", "leaves"},
    "broker": {"store", "transport", "protocol", "leaves"},
    "client": {"transport", "protocol", "leaves"},
    **{
        hand: {"front", "cli", *PROGRAMS, "store", "transport", "protocol", "leaves"} - {hand}
        for hand in HANDS
    },
    "front": {"client", "cli", "leaves"},
}
"""Room → rooms it may import besides itself. `front` is pymq/__init__.py and pymq/__main__.py."""

OUTSIDE_MODULES = """
aiofiles concurrent fcntl fileinput ftplib getpass glob http io multiprocessing pathlib platform pwd
random resource sched secrets select selectors shutil signal smtplib socket socketserver subprocess tempfile
threading time urllib uuid uvloop
"""
"""Modules through which a program sees clock, chance, network, threads or files."""

OUTSIDE_NAMES = """
open input datetime.datetime.now datetime.datetime.today datetime.datetime.utcnow datetime.date.today
asyncio.open_connection asyncio.start_server asyncio.open_unix_connection asyncio.start_unix_server
asyncio.to_thread asyncio.create_subprocess_exec asyncio.create_subprocess_shell
"""

OUTSIDE_METHODS = """
create_connection create_server create_datagram_endpoint create_unix_connection create_unix_server
run_in_executor sock_connect sock_sendall sock_recv connect_accepted_socket add_signal_handler
"""
"""Of the event loop, whoever holds it."""

PURE_OS = re.compile(
    r"os\.(path\.(join|basename|dirname|normpath|split|splitext|commonpath|sep)|PathLike|fspath|sep)"
)

GRANTED: dict[str, set[str]] = {
    # A process starts, detaches, is told to stop, and reads a conf file named on its command line. It starts
    # the processes of a cluster.
    "cli": {"fcntl", "os", "open", "pathlib", "signal", "time", "uvloop", "add_signal_handler"}
    | {"asyncio.create_subprocess_exec"},
    # Large tables become JSON in a thread, so that they do not hold the loop.
    "broker": {"asyncio.to_thread"},
    # An application's plain `def` handlers run in threads, so that they do not hold the loop.
    "client": {"asyncio.to_thread", "concurrent", "run_in_executor"},
}
"""Room → what it may touch of the outside, and why."""

NO_ASYNCIO = {"protocol", "store"}


@dataclass(frozen=True)
class Module:
    """One source file."""

    path: Path
    name: str
    """Dotted import name."""
    tree: ast.Module = field(compare=False, repr=False)

    @property
    def room(self) -> str:
        """The room it stands in."""
        return room_of(self.name)

    def at(self, node: ast.AST) -> str:
        """Give file and line of a node."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def room_of(name: str) -> str:
    """Give the room of a dotted import name within pymq."""
    parts = name.split(".")
    if len(parts) == 1 or parts[1] == "__main__":
        return "front"
    return "leaves" if parts[1] in LEAVES else parts[1]


def find_modules() -> list[Module]:
    """Read every source file of the package. Linked folders are read where they really stand."""
    found = []
    for top in ("pymq", *PROGRAMS):
        for folder, _, files in os.walk(ROOT / top):
            for path in (Path(folder) / file for file in sorted(files) if file.endswith(".py")):
                parts = list(path.relative_to(ROOT).with_suffix("").parts)
                if parts[0] != "pymq":
                    parts.insert(0, "pymq")
                if parts[-1] == "__init__":
                    parts.pop()
                found.append(Module(path, ".".join(parts), ast.parse(path.read_text(), str(path))))
    return found


MODULES = find_modules()


def imported(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Give each import with the full name of what it imports."""
    is_package = module.path.name == "__init__.py"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.name.split(".") + ([""] if is_package else [])
                base = ".".join([*parts[: -node.level], *filter(None, [base])])
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)


def full_names(module: Module) -> dict[str, str]:
    """Give what each name that an import binds stands for."""
    names = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.AST) -> str:
    """Give `a.b.c` for such an expression, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def outside_uses(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Give each use of the outside world, by the name under which it can be granted."""
    for node, name in imported(module):
        top = name.split(".")[0]
        if top in OUTSIDE_MODULES.split():
            yield node, top
        elif top == "os" and name != "os" and not name.startswith("os.path") and not PURE_OS.fullmatch(name):
            yield node, "os"
    names = full_names(module)
    called = {id(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = dotted(node).partition(".")
            name = f"{names.get(first, '')}.{rest}"
            if name in OUTSIDE_NAMES.split():
                yield node, name
            elif name.startswith("os.") and name != "os.path" and not PURE_OS.fullmatch(name):
                yield node, "os"
            elif name == "mmap.mmap" and id(node) in called:
                yield node, "mmap"
            elif node.attr in OUTSIDE_METHODS.split():
                yield node, node.attr
        elif isinstance(node, ast.Name) and names.get(node.id, node.id) in OUTSIDE_NAMES.split():
            yield node, names.get(node.id, node.id)


def test_the_rooms_are_all_here() -> None:
    rooms = {module.room for module in MODULES}
    assert {
        "front",
        "leaves",
        "protocol",
        "transport",
        "store",
        "namesrv",
        "broker",
        "client",
        "cli",
    } <= rooms
    assert rooms <= MAY_IMPORT.keys()


@pytest.mark.parametrize("name", [*PROGRAMS, "conf"])
def test_the_folders_at_the_top_are_linked_into_the_package(name: str) -> None:
    link = ROOT / "pymq" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name


def test_imports_run_downwards_only() -> None:
    wrong = [
        f"{module.at(node)}: {module.room} may not import {name}"
        for module in MODULES
        for node, name in imported(module)
        if name.split(".")[0] == "pymq"
        and room_of(name) != module.room
        and room_of(name) not in MAY_IMPORT[module.room]
    ]
    assert wrong == []


def test_only_the_leaves_touch_the_outside_world() -> None:
    wrong = [
        f"{module.at(node)}: {module.room} may not touch {name}"
        for module in MODULES
        if module.room != "leaves"
        for node, name in outside_uses(module)
        if name not in GRANTED.get(module.room, set())
    ]
    assert wrong == []


def test_protocol_and_store_know_no_asyncio() -> None:
    wrong = [
        f"{module.at(node)}: {module.room} may not import {name}"
        for module in MODULES
        if module.room in NO_ASYNCIO
        for node, name in imported(module)
        if name.split(".")[0] == "asyncio"
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import time", {"time"}),
        ("from time import time", {"time"}),
        ("import os\nos.unlink('x')", {"os"}),
        ("from os import unlink", {"os"}),
        ("import os.path\nos.path.exists('x')", {"os"}),
        ("import os\nos.path.join('a', 'b')", set()),
        ("open('x')", {"open"}),
        ("import datetime\ndatetime.datetime.now()", {"datetime.datetime.now"}),
        ("from datetime import datetime as d\nd.now()", {"datetime.datetime.now"}),
        ("import datetime\ndatetime.datetime.fromtimestamp(0)", set()),
        ("from asyncio import to_thread\nto_thread(f)", {"asyncio.to_thread"}),
        ("import asyncio\nasyncio.get_running_loop().create_server(f)", {"create_server"}),
        ("import asyncio\nawait asyncio.sleep(1)", set()),
        ("def f():\n    import threading", {"threading"}),
        ("import mmap\nmmap.mmap(3, 0)", {"mmap"}),
        ("import mmap\nBuffer = bytes | mmap.mmap", set()),
    ],
)
def test_the_rules_see_what_they_forbid(source: str, names: set[str]) -> None:
    module = Module(ROOT / "x.py", "pymq.broker.x", ast.parse(source))
    assert {name for _, name in outside_uses(module)} == names


def test_no_two_rooms_hold_a_file_of_the_same_name() -> None:
    rooms: dict[str, set[str]] = {}
    for module in MODULES:
        rooms.setdefault(module.path.name, set()).add(module.room)
    del rooms["__init__.py"]
    rooms.pop("app.py", None)
    assert {name: found for name, found in rooms.items() if len(found) > 1} == {}


def test_no_room_is_a_cupboard() -> None:
    cupboards = re.compile(r"(common|utils?|helpers?|managers?|base)\.py")
    assert [module.at(module.tree) for module in MODULES if cupboards.fullmatch(module.path.name)] == []


def test_public_things_say_what_they_are() -> None:
    silent = []
    for module in MODULES:
        if module.path.name != "__init__.py" or module.tree.body:
            silent += [module.at(module.tree)] if not ast.get_docstring(module.tree) else []
            silent += [f"{module.at(node)}: {node.name}" for node in undocumented(module)]
    assert silent == []


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def undocumented(module: Module) -> Iterator[Definition]:
    """Give the public classes, functions and methods without a docstring.

    A method is documented where a class of the same module, its interface, documents one of that name; so
    does a module of the same room that it imports from.
    """
    sources = {name.rpartition(".")[0] for _, name in imported(module)}
    interfaces = [each for each in MODULES if each.name in sources and each.room == module.room]
    told = {
        item.name
        for tree in (module.tree, *(each.tree for each in interfaces))
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(item)
    }
    for node in module.tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield node
            methods = node.body if isinstance(node, ast.ClassDef) else []
            yield from (
                item
                for item in methods
                if isinstance(item, Definition)
                and not item.name.startswith("_")
                and item.name not in told
                and not ast.get_docstring(item)
            )


def test_nothing_names_the_machine_it_was_written_on() -> None:
    foreign = re.compile(r"/(root|work|home|Users)/\w")
    tops = (*PROGRAMS, "pymq", "conf", "tests", "bench", ".ci")
    files = [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml") or path.name == "Makefile"]
    for top in tops:
        for folder, _, names in os.walk(ROOT / top):
            if "__pycache__" not in folder:
                files += [Path(folder) / name for name in names]
    texts = {path: path.read_bytes().decode(errors="replace") for path in files if path.is_file()}
    assert [str(path.relative_to(ROOT)) for path, text in texts.items() if foreign.search(text)] == []
