"""A real deployment, from the request to the proof, through the commands people use."""

from __future__ import annotations

import json
import shlex
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from mabeam.infra.health_address import read_health_address
from mabeam.infra.local import LocalDeployment

Command = Callable[..., Any]
AGENTS = ("a1", "a2", "a3")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def decided(deployment: LocalDeployment, mabeam: Command) -> dict[str, Any]:
    """One decided coordination, ``c-1``, already projected."""
    found = mabeam(
        *("coord", "start", "simple_consensus", "--id", "c-1", "--json"),
        *("-p", "a1,a2", "-p", "a3=2000000", "-s", 'proposal={"merge": 7}'),
        *("-s", "threshold_ppm=1000000"),
    )
    assert found.code == 0, found.err
    document: dict[str, Any] = found.document
    wait_until(lambda: "c-1" in mabeam("coord", "ls", "--status", "decided").out, timeout_s=20)
    return document


def test_a_request_is_decided(decided: dict[str, Any]) -> None:
    assert decided["outcome"]["decision"] == "agree"
    assert decided["outcome"]["weights"]["total"] == 4_000_000
    assert decided["terminal_sequence"] > decided["opened_sequence"]


def test_it_is_explained_in_words(decided: dict[str, Any], mabeam: Command) -> None:
    text = mabeam("coord", "show", "c-1").out
    assert "c-1: simple_consensus, decided: agree" in text
    assert "asked by client at " in text
    assert '{"merge": 7}' in text
    assert "coordinated by c1 (term 1)" in text
    assert "a3 (50.00 % of the weight, owner-a3): voted agree with confidence 0.90" in text
    assert "rule threshold: 100.00 % of all weight, 100.00 % needed" in text
    assert "tolerance: order by log, n = 3, tolerates crashes and silence only" in text
    voices = mabeam("coord", "show", "c-1", "--json").document["voices"]
    assert [(voice["agent"], voice["standing"]) for voice in voices] == [
        (id, "heard") for id in AGENTS
    ]


def test_it_can_be_followed_and_replayed(decided: dict[str, Any], mabeam: Command) -> None:
    watched = [
        json.loads(line) for line in mabeam("coord", "watch", "c-1", "--json").out.splitlines()
    ]
    assert watched[0]["type"] == "coordination.requested"
    assert watched[-1]["type"] == "coordination.decided"
    replayed = mabeam("coord", "replay", "c-1").out
    assert "next: append coordination.decided" in replayed
    other = mabeam("coord", "replay", "c-1", "--with", "threshold_ppm=600000", "--json").document
    assert other["changed"] == {"threshold_ppm": [1_000_000, 600_000]}
    assert mabeam("coord", "replay", "c-1", "--with", "colour=red").code == 2


def test_sql_and_log_list_the_same(decided: dict[str, Any], mabeam: Command) -> None:
    for noun, key in (("coord", "coordination"), ("agent", "agent")):
        rows = [mabeam(noun, "ls", "--json", *more).document for more in ((), ("--from-log",))]
        common = set(rows[0][0]) & set(rows[1][0])
        assert len(common) > 5
        for left, right in zip(*rows, strict=True):
            assert {name: left[name] for name in common if name != "health"} == {
                name: right[name] for name in common if name != "health"
            }
        assert key in common
    shown = mabeam("agent", "show", "a1", "--json").document
    assert shown["capabilities"] == ["review"]
    assert [entry["serial"] for entry in shown["keys"]] == [1]


def test_sql_can_be_asked_and_not_changed(decided: dict[str, Any], mabeam: Command) -> None:
    query = "SELECT author, option FROM vote WHERE coordination LIKE 'c-%' ORDER BY author"
    columns = mabeam("db", "query", "SELECT * FROM vote LIMIT 1", "--json").document[0]
    author = "author" if "author" in columns else "agent"
    found = mabeam("db", "query", query.replace("author", author), "--json")
    assert found.document == [{author: id, "option": "agree"} for id in AGENTS]
    for bad in (
        "DELETE FROM event_mirror",
        "SELECT nothing FROM vote",
        "SELECT * FROM nowhere",
        "",
    ):
        refused = mabeam("db", "query", bad)
        assert refused.code == 2, bad
        assert refused.err.startswith("error[query]: ")
    assert "| `coordination` |" in mabeam("db", "docs").out


def test_projections_are_the_same_after_a_rebuild(
    decided: dict[str, Any], deployment: LocalDeployment, mabeam: Command
) -> None:
    # Health changes are appended at any time: compare at one position, with the projector stopped.
    deployment.stop("p1")
    try:
        before = mabeam("projection", "digest", "--json").document
        assert mabeam("projection", "rebuild").code == 0
        assert mabeam("projection", "rebuild", "--from-log").code == 0
        after = mabeam("projection", "digest", "--json").document
        assert after["models"] == before["models"]
        assert after["generation"] == before["generation"] + 2
        states = {row["state"] for row in mabeam("projection", "ls", "--json").document}
        assert states == {"live"}
    finally:
        deployment.spawn_projector("p1")


def test_only_the_requester_cancels_and_nothing_that_has_ended(
    decided: dict[str, Any], mabeam: Command
) -> None:
    ended = mabeam("coord", "cancel", "c-1")
    assert (ended.code, ended.out) == (2, "")
    assert "'c-1' has ended already: decided" in ended.err
    foreign = mabeam("coord", "cancel", "c-1", "--as", "a1")
    assert (foreign.code, foreign.out) == (2, "")
    assert "'client' asked for 'c-1', so only 'client' may cancel it" in foreign.err
    assert "hint: Use --as client." in foreign.err
    assert mabeam("coord", "cancel", "nothing").code == 4


def test_the_audit_is_clean_from_every_source(decided: dict[str, Any], mabeam: Command) -> None:
    for source, *arguments in (
        ("selection", "c-1"),
        ("log", "--all"),
        ("mirror", "--all", "--source", "mirror"),
    ):
        found = mabeam("audit", "verify", *arguments, "--json")
        assert found.code == 0, found.out + found.err
        assert found.document["ok"]
        assert found.document["source"] == source
    assert mabeam("audit", "verify", "nothing").code == 4


def test_a_bundle_verifies_alone_and_a_flipped_byte_is_found(
    decided: dict[str, Any],
    deployment: LocalDeployment,
    mabeam: Command,
    command: Command,
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "c-1.bundle"
    exported = mabeam("coord", "export", "c-1", "--out", str(bundle))
    assert exported.code == 0
    advice = exported.out.partition("verify with: mabeam ")[2].splitlines()[0]
    assert command(*shlex.split(advice)).out.startswith("clean: ")
    root = deployment.home.root_public_key().hex()
    verify = ("audit", "verify", "--root-key", root, "--json", "--bundle")
    assert command(*verify, str(bundle)).code == 0
    forged = tmp_path / "forged.bundle"
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    forged.write_bytes(data)
    found = command(*verify, str(forged))
    assert found.code == 3
    assert found.document["first_divergence"]["severity"] == "wrong"
    assert command(*verify, str(tmp_path / "missing")).code == 4
    assert command("audit", "verify", "--bundle", str(bundle)).code == 2


def test_an_impossible_request_fails_with_its_reason(
    deployment: LocalDeployment, mabeam: Command
) -> None:
    found = mabeam("coord", "start", "simple_consensus", "-p", "a1,ghost", "-s", "proposal=x")
    assert found.code == 1
    assert "agents_not_found" in found.err
    assert "ghost" in found.err
    query = ("--capability", "review", "--at-least", "2")
    chosen = mabeam("coord", "start", "simple_consensus", *query, "-s", "proposal=x", "--json")
    assert chosen.document["outcome"]["decision"] == "agree"


def test_the_doctor_knows_development_from_production(
    decided: dict[str, Any], mabeam: Command
) -> None:
    strict, relaxed = mabeam("doctor"), mabeam("doctor", "--dev")
    assert (strict.code, relaxed.code) == (1, 0), strict.out
    assert "FAIL server: stream EVT has 1 replica(s), 3 are needed" in strict.out
    assert "not production-ready" in strict.out


def test_daemons_answer_health_requests_and_count(
    decided: dict[str, Any], deployment: LocalDeployment
) -> None:
    for id in ("c1", "p1", "a1"):
        address = read_health_address(deployment.home, id)
        assert address is not None
        with urllib.request.urlopen(f"http://{address.host}:{address.port}/readyz") as answer:
            assert json.load(answer)["ready"]
    assert 'mabeam_protocol_completions_total{protocol="simple_consensus",result="success"}' in (
        deployment.metrics("c1")
    )
    assert 'mabeam_requests_answered_total{result="ok"}' in deployment.metrics("a1")
    wait_until(lambda: "mabeam_projector_lag 0.0" in deployment.metrics("p1"), timeout_s=20)
    lines = [json.loads(line) for line in deployment.home.log_path("c1").read_text().splitlines()]
    ended = [line for line in lines if line["event"] == "mabeam.protocol.completed"]
    assert [line["coordination"] for line in ended].count("c-1") == 1


def test_keys_rotate_and_are_revoked(deployment: LocalDeployment, mabeam: Command) -> None:
    assert mabeam("key", "admit", "temp", "--controller", "guest").code == 0
    before = mabeam("key", "show", "temp", "--json").document
    assert mabeam("key", "rotate", "temp", "--json").document["server_reloaded"]
    after = mabeam("key", "show", "temp", "--json").document
    assert (after["serial"], after["controller"]) == (before["serial"] + 1, "guest")
    assert after["event_key"] != before["event_key"]
    assert mabeam("key", "revoke", "temp", "--reason", "test").code == 0
    shown = mabeam("agent", "show", "temp", "--json").document
    assert [key["end_reason"] for key in shown["keys"]] == ["rotated_key", "revoked_key"]
    refused = mabeam("coord", "cancel", "c-1", "--as", "temp")
    assert refused.code == 5
    assert "refuses the key" in refused.err
    assert mabeam("key", "revoke", "nobody").code == 4


def test_a_key_made_elsewhere_is_admitted(
    deployment: LocalDeployment, mabeam: Command, command: Command
) -> None:
    public = command("key", "new", "remote", "--json").document
    found = mabeam(
        *("key", "admit", "remote", "--node", "north"),
        *("--event-key", public["event_key"], "--nkey", public["nkey"]),
    )
    assert found.code == 0
    shown = mabeam("key", "show", "remote", "--json").document
    assert (shown["event_key"], shown["secret_here"]) == (public["event_key"], False)
