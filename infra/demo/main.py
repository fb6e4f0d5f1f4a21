"""``mabeam demo``: forty biopsies, five models, two crashes, and a proof of every decision."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec

from ...core.errors import UsageError
from ..local import LocalDeployment
from . import report
from .narrator import Narrator

INTERRUPTED = 130
MIN_BIOPSIES = 4
"""With fewer, nothing would be left to decide when the coordinator is killed."""


def run(home: Path | None, *, biopsies: int = 40, keep: bool = False, json: bool = False) -> int:
    """Run the demonstration; every process it starts has ended when it returns.

    Args:
        home: where to keep everything; a temporary directory, deleted at the end, by default.
        biopsies: how many held-out biopsies are put to the vote.
        keep: keep the temporary directory.
        json: print one JSON document; progress goes to standard error.

    Returns:
        0, 1 if a check failed, 130 if interrupted.

    Raises:
        UsageError: scikit-learn is missing, too few biopsies, or more than there are.
        MabeamError: the deployment could not be started or asked.
    """
    if find_spec("sklearn") is None:
        raise UsageError("the demo needs scikit-learn", hint="Run: pip install 'mabeam[ml]'")
    if biopsies < MIN_BIOPSIES:
        raise UsageError(f"{biopsies} biopsies are too few", hint=f"At least {MIN_BIOPSIES}.")
    from .data import held_out_biopsies
    from .demonstration import demonstrate

    cases = held_out_biopsies(biopsies)
    narrator = Narrator(json=json)
    with _directory(home, keep) as directory, _terminable():
        try:
            with LocalDeployment(directory) as deployment:
                document = demonstrate(deployment, cases, narrator)
        except KeyboardInterrupt:
            narrator.say("interrupted; every process has ended")
            return INTERRUPTED
    kept = home is not None or keep
    document |= {"elapsed_s": round(narrator.elapsed_s, 1), "home": str(directory), "kept": kept}
    if json:
        print(msgspec.json.format(msgspec.json.encode(document)).decode())
        for check in document["checks"]:
            if not check["ok"]:
                narrator.alarm(f"FAILED: {check['check']}: {check['found']}")
    else:
        report.show(narrator, document)
        report.show_ending(narrator, document)
    return 0 if document["ok"] else 1


@contextmanager
def _directory(home: Path | None, keep: bool) -> Iterator[Path]:
    if home is not None:
        yield home
        return
    directory = Path(tempfile.mkdtemp(prefix="mabeam-demo-"))
    try:
        yield directory
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the demonstration as Ctrl-C does: its processes first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
