"""Who is admitted, and who is not: void keys stay void, and nothing is said twice in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mabeam.core.memory_transport import MemoryBroker, MemoryTransport
from mabeam.core.names import REGISTRY
from mabeam.infra.cli import main as program
from mabeam.infra.cli.invocation import Invocation
from mabeam.infra.home import Home
from mabeam.infra.membership import announce, set_up

KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
NKEY = "U" + "A" * 55


class Operator:
    """The command on a home of its own whose log is in memory."""

    def __init__(self, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.transport = MemoryTransport(MemoryBroker())
        self._capsys = capsys
        self.do(lambda transport: announce(home, transport))

    def do(self, work: Callable[[MemoryTransport], Awaitable[Any]]) -> Any:
        """Something over the operator's connection."""

        async def done() -> Any:
            return await work(self.transport)

        return asyncio.run(done())

    def key(self, *arguments: str) -> tuple[int, list[str]]:
        """``mabeam key ARGUMENTS``: its status and the lines it wrote."""
        status = program.run(["--home", str(self.home.path), "key", *arguments])
        written = self._capsys.readouterr()
        return status, [*written.out.splitlines(), *written.err.splitlines()]

    def registry_length(self) -> int:
        """Events in the registry."""
        return len(self.do(lambda transport: transport.log.read(REGISTRY)))


@pytest.fixture
def operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Operator:
    home = Home(tmp_path / "home")
    set_up(home)
    it = Operator(home, capsys)
    monkeypatch.setattr(Invocation, "with_transport", lambda self, id, work: it.do(work))
    return it


def test_a_revoked_key_is_not_admitted_again(operator: Operator) -> None:
    assert operator.key("admit", "r5")[0] == 0
    assert operator.key("revoke", "r5", "--reason", "host lost")[1][0] == "revoked r5"
    length, secret = operator.registry_length(), operator.home.key_path("r5").read_bytes()

    status, lines = operator.key("admit", "r5", "--role", "client")
    assert (status, len(lines)) == (1, 2)
    assert lines[0].startswith("error[void_key]: the key of 'r5' was revoked")
    assert "mabeam key admit r5 --new-key" in lines[1]
    assert operator.registry_length() == length
    assert operator.home.member("r5").revoked
    assert operator.home.key_path("r5").read_bytes() == secret


def test_a_void_key_is_void_under_any_id_and_without_its_file(operator: Operator) -> None:
    assert operator.key("admit", "r5", "--event-key", KEY, "--nkey", NKEY)[0] == 0
    assert operator.key("revoke", "r5")[0] == 0
    status, lines = operator.key("admit", "r6", "--event-key", KEY, "--nkey", NKEY)
    assert (status, lines[0].split(":")[0]) == (1, "error[void_key]")
    assert not operator.home.member_path("r6").exists()


def test_new_keys_are_made_when_asked_for(operator: Operator) -> None:
    operator.key("admit", "r5")
    old = operator.home.secrets("r5").key_pair()
    operator.home.journal_path("r5").write_bytes(b"signed once")
    assert operator.key("admit", "r5", "--new-key")[0] == 2, "it has a key in force"
    assert operator.home.secrets("r5").key_pair().public_key == old.public_key

    operator.key("revoke", "r5")
    status, lines = operator.key("admit", "r5", "--new-key")
    assert (status, lines[0]) == (0, "admitted r5 as agent")
    assert operator.home.secrets("r5").key_pair().public_key != old.public_key
    assert not operator.home.member("r5").revoked
    assert not operator.home.journal_path("r5").exists()
    aside = operator.home.key_path("r5").with_suffix(f".{old.key_id.hex()}")
    assert aside.stat().st_mode & 0o777 == 0o600


def test_who_is_admitted_already_stays_as_it_is(operator: Operator) -> None:
    operator.key("admit", "r1", "--node", "north")
    before, length = operator.home.member("r1"), operator.registry_length()
    status, lines = operator.key("admit", "r1", "--node", "north")
    assert (status, lines) == (0, ["r1 is admitted already as agent"])
    operator.home.key_path("r1").unlink()  # it went to its host
    assert operator.key("admit", "r1", "--node", "north")[1] == lines
    assert (operator.home.member("r1"), operator.registry_length()) == (before, length)

    for change in (["--role", "client"], ["--controller", "lab"], ["--node", "south"]):
        assert operator.key("admit", "r1", *change)[1][0].startswith("admitted r1 as")
    assert operator.registry_length() == length + 3
    assert not operator.home.key_path("r1").exists(), "its keys are those it had"


def test_whoever_has_another_server_is_told_how_to_reload_it(operator: Operator) -> None:
    config = operator.home.server_config_path
    advice = f"no server of 'mabeam dev' runs here; give yours {config}, then: kill -HUP PID"
    assert operator.key("admit", "r1")[1] == ["admitted r1 as agent", advice]
    assert operator.key("revoke", "r1")[1] == ["revoked r1", advice]


def test_revoked_is_revoked(operator: Operator) -> None:
    operator.key("admit", "r1")
    operator.key("revoke", "r1")
    length = operator.registry_length()
    assert operator.key("revoke", "r1") == (0, ["r1 is revoked already"])
    assert operator.registry_length() == length


@pytest.mark.parametrize(
    ("event_key", "nkey", "named"),
    [
        ("abc", NKEY, "--event-key 'abc'"),
        ("z" * 64, NKEY, "--event-key"),
        (KEY, "U1", "--nkey 'U1'"),
    ],
)
def test_the_key_that_is_wrong_is_named(
    operator: Operator, event_key: str, nkey: str, named: str
) -> None:
    status, lines = operator.key("admit", "zz", "--event-key", event_key, "--nkey", nkey)
    assert (status, len(lines)) == (2, 2)
    assert lines[0].startswith(f"error[usage]: {named}")
    assert lines[1].startswith("hint: Give the")
