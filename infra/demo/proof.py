"""The proofs, through the commands anybody would use: audit, export, and a forgery that fails."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import MabeamError

COMMAND_TIMEOUT_S = 120
VERIFICATION_FAILED = 3
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
        output: what it printed.
    """

    command: str
    exit_code: int
    output: str

    def divergence(self) -> str:
        """What the auditor lists first as wrong or missing, or an empty string."""
        lines = self.output.splitlines()
        return next((line for line in lines if line.startswith(("wrong ", "incomplete "))), "")


def run_command(home: Path | None, *words: str | Path) -> Run:
    """Run ``mabeam WORDS`` as a process of its own.

    Args:
        home: the deployment directory, ``None`` for a command that needs none.
        words: the command's words.

    Raises:
        DemoError: it did not do what it was asked for.
    """
    arguments = [str(word) for word in words]
    options = ("--home", str(home)) if home is not None else ()
    done = subprocess.run(
        [sys.executable, "-m", _CLI, *options, *arguments],
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        text=True,
    )
    shown = " ".join(["mabeam", *(Path(word).name for word in words)])
    if done.returncode not in (0, VERIFICATION_FAILED) or not done.stdout:
        said = (done.stderr or done.stdout).strip()
        raise DemoError(f"{shown} ended with {done.returncode}: {said[-500:]}")
    return Run(shown, done.returncode, done.stdout.rstrip("\n"))


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
