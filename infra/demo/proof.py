"""The proofs, through the commands anybody would use: audit, export, and a forgery that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import MabeamError

COMMAND_TIMEOUT_S = 120
_CLI = f"{__name__.rpartition('.infra.')[0]}.infra.cli"
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


class DemoError(MabeamError):
    """The demonstration could not do what it shows."""

    code = "demo"


@dataclass(frozen=True)
class Run:
    """One command that was run.

    Attributes:
        command: as a person would type it.
        exit_code: its exit status.
        document: what it printed with ``--json``.
    """

    command: str
    exit_code: int
    document: dict[str, Any]

    def divergence(self) -> str:
        """What the auditor found first, or an empty string."""
        first = self.document.get("first_divergence")
        return str(first["message"]) if first else ""


def run_command(home: Path | None, *words: str | Path) -> Run:
    """Run ``mabeam WORDS --json`` as a process of its own.

    Args:
        home: the deployment directory, ``None`` for a command that needs none.
        words: the command's words.

    Raises:
        DemoError: it printed no JSON document.
    """
    arguments = [str(word) for word in words]
    options = ("--home", str(home)) if home is not None else ()
    done = subprocess.run(
        [sys.executable, "-m", _CLI, *options, *arguments, "--json"],
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        text=True,
    )
    shown = " ".join(["mabeam", *(Path(word).name for word in words)])
    try:
        document = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr or done.stdout).strip()
        raise DemoError(f"{shown} ended with {done.returncode}: {said[-500:]}") from None
    return Run(shown, done.returncode, document)


def flip_one_byte(bundle: Path, copy: Path) -> int:
    """Copy a bundle with one byte changed within the first vote in it; returns the byte's offset.

    The change leaves the file well-formed: only a digest or a signature can tell.
    """
    data = bytearray(bundle.read_bytes())
    subject = data.index(b".simple_vote_cast.")
    start = data.index(b'"wire":"', subject) + len(b'"wire":"')
    end = data.index(b'"', start)
    for offset in range(end - 8, start, -1):
        if data[offset] in _BASE64 and data[offset] ^ 1 in _BASE64:
            data[offset] ^= 1
            copy.write_bytes(data)
            return offset
    raise DemoError(f"{bundle} holds no vote that could be changed")
