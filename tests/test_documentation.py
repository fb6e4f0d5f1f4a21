"""The documentation runs: snippets are executed, commands exist, links lead somewhere.

A ``python`` block after "save … as `name.py`" is written to that file, others are executed.
In ``console`` blocks, lines that begin with ``$`` are commands (``&`` at the end: left running),
those below them what they print; ``…`` stands for anything, alone for any number of lines.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
import source_tree
from waiting import wait_until

from mabeam.infra.cli.main import mabeam
from mabeam.infra.health_address import ask, read_health_address
from mabeam.infra.home import Home
from mabeam.protocols import PROTOCOLS

DOCUMENTS = [path for path in source_tree.files(".md") if path.parts[0] in ("README.md", "docs")]
WALKED_THROUGH = (Path("README.md"), Path("docs/start.md"))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SAVED_AS = re.compile(r"[Ss]ave (?:this|it) as `(\w+\.py)`[^`]*\Z")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"`(mabeam [^`]+)`|^\$ (mabeam .+)$", re.MULTILINE)
_READY_S = 60.0


def _blocks(document: Path) -> Iterator[tuple[str, str, str]]:
    """Language, file name to save it as or an empty string, and text of every block."""
    text = source_tree.text(document)
    for block in _BLOCK.finditer(text):
        named = _SAVED_AS.search(text, 0, block.start())
        yield block[1], named[1] if named else "", block[2]


def _name(document: Path) -> str:
    return str(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = [link.partition("#")[0] for link in _LINK.findall(source_tree.text(document))]
    local = [target for target in targets if target and "://" not in target]
    missing = [t for t in local if not (source_tree.ROOT / document.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_commands_and_their_options_exist(document: Path) -> None:
    found = [a or b for a, b in _COMMAND.findall(source_tree.text(document))]
    wrong = [f"{line}: {why}" for line in found if (why := _problem(line))]
    assert wrong == []


def _problem(line: str) -> str:
    """Why a command line cannot be meant, or an empty string. Arguments may be left out."""
    words = shlex.split(line.partition(" #")[0].removesuffix("&"))[1:]
    words = [word for word in words if word != "…" and not word.endswith("…")]
    command: click.Command = mabeam
    context = click.Context(mabeam, info_name="mabeam")
    try:
        while isinstance(command, click.Group):
            parser = command.make_parser(context)
            parser.allow_interspersed_args = False
            _, words, _ = parser.parse_args(words)
            if not words:
                return ""
            name, found, words = command.resolve_command(context, words)
            if found is None:
                return f"no command {name}"
            command, context = found, click.Context(found, context, info_name=name)
        options = [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]
        known = {
            name for option in command.params for name in (*option.opts, *option.secondary_opts)
        }
        unknown = sorted(set(options) - known - {"--help"})
        return f"no option {', '.join(unknown)}" if unknown else ""
    except click.UsageError as error:
        return error.format_message()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("mabeam coord begin simple_consensus", "No such command 'begin'."),
        ("mabeam --hom x dev", "No such option '--hom'"),
        ("mabeam coord start p --participant=a", "no option --participant"),
        ("mabeam coord start p --participants a,b -s x=1 &", ""),
        ("mabeam agent", ""),
    ],
)
def test_a_wrong_command_is_found(line: str, problem: str) -> None:
    assert _problem(line).startswith(problem)
    assert bool(_problem(line)) is bool(problem)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_make_targets_exist(document: Path) -> None:
    makefile = source_tree.text(Path("Makefile"))
    named = re.findall(r"^make (\w+)|`make (\w+)", source_tree.text(document), re.MULTILINE)
    targets = {first or second for first, second in named}
    assert {t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_python_snippets_run(document: Path) -> None:
    namespace: dict[str, object] = {"__name__": "snippet"}
    for language, _, text in _blocks(document):
        if language == "python" and "asyncio.run(main())" not in text:
            exec(compile(text, str(document), "exec"), namespace)


@pytest.mark.integration
@pytest.mark.timeout(240)
@pytest.mark.parametrize("document", WALKED_THROUGH, ids=_name)
def test_the_walk_through_works(document: Path, tmp_path: Path) -> None:
    walk = _Walk(tmp_path)
    try:
        for language, saved_as, text in _blocks(document):
            if saved_as:
                (walk.directory / saved_as).write_text(text)
            elif language == "console":
                walk.follow(text)
        assert walk.commands >= 10
    finally:
        codes = walk.end()
    assert set(codes.values()) == {0}, codes


class _Walk:
    """One reader at a terminal, in a directory of their own."""

    def __init__(self, scratch: Path) -> None:
        self.directory = scratch / "work"
        self.directory.mkdir()
        self.commands = 0
        programs = scratch / "bin"
        programs.mkdir()
        for name, words in (("mabeam", "-m mabeam.infra.cli"), ("python", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            (programs / name).chmod(0o755)
        variables = {name: v for name, v in os.environ.items() if not name.startswith("MABEAM_")}
        self._environment = variables | {"PATH": f"{programs}:{os.environ['PATH']}"}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def follow(self, block: str) -> None:
        """Run the commands of a block and compare what they print."""
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, expected = step.partition("\n")
            command = line.partition(" #")[0].rstrip()
            self.commands += 1
            if command.endswith("&"):
                self._leave_running(shlex.split(command.removesuffix("&")))
            else:
                printed = self._run(command)
                assert _matches(expected, printed), f"$ {command}\n{printed}\n-- not --\n{expected}"

    def _run(self, command: str) -> str:
        done = subprocess.run(
            shlex.split(command),
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _leave_running(self, words: list[str]) -> None:
        ids = [words[words.index("--id") + 1]] if "--id" in words else []
        with (self.directory / "output.log").open("ab") as log:
            process = subprocess.Popen(
                words, cwd=self.directory, env=self._environment, stdout=log, stderr=log
            )
        self._running[" ".join(words)] = process
        for id in ids or ["coordinator-1", "projector-1"]:
            wait_until(lambda id=id: self._is_ready(id), timeout_s=_READY_S)  # type: ignore[misc]

    def _is_ready(self, id: str) -> bool:
        home = Home(self.directory / ".mabeam")
        address = read_health_address(home, id) if home.exists else None
        return address is not None and ask(address, "/readyz")[0] == 200

    def end(self) -> dict[str, int]:
        """Stop what runs, the latest first; exit status by command."""
        codes = {}
        for command, process in reversed(self._running.items()):
            process.send_signal(signal.SIGTERM)
            codes[command] = process.wait(timeout=60)
        return codes


def _matches(expected: str, printed: str) -> bool:
    """Whether the output is what the documentation shows; showing nothing means not caring."""
    if not expected.strip():
        return True
    lines = [
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".+") + r"\n"
        for line in expected.rstrip("\n").split("\n")
    ]
    return re.fullmatch("".join(lines), printed) is not None


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("", "anything\n", True),
        ("id: agree\n", "id: agree\n", True),
        ("id: agree\n", "id: disagree\n", False),
        ("… bytes\n", "12 bytes\n", True),
        ("a\n…\n", "a\nb\nc\n", True),
        ("a\n…\nc\n", "a\nc\n", True),
        ("a\n", "a\nb\n", False),
    ],
)
def test_shown_output_is_compared(expected: str, printed: str, same: bool) -> None:
    assert _matches(expected, printed) is same


def test_importing_mabeam_imports_nothing_heavy() -> None:
    program = "import sys, mabeam; print([m for m in ('msgspec', 'nats') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_can_be_imported() -> None:
    import mabeam as package

    assert sorted(package.__all__) == list(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name).__name__ == name for name in package.__all__)
    with pytest.raises(AttributeError):
        getattr(package, "Nothing")  # noqa: B009


@pytest.mark.parametrize(
    ("page", "protocol"),
    [("simple_consensus", "simple_consensus"), ("byzantine", "byzantine_consensus")],
)
def test_every_parameter_and_its_default_stands_in_the_table(page: str, protocol: str) -> None:
    text = source_tree.text(Path("docs/protocols") / f"{page}.md")
    _, _, section = text.partition("## Parameters\n")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", section.partition("\n## ")[0], re.MULTILINE)
    fields = msgspec.structs.fields(PROTOCOLS[protocol].config_type)
    assert rows == [(field.name, _default(field)) for field in fields]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default = field.default
    if default is msgspec.NODEFAULT:
        assert field.default_factory is not msgspec.NODEFAULT
        default = field.default_factory()
    return "unset" if default is msgspec.UNSET else f"`{msgspec.json.encode(default).decode()}`"
