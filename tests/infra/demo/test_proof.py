"""What the demonstration shows below a command is what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_log import decided

from mabeam.core.audit.bundle import encode_bundle
from mabeam.infra.cli import main as program
from mabeam.infra.demo.narrator import Narrator
from mabeam.infra.demo.proof import DemoError, run_command
from mabeam.infra.demo.report import show

LOG = decided()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_command_and_what_it_prints(
    damaged: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, root = tmp_path / "c1.bundle", tmp_path / "root.pub"
    data = encode_bundle("c1", LOG.records, LOG.root.public_key)
    bundle.write_bytes(data.replace(b'"stored_ns":', b'"stored_ns":1', 1) if damaged else data)
    root.write_text(LOG.root.public_key.hex())
    words = ("audit", "verify", "--bundle", str(bundle), "--root-key", str(root))
    status = program.run(words)
    printed = capsys.readouterr().out

    run = run_command(None, *words)
    assert (run.exit_code, f"{run.output}\n") == (status, printed)
    assert run.divergence().startswith("wrong damaged_bundle") == damaged
    audit = {"command": run.command, "exit_code": run.exit_code, "output": run.output}
    committee = {"decided": 0, "correct": 0, "accuracy": None}
    document = {"biopsies": 0, "agents": [], "committee": committee}
    show(Narrator(json=False), {**document, "queries": [], "checks": [], "audits": [audit]})
    command = "$ mabeam audit verify --bundle c1.bundle --root-key root.pub; echo $?"
    assert f"{command}\n{printed}{status}\n" in capsys.readouterr().out


def test_a_command_that_cannot_do_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match=r"audit verify --all ended with 2: error\[usage\]"):
        run_command(tmp_path / "none", "audit", "verify", "--all")
