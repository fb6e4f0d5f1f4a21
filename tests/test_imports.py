"""Arrows run one way: core <- protocols <- projections <- infra.

``migrations`` hangs off ``projections``.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import source_tree
from source_tree import Import

MAY_IMPORT_ROOMS = {
    "core": {"core"},
    "protocols": {"core", "protocols"},
    "projections": {"core", "protocols", "projections"},
    "migrations": {"projections", "migrations"},
    "infra": {"core", "protocols", "projections", "migrations", "infra"},
}
MAY_IMPORT_PACKAGES = {
    "core": {"msgspec", "nacl"},
    "core/bus": {"msgspec", "nacl", "nats", "nkeys"},
    "protocols": {"msgspec"},
    "projections": {"msgspec", "sqlalchemy"},
    "migrations": {"alembic", "sqlalchemy"},
}
# Clocks, randomness and I/O: a decision may rest on the log alone.
IMPURE_MODULES = {
    *("asyncio", "concurrent", "multiprocessing", "selectors", "signal", "threading"),
    *("datetime", "random", "secrets", "time", "uuid"),
    *("http", "io", "logging", "os", "pathlib", "shutil", "socket", "sqlite3", "ssl"),
    *("subprocess", "tempfile", "urllib"),
}
IMPURE_CALLS = {"open", "print", "input"}
PROTOCOL = re.compile(
    r"(simple|hierarchical|byzantine|market|ensemble|hyperparameter|reasoning|distributed)"
    r"(\.\w*|_consensus|_coordination|_learning|_optimization|_reasoning)"
)


def _room(path: Path) -> str:
    """The most particular entry of ``MAY_IMPORT_PACKAGES`` for a file."""
    return max((r for r in MAY_IMPORT_PACKAGES if path.is_relative_to(r)), key=len, default="")


def _imports(*rooms: str) -> list[Import]:
    return [found for path in source_tree.room_files(*rooms) for found in source_tree.imports(path)]


@pytest.mark.parametrize("room", source_tree.ROOMS)
def test_rooms_import_only_what_stands_below_them(room: str) -> None:
    allowed = MAY_IMPORT_ROOMS[room]
    wrong = [str(i) for i in _imports(room) if i.room is not None and i.room not in allowed]
    assert wrong == []


@pytest.mark.parametrize("room", sorted({r.split("/")[0] for r in MAY_IMPORT_PACKAGES}))
def test_rooms_import_only_their_packages(room: str) -> None:
    wrong = [
        str(found)
        for found in _imports(room)
        if found.top not in {"mabeam", *sys.stdlib_module_names}
        and found.top not in MAY_IMPORT_PACKAGES[_room(found.path)]
    ]
    assert wrong == []


def test_protocols_have_no_clock_randomness_or_io() -> None:
    wrong = [str(found) for found in _imports("protocols") if found.top in IMPURE_MODULES]
    for path in source_tree.room_files("protocols"):
        for node in ast.walk(source_tree.tree(path)):
            if isinstance(node, ast.AsyncFunctionDef):
                wrong.append(f"{path}:{node.lineno} awaits")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in IMPURE_CALLS
            ):
                wrong.append(f"{path}:{node.lineno} calls {node.func.id}")
    assert wrong == []


def test_core_names_no_protocol() -> None:
    named = [
        f"{path}:{node.lineno} names {node.value!r}"
        for path in source_tree.room_files("core")
        for node in ast.walk(source_tree.tree(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node not in source_tree.docstrings(path)
        and PROTOCOL.fullmatch(node.value)
    ]
    assert named == []


def test_imports_within_the_package_are_relative() -> None:
    wrong = [
        str(found)
        for path in source_tree.package_files()
        for found in source_tree.imports(path)
        if not found.relative and found.top in {"mabeam", *source_tree.ROOMS, "tests"}
    ]
    assert wrong == []


def test_tests_import_the_package_by_its_name() -> None:
    wrong = [str(i) for i in _imports("tests") if i.relative or i.top in source_tree.ROOMS]
    assert wrong == []


def test_rooms_are_importable_only_below_mabeam(tmp_path: Path) -> None:
    program = (
        "import sys; from importlib.util import find_spec\n"
        "print([name for name in sys.argv[1:] if find_spec(name) is not None])"
    )
    names = [f"{prefix}{room}" for room in source_tree.ROOMS for prefix in ("", "mabeam.")]
    found = subprocess.run(
        [sys.executable, "-P", "-c", program, *names],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.strip() == str([f"mabeam.{room}" for room in source_tree.ROOMS])
