"""What ``coord start`` and ``coord submit`` say while they wait, and what they leave behind.

All of it goes to standard error. What a client signs stands in its journal first: even if the log
has not stored it, the next command that signs with the key sends it again. So it may take effect
although nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress

import click

from ...core.client import Client
from ...core.coordination import Coordination
from ...core.errors import LogUnavailableError, MabeamError
from ...core.keyring import Keyring

QUIET_WAIT_S = 3.0
"""How long a command waits for an answer without saying anything."""

REGISTRATION_WAIT_S = 10.0
"""How long one waits for participants to register before it asks for them."""

QUIET_REGISTRATION_S = 1.0
"""How long it does so without saying anything."""

_POLL_S = 0.2
_MOST_NAMED = 8


class Waiting:
    """A command's wait for what comes of an event that it signs.

    Args:
        client: who signs it.
        coordination: where it goes.
        outlook: what may still become of it if nobody waits any more.

    Attributes:
        fold: the coordination as last seen, if the command has it at hand.
    """

    def __init__(self, client: Client, coordination: str, outlook: str) -> None:
        self.fold: Coordination | None = None
        self._client = client
        self._coordination = coordination
        self._outlook = outlook
        self._event = ""
        self._is_stored = False

    def signs(self, event: str) -> None:
        """From now on the event, in words, may be signed."""
        self._event, self._is_stored = event, False

    def stored(self, fold: Coordination | None = None) -> None:
        """The log has acknowledged it; ``fold`` is where, as seen by now."""
        self._is_stored = True
        if fold is not None:
            self.fold, self._coordination = fold, fold.id

    @asynccontextmanager
    async def speaking(self) -> AsyncIterator[None]:
        """Say once what is waited for if it lasts, and what is left behind if it is cut short."""
        speaker = asyncio.create_task(self._speak())
        try:
            yield
        except (asyncio.CancelledError, LogUnavailableError):
            self._say_left_behind()
            raise
        finally:
            speaker.cancel()
            await asyncio.gather(speaker, return_exceptions=True)

    async def _speak(self) -> None:
        await asyncio.sleep(QUIET_WAIT_S)
        with suppress(MabeamError):  # the command itself meets the same one
            click.echo(f"{self._coordination}: {await self._state()}", err=True)

    async def _state(self) -> str:
        if self._is_stored:
            fold = self.fold or await self._client.read(self._coordination)
            return state_of(fold, self._client.registry.keyring)
        if self._event:
            return f"waiting for the log to store {self._event}"
        return "reading what is stored of it and its successors"

    def _say_left_behind(self) -> None:
        if not self._event:
            return
        where = f"{'is' if self._is_stored else 'may be'} stored in {self._coordination}"
        click.echo(
            f"{self._event} {where} and may still {self._outlook}; "
            f"see 'mabeam coord show {self._coordination}'",
            err=True,
        )


def state_of(fold: Coordination, keyring: Keyring) -> str:
    """What a coordination waits for, and which participants are known not to answer."""
    if fold.claim is None:
        return "no coordinator has claimed it yet; does one run?"
    if fold.config is None:
        return f"waiting for {fold.coordinator} to open it"
    missing = fold.waiting_for()
    text = f"waiting for {_names(missing)} ({fold.phase})" if missing else f"waiting ({fold.phase})"
    ids = [each.agent_id for each in fold.config.participants]
    gone = [id for id in ids if keyring.agent(id).health == "unreachable"]
    return f"{text}; unreachable: {_names(gone)}" if gone else text


async def until_registered(client: Client, ids: Collection[str]) -> None:
    """Wait a moment for agents that are admitted and have not registered yet: they may be starting.

    Returns whether or not they did; if not, the request is refused for it.
    """
    began = time.monotonic()
    is_told = False
    while absent := _absent((await client.agents()).keyring, ids):
        waited_s = time.monotonic() - began
        if waited_s > REGISTRATION_WAIT_S:
            return
        if waited_s > QUIET_REGISTRATION_S and not is_told:
            click.echo(
                f"waiting up to {REGISTRATION_WAIT_S:g} s for {_names(absent)} to register; "
                "'mabeam agent run' does that",
                err=True,
            )
            is_told = True
        await asyncio.sleep(_POLL_S)


def _absent(keyring: Keyring, ids: Collection[str]) -> list[str]:
    """Who has not registered yet; nobody if an id is no agent's, as that is refused anyway."""
    entries = [keyring.current(id) for id in ids]
    if any(entry is None or "agent" not in entry.certificate.roles for entry in entries):
        return []
    return [id for id in ids if keyring.agent(id).registered is None]


def _names(ids: Sequence[str]) -> str:
    more = len(ids) - _MOST_NAMED
    return ", ".join(ids[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
