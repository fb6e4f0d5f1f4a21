"""``pytest tests/scenarios --rewrite`` writes the golden output anew; the diff is the review."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write the golden output of the scenarios anew"
    )
