"""The deployment directory: every missing piece is named, with the way to get it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mabeam.core.errors import ConfigError, KeyFileError, MabeamError, NotFoundError
from mabeam.core.identity import verify_certificate
from mabeam.infra.home import OPERATOR, Home
from mabeam.infra.key_material import nkey_of, read_public_key
from mabeam.infra.membership import Applicant, enrol, set_up


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    set_up(home)
    return home


def test_option_beats_variable_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MABEAM_HOME", raising=False)
    assert Home.locate().path == tmp_path / ".mabeam"
    monkeypatch.setenv("MABEAM_HOME", str(tmp_path / "v"))
    assert Home.locate().path == tmp_path / "v"
    assert Home.locate(tmp_path / "o").path == tmp_path / "o"


def test_a_new_home_holds_secrets_that_only_the_owner_reads(home: Home) -> None:
    for path in (home.root_key_path, home.key_path(OPERATOR)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert home.root_key().public_key == home.root_public_key()
    certificate = verify_certificate(home.member(OPERATOR).certificate, home.root_public_key())
    assert certificate.event_key == home.secrets(OPERATOR).key_pair().public_key
    assert certificate.nkey == nkey_of(home.secrets(OPERATOR))
    with pytest.raises(ConfigError, match="already"):
        home.create()


def test_the_server_configuration_follows_the_members(home: Home) -> None:
    member = enrol(home, Applicant("a1"))
    home.write_server_config()
    text = home.server_config_path.read_text()
    assert member.nkey in text
    assert "sync_interval: always" in text
    home.write_member(type(member)(member.id, member.node, member.roles, member.nkey, b"", True))
    home.write_server_config()
    assert member.nkey not in home.server_config_path.read_text()


def test_missing_pieces_say_what_to_do(home: Home, tmp_path: Path) -> None:
    nowhere = Home(tmp_path / "nowhere")
    cases: list[tuple[type[MabeamError], str, object]] = [
        (NotFoundError, "mabeam init", nowhere.root_public_key),
        (NotFoundError, "mabeam init", lambda: nowhere.secrets("a1")),
        (KeyFileError, "mabeam key new a1", lambda: home.secrets("a1")),
        (NotFoundError, "mabeam key admit a1", lambda: home.member("a1")),
    ]
    for kind, hint, call in cases:
        assert callable(call)
        with pytest.raises(kind) as refusal:
            call()
        assert hint in refusal.value.hint
    home.root_key_path.unlink()
    with pytest.raises(KeyFileError, match="is not here"):
        home.root_key()


def test_open_and_foreign_key_files_are_refused(home: Home) -> None:
    home.new_secrets("a1")
    home.key_path("a1").chmod(0o640)
    with pytest.raises(KeyFileError, match="open to others") as refusal:
        home.secrets("a1")
    assert "chmod 600" in refusal.value.hint
    home.key_path("a1").chmod(0o600)
    home.key_path("a1").rename(home.key_path("a2"))
    with pytest.raises(KeyFileError, match="belongs to 'a1'"):
        home.secrets("a2")


def test_a_service_credential_comes_before_the_key_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = home.new_secrets("a1")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    home.key_path("a1").rename(credentials / "a1.key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert home.secrets("a1") == given


def test_a_public_key_is_read_from_hex_or_from_a_file(home: Home) -> None:
    key = home.root_public_key()
    assert read_public_key(key.hex()) == key
    assert read_public_key(str(home.root_public_path)) == key
    for bad in ("zz" * 32, "/nowhere/root.pub"):
        with pytest.raises(KeyFileError):
            read_public_key(bad)
