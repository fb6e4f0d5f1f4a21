"""What all commands share: the deployment directory, settings, connections, output."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..config import Config, Settings
from ..home import Home

if TYPE_CHECKING:
    from ...core.bus.jetstream import JetStreamTransport
    from ...core.client import Client
    from ..wiring import Wiring

Result = TypeVar("Result")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
as_id = click.option("--as", "as_id", metavar="ID", help="Whose key to use.")


class Invocation:
    """One run of the program.

    Args:
        home: the ``--home`` option.
        settings: settings given as options.
    """

    def __init__(self, home: Path | None, settings: Mapping[str, Any]) -> None:
        self.home = Home.locate(home)
        self._options = dict(settings)

    @cached_property
    def settings(self) -> Settings:
        """Configuration and origins."""
        return self.home.settings(**self._options)

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.settings.config

    def wiring(self, id: str) -> Wiring:
        """The parts of one member of this home."""
        from ..wiring import Wiring

        self.home.require()
        return Wiring(self.home, id, config=self.config)

    def root_key(self, given: str | None) -> bytes:
        """The root public key given as an option, else that of the deployment.

        Raises:
            UsageError: none is given and there is no deployment.
        """
        from ...core.errors import UsageError
        from ..key_material import read_public_key

        if given is not None:
            return read_public_key(given)
        if not self.home.exists:
            raise UsageError(
                "which root key? There is no deployment here",
                hint="Give --root-key HEX or --root-key root.pub.",
            )
        return self.home.root_public_key()

    def with_transport(
        self, id: str | None, work: Callable[[JetStreamTransport], Awaitable[Result]]
    ) -> Result:
        """Do something with a connection (of a reader, unless an id is given)."""

        async def connected() -> Result:
            from ..wiring import reader_id

            wiring = self.wiring(id or reader_id(self.home))
            transport = await wiring.connect()
            try:
                return await work(transport)
            finally:
                await transport.close()

        return asyncio.run(connected())

    def with_client(self, id: str | None, work: Callable[[Client], Awaitable[Result]]) -> Result:
        """Do something as a client (the home's first, unless an id is given).

        SIGTERM, which ``timeout`` sends, interrupts it like Ctrl-C: what was signed may take effect
        later, and the work may have to say so.
        """

        async def connected() -> Result:
            from ..wiring import client_id

            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
            wiring = self.wiring(client_id(self.home, id))
            transport = await wiring.connect()
            try:
                return await work(
                    wiring.client(transport, on_wait=partial(_say_waiting, wiring.id))
                )
            finally:
                await transport.close()

        try:
            return asyncio.run(connected())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    @property
    def database_url(self) -> str:
        """SQLAlchemy address of the projections."""
        if not self.config.database:
            self.home.require()
        return self.home.database_url(self.config)


def _say_waiting(id: str) -> None:
    click.echo(f"waiting for another command or daemon that signs as {id!r}", err=True)


pass_invocation = click.make_pass_decorator(Invocation)


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it; bytes as hex, keys of 32 bytes and the like included."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return data.hex() if len(data) <= 64 else base64.b64encode(data).decode()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    import msgspec

    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return str(value)


def print_json(value: Any) -> None:
    """One JSON document on standard output, indented on a terminal."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=indent))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table: drawn on a terminal, tab-separated elsewhere."""
    lines = [[_cell(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for line in ([*columns], *lines):
            click.echo("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        # What agents wrote must not move the cursor of whoever reads it.
        return "".join(c if c.isprintable() else " " for c in value)
    return str(plain(value)) if not isinstance(value, dict | list) else json.dumps(plain(value))
