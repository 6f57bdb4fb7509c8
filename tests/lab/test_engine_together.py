"""Trials trained in two processes at once through Lightning Fabric: records, failures, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lab_trained
import pytest

from landform.lab.engines.together import Scale, Together
from landform.lab.errors import UsageError
from landform.lab.runner import Tally, run_study
from landform.lab.store import Store

PATIENCE = 300.0

SCRIPT = """
import json, sys
from contextlib import closing
from dataclasses import asdict
import lab_trained
from landform.lab.engines.together import Scale, Together
from landform.lab.runner import run_study
from landform.lab.store import Store

path, devices, act = sys.argv[1], int(sys.argv[2]), sys.argv[3]
scale = Scale(devices=devices)
together = Together(scale.launch())
if not together.leads:
    together.follow()
    sys.exit()
with closing(together), Store(path, create=True) as store:
    result = run_study(lab_trained.study, "laptop", store=store, engine=together, device=str(scale),
                       overrides={"act": act})
print(json.dumps(asdict(result.trials)))
"""


@pytest.fixture(autouse=True)
def fabric_is_installed() -> None:
    pytest.importorskip("lightning_fabric", reason="the extra scale (Lightning Fabric) is not installed")


def launched(tmp_path: Path, act: str, *under: str) -> tuple[Tally, Any, Any]:
    """The tally of a run in two processes, begun by Fabric or ``under`` torchrun; its trials and records."""
    script, path = tmp_path / "script.py", tmp_path / "results.sqlite"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *under, str(script), str(path), "2", act],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    with Store(path) as store:
        (run,) = store.runs()
        assert run.device == "cpu --devices 2"
        return Tally(**json.loads(done.stdout)), store.trials(run), store.records(run)


def test_two_processes_record_what_one_does_and_a_diverged_trial_fails_alone(tmp_path: Path) -> None:
    tally, trials, records = launched(tmp_path, "diverge")
    assert tally == Tally(2, 1, 0, 1)
    assert "not finite" in trials["traceback"][0]
    with Store(tmp_path / "alone.sqlite", create=True) as store:
        alone = store.records(run_study(lab_trained.study, "laptop", store=store, workers=0).run)
    alone = alone[alone["seed"] == 1]
    assert list(records["metric"]) == list(alone["metric"]) == ["loss", "loss", "weights", "ranks"]
    assert list(records["value"])[:3] == pytest.approx(list(alone["value"])[:3], rel=1e-12)
    assert list(records["value"])[3] == 2


def test_an_error_ends_the_processes_and_is_stored(tmp_path: Path) -> None:
    tally, trials, _ = launched(tmp_path, "raise", "-m", "torch.distributed.run", "--nproc-per-node", "2")
    assert tally == Tally(2, 0, 0, 2)
    assert "RuntimeError: as asked" in trials["traceback"][0]
    assert "not begun" in trials["traceback"][1]


def test_one_device_goes_on_after_an_error_and_has_its_fabric(tmp_path: Path) -> None:
    with Store(tmp_path / "results.sqlite", create=True) as store:
        scale = Scale()
        together = Together(scale.launch())
        result = run_study(
            lab_trained.study, "laptop", store=store, engine=together, device=str(scale), overrides={"act": "raise"}
        )
        together.close()
        assert result.trials == Tally(2, 1, 0, 1)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"devices": 0}, "devices=0: 1 or more"),
        ({"nodes": 2}, "nodes=2: begin the command on every node with torchrun"),
        ({"device": "mps"}, "device=mps"),
    ],
)
def test_what_no_machine_has_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Scale(**asked)


def test_results_of_other_options_are_other_results() -> None:
    assert str(Scale("cpu", 1, 1, "ddp", "bf16-mixed")) == "cpu --devices 1 --strategy ddp --precision bf16-mixed"
