"""A subscription that outlives the client it was made with."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import nats.aio.subscription
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..errors import PermissionRefusedError
from .cancellation import cancellation_kept

Handler = Callable[[Msg], Awaitable[None]]

PENDING_MESSAGES = 256 * 1024
PENDING_BYTES = 64 * 1024 * 1024
"""What the client library may hold before it drops (and counts) messages."""


class Subscription:
    """Interest in one subject; ``Connection`` attaches it to every new client.

    Attributes:
        refused: set once the server has refused the subscription.
        on_refused: called when that happens.
    """

    def __init__(
        self, subject: str, handler: Handler, forget: Callable[[Subscription], None]
    ) -> None:
        self.subject = subject
        self.refused: PermissionRefusedError | None = None
        self.on_refused: Callable[[], None] | None = None
        self._handler = handler
        self._forget = forget
        self._attached: nats.aio.subscription.Subscription | None = None

    async def attach(self, client: Client) -> None:
        """Subscribe on ``client``."""

        async def deliver(message: Msg) -> None:
            await self._handler(message)

        with cancellation_kept():
            self._attached = await client.subscribe(
                self.subject,
                cb=deliver,
                pending_msgs_limit=PENDING_MESSAGES,
                pending_bytes_limit=PENDING_BYTES,
            )

    def refuse(self, error: PermissionRefusedError) -> None:
        """Record that the server refused."""
        self.refused = error
        if self.on_refused is not None:
            self.on_refused()

    async def close(self) -> None:
        """Give up the interest; safe to repeat."""
        self._forget(self)
        attached, self._attached = self._attached, None
        if attached is not None:
            with contextlib.suppress(nats.errors.Error, OSError), cancellation_kept():
                await attached.unsubscribe()
