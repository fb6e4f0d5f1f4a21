"""Log output: JSON lines for machines, one readable line for people at a terminal.

The message of a record is a constant event name; everything variable is in ``extra`` fields, so
that lines can be searched and counted.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from .config import Config

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The ``extra`` fields of a record."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``at``, ``level``, ``logger``, ``event``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See :meth:`logging.Formatter.format`."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for key, value in fields_of(record).items():
            line.setdefault(key, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """``12:34:56.789 info event field=value …``, with colour on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """See :meth:`logging.Formatter.format`."""
        at = datetime.fromtimestamp(record.created).astimezone()
        fields = " ".join(f"{key}={_shown(value)}" for key, value in fields_of(record).items())
        level = record.levelname.lower()
        if self._colour and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}\x1b[0m"
        line = f"{at:%H:%M:%S}.{at.microsecond // 1000:03d} {level} {record.getMessage()} {fields}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line.rstrip()


def _shown(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text else text


def configure(config: Config, stream: TextIO | None = None) -> None:
    """Send the log of this program to ``stream`` (standard error by default)."""
    target = stream or sys.stderr
    terminal = target.isatty()
    as_text = config.log_format == "text" or (config.log_format == "auto" and terminal)
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter(colour=terminal) if as_text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("mabeam").setLevel(config.log_level.upper())
    logging.captureWarnings(True)
