"""Log lines for machines and for people."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from mabeam.infra.config import Config
from mabeam.infra.logs import configure


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("mabeam")
    handlers, level, our_level = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.captureWarnings(False)


def _logged(config: Config) -> str:
    stream = io.StringIO()
    configure(config, stream)
    logger = logging.getLogger("mabeam.agent")
    logger.debug("unseen")
    logger.info("vote_sent", extra={"coordination": "c1", "sequence": 7, "why": "two words"})
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("handler_raised")
    return stream.getvalue()


def test_without_a_terminal_lines_are_json() -> None:
    first, second = (json.loads(line) for line in _logged(Config()).splitlines())
    assert first["event"] == "vote_sent"
    assert (first["coordination"], first["sequence"], first["level"]) == ("c1", 7, "info")
    assert "ValueError: broken" in second["exception"]


def test_text_is_one_readable_line() -> None:
    line = _logged(Config(log_format="text")).splitlines()[0]
    assert line.endswith('info vote_sent coordination=c1 sequence=7 why="two words"')


def test_the_level_is_a_setting() -> None:
    assert "unseen" in _logged(Config(log_level="debug"))
    assert "vote_sent" not in _logged(Config(log_level="error"))
