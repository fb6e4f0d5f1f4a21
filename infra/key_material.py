"""Keys as they come and go: fresh secrets, public keys in text, the public half of a seed."""

from __future__ import annotations

from pathlib import Path

from ..core.bus.nkey import encode_user_seed
from ..core.errors import KeyFileError
from ..core.identity import KeyPair, Secrets, check_public_key
from ..core.names import check_id


def generate_secrets(id: str) -> Secrets:
    """Fresh event and connection keys."""
    connection = KeyPair.generate()
    return Secrets(check_id(id), KeyPair.generate().seed.hex(), encode_user_seed(connection.seed))


def nkey_of(secrets: Secrets) -> str:
    """Public NATS key (``U…``) of an id's connection."""
    import nkeys

    if not secrets.nkey_seed:
        raise KeyFileError(f"the key file of {secrets.id!r} holds no connection key")
    try:
        return str(nkeys.from_seed(secrets.nkey_seed.encode()).public_key.decode())
    except (nkeys.NkeysError, ValueError) as error:
        raise KeyFileError(f"the connection key of {secrets.id!r} is damaged: {error}") from None


def read_public_key(source: Path | str) -> bytes:
    """A root public key from its file or from 64 hex digits.

    Raises:
        KeyFileError: missing or damaged.
    """
    text = str(source)
    if isinstance(source, Path) or len(text) != 64:
        try:
            text = Path(source).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KeyFileError(
                f"cannot read the root public key {source}: {error}",
                hint="Give 64 hex digits or the path of a root.pub file.",
            ) from None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        raise KeyFileError(f"{source} does not hold a public key in hex") from None
    check_public_key(key)
    return key
