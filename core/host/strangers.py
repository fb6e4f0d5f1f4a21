"""Records read before the registry's feed has said whose keys signed them.

The registry and a coordination come by two feeds, and either may be ahead: somebody admitted a
moment ago may speak before this process knows the certificate. Such a record is taken again when
it does.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator

from ..envelope import decode_event
from ..errors import LogUnavailableError, PeerProtocolError
from ..log import EventLog, Record
from .registry import RegistryView

MAX_STRANGERS = 1_000
"""Records remembered, by their positions; the oldest are forgotten first."""

RETRY_S = 0.5


class Strangers:
    """Remembers such records.

    Args:
        registry: who is known.
        log: where the records are read again.
        take: given the records whose authors have become known.
    """

    def __init__(
        self, registry: RegistryView, log: EventLog, take: Callable[[Record], None]
    ) -> None:
        self._registry = registry
        self._log = log
        self._take = take
        self._keys: OrderedDict[int, tuple[str, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def note(self, record: Record) -> None:
        """Remember a record that was not admitted, if its author's key is not known."""
        try:
            header = decode_event(record.wire).header
        except PeerProtocolError:
            return
        if self._registry.public_key(header.author, header.key_id) is None:
            self._keys[record.sequence] = header.author, header.key_id
            if len(self._keys) > MAX_STRANGERS:
                self._keys.popitem(last=False)

    async def introduce(self) -> None:
        """Hand records on as soon as the registry knows their authors, for ever."""
        while True:
            await self._registry.until(lambda: any(self._known()))
            for sequence in list(self._known()):
                try:
                    record = await self._log.record_at(sequence)
                except LogUnavailableError:
                    await asyncio.sleep(RETRY_S)
                    continue
                self._keys.pop(sequence, None)
                if record is not None:
                    self._take(record)

    def _known(self) -> Iterator[int]:
        for sequence, (author, key_id) in self._keys.items():
            if self._registry.public_key(author, key_id) is not None:
                yield sequence
