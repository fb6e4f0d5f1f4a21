"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

import source_tree

MODULE_LINES_MEDIAN = 150
MODULE_LINES_NINE_IN_TEN = 400
MODULE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


def _lines(path: Path) -> int:
    return source_tree.text(path).count("\n")


def _modules() -> list[Path]:
    return [path for path in source_tree.files(".py") if _lines(path) > 1]


def test_modules_are_short() -> None:
    lengths = sorted(_lines(path) for path in _modules())
    assert statistics.median(lengths) <= MODULE_LINES_MEDIAN
    assert lengths[(len(lengths) * 9 - 1) // 10] <= MODULE_LINES_NINE_IN_TEN
    assert [str(path) for path in _modules() if _lines(path) > MODULE_LINES_MAX] == []


def test_functions_are_short() -> None:
    long = [
        f"{path}:{function.lineno} {function.name}: {length} lines"
        for path in _modules()
        for function in source_tree.functions(path)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_modules_are_named_after_a_concept() -> None:
    vague = [
        str(path)
        for path in source_tree.files(".py")
        if {path.stem.strip("_"), *path.parent.parts} & VAGUE_NAMES
        or re.search(r"(_manager|_utils?|_helpers?|handler\d)$", path.stem)
    ]
    assert vague == []


def test_every_package_folder_is_listed_in_pyproject() -> None:
    on_disk = {
        ".".join(("mabeam", *path.parent.parts))
        for path in source_tree.package_files()
        if path.name == "__init__.py"
    }
    listed = source_tree.project()["tool"]["setuptools"]["packages"]
    assert set(listed) == on_disk
    assert listed == sorted(listed)


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in source_tree.package_files()}
    assert [str(f) for f in folders if not (source_tree.ROOT / f / "__init__.py").exists()] == []


def test_test_folders_are_not_packages() -> None:
    packages = [
        p
        for p in source_tree.files("__init__.py")
        if p.parts[0] not in (*source_tree.ROOMS, p.name)
    ]
    assert packages == []


def test_open_ends_name_an_issue() -> None:
    marker = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    issue = re.compile(r"#\d+|/issues/\d+")
    open_ends = [
        f"{path}:{number}"
        for path in source_tree.files()
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".sql", ".sh"}
        and path != Path("tests/test_tidy.py")
        for number, line in enumerate(source_tree.text(path).splitlines(), 1)
        if marker.search(line) and not issue.search(line)
    ]
    assert open_ends == []


def test_no_error_is_swallowed() -> None:
    swallowed = [
        f"{path}:{node.lineno}"
        for path in source_tree.files(".py")
        for node in ast.walk(source_tree.tree(path))
        if isinstance(node, ast.ExceptHandler) and _swallows(node)
    ]
    assert swallowed == []


def _swallows(handler: ast.ExceptHandler) -> bool:
    """A bare ``except:``, or one for every exception that then does nothing."""
    if handler.type is None:
        return True
    catches_all = isinstance(handler.type, ast.Name) and handler.type.id in {
        "Exception",
        "BaseException",
    }
    return catches_all and all(isinstance(node, ast.Pass | ast.Continue) for node in handler.body)


def _locks() -> list[Path]:
    return [path for path in source_tree.files(".txt") if path.parts[0] == "requirements"]


def test_lock_files_hold_pins_and_hashes_and_no_address() -> None:
    assert {path.name for path in _locks()} == {"demo.txt", "test.txt"}
    line = re.compile(
        r"#.*|[a-z0-9-]+==[\w.]+( ; [\w\s.'=!<>]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    )
    for path in _locks():
        for number, content in enumerate(source_tree.text(path).splitlines(), 1):
            assert line.fullmatch(content), f"{path}:{number}: {content}"


def test_lock_files_cover_every_declared_dependency() -> None:
    project = source_tree.project()["project"]
    extras = project["optional-dependencies"]
    demo = _declared([*project["dependencies"], *extras["ml"], "setuptools"])
    pins = {path.stem: set(_pins(path)) for path in _locks()}
    assert demo <= {name for name, _ in pins["demo"]}
    assert demo | _declared(extras["test"]) <= {name for name, _ in pins["test"]}
    assert pins["demo"] <= pins["test"], "one environment serves both: run make lock"


def _declared(requirements: list[str]) -> set[str]:
    names = (re.split(r"[\[<>=!;\s]", requirement)[0] for requirement in requirements)
    return {name.lower().replace("_", "-") for name in names}


def _pins(path: Path) -> list[tuple[str, str]]:
    found = re.findall(r"^([a-z0-9-]+)==([\w.]+)", source_tree.text(path), flags=re.MULTILINE)
    return [(name, version) for name, version in found]
