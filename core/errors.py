"""The error tree. Every error has a stable ``code``, a message that names the input, and a
``hint``.

Two families must never be confused: :class:`LocalProtocolError` is a fault of this program,
:class:`PeerProtocolError` is the fault of the author of an event and carries the reason under which
that event is rejected everywhere.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MabeamError(Exception):
    """Root of all errors raised on purpose by mabeam.

    Attributes:
        code: stable identifier, the same across releases.
        exit_code: exit status of the command line when this error ends a command.
        hint: the next thing to do, one sentence, or an empty string.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(MabeamError):
    """The caller asked for something that makes no sense (bad option, bad identifier)."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, variable or option holds an unusable value."""

    code = "invalid_config"


class InvalidFieldError(ConfigError):
    """A parameter is out of its bounds.

    Attributes:
        details: ``field``, ``bound`` and ``value``, for ``coordination.failed``.
    """

    def __init__(self, field: str, bound: str, value: object) -> None:
        super().__init__(
            f"{field} is {value!r}; it must be {bound}",
            hint="The parameters and their bounds stand in docs/protocols/, one page a protocol.",
        )
        self.details: dict[str, Any] = {"field": field, "bound": bound, "value": repr(value)[:256]}


class NotFoundError(MabeamError):
    """Something named by the caller does not exist."""

    code = "not_found"
    exit_code = 4


class LimitError(MabeamError):
    """A stated limit was reached; nothing was lost, the operation was refused."""

    code = "over_limit"


class KeyFileError(MabeamError):
    """A key or certificate file is missing, unreadable, too open or damaged."""

    code = "key_file"


class VerificationError(MabeamError):
    """Something that should verify does not."""

    code = "verification_failed"
    exit_code = 3


class LocalProtocolError(MabeamError):
    """This program broke its own rules: a bug, never a peer's fault."""

    code = "local_protocol_error"


class SignOnceError(LocalProtocolError):
    """A second, different event was about to be signed under a key that is signed once."""

    code = "sign_once"


class PeerProtocolError(MabeamError):
    """An event breaks a rule; its author is at fault and the event has no effect.

    Attributes:
        reason: one of the rejection reasons of the specification (``late``, ``duplicate`` …).
        evidence: ids of the events that prove misbehaviour, if the breach is provable.
    """

    code = "peer_protocol_error"

    def __init__(
        self, reason: str, message: str, *, hint: str = "", evidence: tuple[bytes, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.evidence = evidence


class LogError(MabeamError):
    """The event log refused or failed an operation."""

    code = "log"
    exit_code = 5


class LogUnavailableError(LogError):
    """The log cannot be reached, or did not answer within the deadline.

    For an append this never means "not stored": the same bytes may be sent again.
    """

    code = "log_unavailable"


class SequenceConflictError(LogError):
    """An append lost the race: the coordination's ``ctl`` subjects moved on.

    Attributes:
        last_sequence: the last ``ctl`` sequence the log reported, if it did.
    """

    code = "sequence_conflict"
    exit_code = 1

    def __init__(self, message: str, *, last_sequence: int | None = None) -> None:
        super().__init__(message, hint="Read the coordination again and decide anew.")
        self.last_sequence = last_sequence


class SequenceGapError(LogError):
    """The log skipped or changed a sequence number that had been acknowledged."""

    code = "sequence_gap"


class AppendRefusedError(LogError):
    """The log refused the event for good: too large, not permitted, stream full."""

    code = "append_refused"
    exit_code = 1


class PermissionRefusedError(AppendRefusedError):
    """The connection is not allowed to publish on the event's subject."""

    code = "permission_refused"


class LogFullError(AppendRefusedError):
    """The stream's byte or message quota is used up; it never discards old events."""

    code = "log_full"
