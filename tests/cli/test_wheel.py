"""What a user installs: the wheel, built from the source archive, in a fresh environment."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.cli.running import standalone
from tests.cli.running_cluster import cluster

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent.parent
SAMPLES = sorted(path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*") if path.is_file())
FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")


def run(*command: object) -> None:
    """Run a command. Its output is shown where it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of a copy, so that nothing is left in the source, and install it alone."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ("pymq", "namesrv", "broker", "client", "conf"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", source)
    (wheel,) = (folder / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    return folder / "venv"


def site_packages(environment_folder: Path) -> Path:
    """Give where packages are installed in an environment."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(environment_folder)}))


def borrow_dependencies(environment_folder: Path) -> None:
    """Let it see this environment's packages; a path in a .pth file brings no editable pymq."""
    borrowed = site_packages(environment_folder) / "borrowed.pth"
    borrowed.write_text("\n".join(site.getsitepackages()) + "\n")


def test_an_installed_wheel_brings_nothing_but_pymq(environment_folder: Path) -> None:
    found = {path.name for path in site_packages(environment_folder).iterdir()}
    assert {name for name in found if not name.endswith(".dist-info")} == {"pymq"}
    assert len(found) == 2


def test_an_installed_wheel_brings_the_samples_and_the_type_marker(environment_folder: Path) -> None:
    package = site_packages(environment_folder) / "pymq"
    assert (
        sorted(path.relative_to(package) for path in (package / "conf").rglob("*.*") if path.is_file())
        == SAMPLES
    )
    assert (package / "py.typed").exists()


def test_standalone_runs_from_an_installed_wheel(environment_folder: Path, tmp_path: Path) -> None:
    borrow_dependencies(environment_folder)
    python = environment_folder / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import pymq; print(pymq.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(environment_folder))
    with standalone([str(environment_folder / "bin" / "pymq")], tmp_path) as one:
        one.pymq("send", "orders", "hello")
        assert one.pymq("consume", "orders", "--from", "first", "--count", "1") == "hello\n"
        one.stop()


def test_a_cluster_runs_from_an_installed_wheel(environment_folder: Path, tmp_path: Path) -> None:
    borrow_dependencies(environment_folder)
    command = [str(environment_folder / "bin" / "pymq")]
    with cluster(command, tmp_path, "2m-2s-sync", "--free-ports", "--set", "diskMinFreeBytes=1") as running:
        running.wait_ready()
        running.until_copying("broker-a-1", "broker-b-1")
        assert running.pymq("send", "orders", "hello").startswith("SEND_OK "), "a slave has it, too"
        assert running.pymq("consume", "orders", "--from", "first", "--count", "1") == "hello\n"
        running.stop()
