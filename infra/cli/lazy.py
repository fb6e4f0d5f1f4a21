"""A click group whose commands are imported when they run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """Knows the names and one-line helps of its commands; their modules load on use.

    Args:
        package: package of the commands' modules.
        table: command name to (module, one-line help); the module holds a command of that name.
    """

    def __init__(
        self, *arguments: Any, package: str, table: Mapping[str, tuple[str, str]], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._package = package
        self._table = table

    def list_commands(self, context: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self._table)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        if name not in self._table:
            return None
        module = importlib.import_module(f".{self._table[name][0]}", self._package)
        command = getattr(module, f"{name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])
