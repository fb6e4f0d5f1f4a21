"""A hearing within one process: the same agents, coordinator and proofs, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from deployment import Deployment

from mabeam.core.audit.bundle import export_coordination
from mabeam.core.audit.bundle_audit import verify_bundle
from mabeam.core.audit.verify import audit_log
from mabeam.infra.demo import voting
from mabeam.infra.demo.clinic import Logistic, Neighbours, Stump
from mabeam.infra.demo.data import held_out_biopsies
from mabeam.infra.demo.evaluation import agents_table, committee_row
from mabeam.infra.demo.proof import DemoError, flip_one_byte
from mabeam.infra.demo.voting import Hearing, Incident
from mabeam.protocols import PROTOCOLS

AGENTS = {"logistic": Logistic, "neighbours": Neighbours, "stump": Stump}


async def test_a_hearing_decides_reports_the_truth_and_can_be_proved(tmp_path: Path) -> None:
    decided: list[int] = []
    happened: list[tuple[int, str]] = []
    biopsies = held_out_biopsies(12)
    async with Deployment(tmp_path) as deployment:
        await deployment.coordinator("c1")
        for id, model in AGENTS.items():
            await deployment.agent(id, model())
        client = await deployment.client()
        hearing = Hearing(client, list(AGENTS), decided.append)

        async def incident() -> None:
            happened.append((len(hearing.verdicts), await hearing.busiest_coordinator()))

        await hearing.run(biopsies, [Incident(4, incident)])

        assert decided == list(range(1, 13))
        assert [(count >= 4, who) for count, who in happened] == [(True, "c1")]
        assert {verdict.biopsy for verdict in hearing.verdicts} == set(biopsies)
        assert all(set(verdict.votes) == set(AGENTS) for verdict in hearing.verdicts)
        table = agents_table(hearing.verdicts, {id: kind.model_type for id, kind in AGENTS.items()})
        assert table[-1]["agent"] == "stump"
        assert committee_row(hearing.verdicts)["correct"] > table[-1]["correct"]

        log, root = client.transport.log, deployment.root.public_key
        audit = await audit_log(log, root, PROTOCOLS)
        assert audit.clean, audit.first_divergence
        assert audit.endings == {"decided": 12}
        assert audit.rejections == {}

        name = hearing.verdicts[0].coordination
        bundle = await export_coordination(log, name, root)
    (tmp_path / "bundle").write_bytes(bundle)
    clean = verify_bundle(bundle, root, PROTOCOLS)
    assert clean.clean, clean.first_divergence
    flip_one_byte(tmp_path / "bundle", tmp_path / "forged")
    forged = (tmp_path / "forged").read_bytes()
    assert sum(a != b for a, b in zip(bundle, forged, strict=True)) == 1
    report = verify_bundle(forged, root, PROTOCOLS)
    assert not report.ok
    assert report.first_divergence is not None
    assert "vote_cast by " in report.first_divergence.message


async def test_silence_of_all_coordinators_is_an_error_that_names_the_biopsy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voting, "PATIENCE_S", 0.1)
    async with Deployment(tmp_path) as deployment:
        hearing = Hearing(await deployment.client(), ["a"], lambda count: None)
        with pytest.raises(DemoError, match=r"biopsy-\d+ got no decision"):
            await hearing.run(held_out_biopsies(1))


def test_a_file_without_a_vote_cannot_be_forged(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b'{"subject":".simple_vote_cast.","wire":"!!!!!!!!!!!!"}\n')
    with pytest.raises(DemoError, match="no vote"):
        flip_one_byte(tmp_path / "bundle", tmp_path / "forged")
