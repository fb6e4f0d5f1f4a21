"""``python -m mabeam.infra.cli``: the same as ``mabeam``."""

from __future__ import annotations

from .main import main

if __name__ == "__main__":
    main()
