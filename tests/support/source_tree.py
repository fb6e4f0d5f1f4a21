"""The repository's files as data, for tests that check the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "protocols", "projections", "migrations", "infra")


@cache
def files(suffix: str = "") -> tuple[Path, ...]:
    """Tracked files and new ones that are not ignored, relative to the root, in a fixed order.

    Outside a git checkout (a source archive): every file that is in no hidden or built folder.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
        names = {Path(name) for name in listed.stdout.split("\0") if name}
    except (OSError, subprocess.CalledProcessError):
        names = {path.relative_to(ROOT) for path in ROOT.rglob("*")}
        names = {name for name in names if not _is_generated(name)}
    return tuple(sorted(n for n in names if n.name.endswith(suffix) and (ROOT / n).is_file()))


def _is_generated(name: Path) -> bool:
    built = {"build", "dist", "__pycache__", "mabeam.egg-info"}
    return any(part in built or part.startswith(".venv") or part == ".git" for part in name.parts)


@cache
def text(path: Path) -> str:
    """Content of a file named relative to the root."""
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    """Syntax tree of a Python file named relative to the root."""
    return ast.parse(text(path), filename=str(path))


def package_files() -> list[Path]:
    """Python files of the package, that is those of the rooms and of the root."""
    return [p for p in files(".py") if len(p.parts) == 1 or p.parts[0] in ROOMS]


def room_files(*rooms: str) -> list[Path]:
    """Python files of the named rooms (``core``, ``core/bus``)."""
    return [p for p in files(".py") if any(p.is_relative_to(room) for room in rooms)]


@cache
def project() -> dict[str, Any]:
    """``pyproject.toml``."""
    return tomllib.loads(text(Path("pyproject.toml")))


@dataclass(frozen=True)
class Import:
    """One imported name: ``target`` is absolute, with ``mabeam`` for the root."""

    path: Path
    line: int
    target: str
    relative: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.target}"

    @property
    def top(self) -> str:
        """First part of the target."""
        return self.target.split(".")[0]

    @property
    def room(self) -> str | None:
        """The room of this package that is imported, ``None`` for other packages."""
        parts = self.target.split(".")
        return parts[1] if parts[0] == "mabeam" and len(parts) > 1 else None


def imports(path: Path) -> Iterator[Import]:
    """Every import in a file, those inside functions and ``if TYPE_CHECKING`` included."""
    package = ("mabeam", *path.parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name, relative=False)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            for alias in node.names:
                parts = (*base, *filter(None, [node.module]), alias.name)
                yield Import(path, node.lineno, ".".join(parts), relative=node.level > 0)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method in a file, nested ones included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def docstrings(path: Path) -> set[ast.expr]:
    """The expressions in a file that are bare strings: docstrings of anything."""
    return {node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
