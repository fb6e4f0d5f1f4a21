"""The deployment directory: where keys, certificates, state and the local server live.

mabeam.toml            settings
root.pub               the operator's root public key, hex
root.key               its secret (mode 0600); only where members are admitted
keys/<id>.key          event and connection keys of an id (mode 0600)
members/<id>.json      what is public about an id: node, roles, nkey, certificate
nats/                  server.conf generated from members/, the local server's store and log
state/<id>/journal     what the id has signed once
logs/<id>.log          output of local daemons
mabeam.db              projections, unless another database is configured
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ..core.bus.server_config import Member as ServerMember
from ..core.bus.server_config import ServerSettings, server_config
from ..core.errors import ConfigError, KeyFileError, NotFoundError
from ..core.identity import KeyPair, Role, Secrets, read_secrets, write_secrets
from ..core.names import ROOT_AUTHOR, AgentId, check_id
from .config import Config, Settings, load, write
from .key_material import generate_secrets, read_public_key

HOME_VARIABLE = "MABEAM_HOME"
DEFAULT_HOME = Path(".mabeam")
OPERATOR = "operator"
"""Id of the member that provisions the log and carries the root's events into it."""


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is public about an admitted id.

    Attributes:
        id, node, roles: as in its certificate and on its subjects.
        nkey: public key of its NATS connection.
        certificate: the root's certificate, as signed.
        revoked: it may no longer connect.
    """

    id: AgentId
    node: AgentId
    roles: tuple[Role, ...]
    nkey: str
    certificate: bytes
    revoked: bool = False


class Home:
    """One deployment directory; every method that needs a missing piece says how to get it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @classmethod
    def locate(cls, option: str | Path | None = None) -> Home:
        """The directory named by the option, ``MABEAM_HOME``, or ``./.mabeam``."""
        return cls(Path(option or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME))

    # Places -----------------------------------------------------------------------------------

    @property
    def config_path(self) -> Path:
        """The settings."""
        return self.path / "mabeam.toml"

    @property
    def root_public_path(self) -> Path:
        """The root public key."""
        return self.path / "root.pub"

    @property
    def root_key_path(self) -> Path:
        """The root secret."""
        return self.path / "root.key"

    @property
    def nats_directory(self) -> Path:
        """The local server's files."""
        return self.path / "nats"

    @property
    def server_config_path(self) -> Path:
        """The generated configuration of the server."""
        return self.nats_directory / "server.conf"

    @property
    def server_pid_path(self) -> Path:
        """Process id of the local server."""
        return self.nats_directory / "nats-server.pid"

    def key_path(self, id: str) -> Path:
        """Key file of an id."""
        return self.path / "keys" / f"{check_id(id)}.key"

    def member_path(self, id: str) -> Path:
        """Public file of an id."""
        return self.path / "members" / f"{check_id(id)}.json"

    def state_directory(self, id: str) -> Path:
        """State of an id's daemon, created when missing."""
        path = self.path / "state" / check_id(id)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def journal_path(self, id: str) -> Path:
        """Sign-once journal of an id."""
        return self.state_directory(id) / "journal"

    def log_path(self, id: str) -> Path:
        """Output of an id's daemon when it was started by :mod:`mabeam.infra.local`."""
        path = self.path / "logs" / f"{check_id(id)}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    # Content ----------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether there is a deployment here."""
        return self.root_public_path.exists()

    def require(self) -> None:
        """Raise :class:`NotFoundError` unless there is a deployment here."""
        if not self.exists:
            raise NotFoundError(
                f"there is no deployment in {self.path}",
                hint="Create one with 'mabeam init', try 'mabeam dev', or give --home DIRECTORY.",
            )

    def settings(self, **options: object) -> Settings:
        """The configuration; ``options`` are the command line's."""
        return load(self.config_path, options=options)

    def config(self, **options: object) -> Config:
        """Values of :meth:`settings`."""
        return self.settings(**options).config

    def database_url(self, settings: Config) -> str:
        """SQLAlchemy address of the projections."""
        return settings.database or f"sqlite:///{self.path / 'mabeam.db'}"

    def root_public_key(self) -> bytes:
        """The operator's root public key, 32 bytes."""
        self.require()
        return read_public_key(self.root_public_path)

    def root_key(self) -> KeyPair:
        """The operator's root key; only on the operator's machine."""
        self.require()
        if not self.root_key_path.exists():
            raise KeyFileError(
                f"the root key {self.root_key_path} is not here",
                hint="Admit, rotate and revoke on the machine that holds root.key.",
            )
        key = read_secrets(self.root_key_path).key_pair()
        if key.public_key != self.root_public_key():
            raise KeyFileError(
                f"{self.root_key_path} does not belong to {self.root_public_path}",
                hint="Restore both files from one backup.",
            )
        return key

    def secrets(self, id: str) -> Secrets:
        """Keys of an id."""
        self.require()
        path = self._secret_source(id)
        if not path.exists():
            raise KeyFileError(
                f"there is no key for {id!r} ({path})",
                hint=f"Create it with 'mabeam key new {id}', then 'mabeam key admit {id}'.",
            )
        secrets = read_secrets(path)
        if secrets.id != id:
            raise KeyFileError(f"key file {path} belongs to {secrets.id!r}")
        return secrets

    def _secret_source(self, id: str) -> Path:
        """The key file, or the systemd credential ``<id>.key`` if the service has one."""
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        given = Path(credentials) / f"{check_id(id)}.key" if credentials else None
        return given if given is not None and given.exists() else self.key_path(id)

    def new_secrets(self, id: str) -> Secrets:
        """Create a key file for an id; refuses to overwrite one."""
        path = self.key_path(id)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        secrets = generate_secrets(id)
        write_secrets(path, secrets)
        return secrets

    def member(self, id: str) -> Member:
        """Public file of an id."""
        self.require()
        path = self.member_path(id)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Member)
        except FileNotFoundError:
            raise NotFoundError(
                f"{id!r} is not a member of this deployment ({path})",
                hint=f"Run 'mabeam key admit {id}', or copy the file from the operator's machine.",
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"{path} cannot be used: {error}") from None

    def members(self) -> list[Member]:
        """All members, by id."""
        return [self.member(path.stem) for path in sorted(self.path.glob("members/*.json"))]

    def write_member(self, member: Member) -> None:
        """Create or replace the public file of an id."""
        path = self.member_path(member.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.format(msgspec.json.encode(member)) + b"\n")

    def write_server_config(self) -> None:
        """Generate the NATS server's configuration from the members that may connect.

        Where streams are stored differs from server to server: start each with ``--store_dir``.
        """
        settings = self.config()
        listen = settings.url.split(",")[0].rpartition("//")[2]
        members = [
            ServerMember(member.id, member.node, frozenset(member.roles), member.nkey)
            for member in self.members()
            if not member.revoked
        ]
        self.nats_directory.mkdir(parents=True, exist_ok=True)
        text = server_config(
            members,
            ServerSettings(listen=listen, http=settings.monitor_url.rpartition("//")[2]),
        )
        replace_file(self.server_config_path, text.encode())

    def create(self, **settings: str | int) -> KeyPair:
        """Set up an empty directory: settings and the root key. Returns the root key.

        Raises:
            ConfigError: there is a deployment here already.
        """
        if self.exists:
            raise ConfigError(
                f"there is a deployment in {self.path} already", hint="Choose another --home."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        write(self.config_path, settings)
        root = KeyPair.generate()
        write_secrets(self.root_key_path, Secrets(ROOT_AUTHOR, root.seed.hex()))
        self.root_public_path.write_text(root.public_key.hex() + "\n")
        return root


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)
