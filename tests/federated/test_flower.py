"""The Flower apps: in this process against ``simulate`` and Flower's own strategies, and over real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from landform.federated import (
    MOON,
    SCAFFOLD,
    SGD,
    ClientUpdate,
    FedAdam,
    FedAvg,
    FedAvgM,
    FederatedData,
    FedLDStrategy,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    LocalGrid,
    ServerRule,
    normalisation_names,
    partition_dirichlet,
    simulate,
    to_flower,
)
from landform.models import MLP

CLIENTS = 5


def needs_flower() -> None:
    pytest.importorskip("flwr", reason="the extra 'federated' (flwr) is not installed")
    pytest.importorskip("flwr.supercore.task_identity", reason="this version of Flower has another private place")


def model() -> nn.Module:
    return MLP(6, (8,), 4, norm="layer").double()


@pytest.fixture(scope="module")
def data() -> FederatedData:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(6, 4, generator=generator, dtype=torch.float64)).argmax(1)
    return FederatedData(x, y, partition_dirichlet(y, CLIENTS, 0.5, rng=0), test_fraction=0.2)


SETTINGS: dict[str, Any] = {"lr": 0.1, "steps": 3, "batch_size": 10}
PAIRS: dict[str, tuple[ClientUpdate, ServerRule]] = {
    "fedavg": (SGD(**SETTINGS), FedAvg()),
    "epochs": (SGD(lr=0.1, epochs=2, batch_size=16), FedMedian()),
    "scaffold": (SCAFFOLD(**SETTINGS), FedAvgM(weighted=False)),
    "moon": (MOON(**SETTINGS), FedAdam()),
    "fedbn": (SGD(personal=normalisation_names(model()), **SETTINGS), FedYogi()),
    "fedld": (FedLDStrategy().client_update(**SETTINGS), FedLDStrategy()),
    "krum": (SGD(**SETTINGS), Krum(1)),
}


@pytest.mark.parametrize("fraction", [1.0, 0.6])
@pytest.mark.parametrize("name", PAIRS)
def test_apps_give_what_the_simulation_gives(name: str, fraction: float, data: FederatedData) -> None:
    needs_flower()
    update, rule = PAIRS[name]
    results: list[Any] = []
    client_app, server_app = to_flower(
        update, rule, data=data, model_fn=model, rounds=3, fraction=fraction, seed=4, finish=results.append
    )
    LocalGrid(client_app, CLIENTS).serve(server_app)
    (result,) = results
    history = simulate(data, model, update, rule, rounds=3, fraction=fraction, seed=4)
    sent = result.arrays.to_torch_state_dict()
    for key, p in history.params.items():
        if not update.is_personal(key):
            assert torch.allclose(sent[key], p, rtol=0, atol=1e-12)
    losses = [result.train_metrics_clientapp[number]["loss"] for number in (1, 2, 3)]
    assert losses == pytest.approx(history.losses.tolist(), abs=1e-12)
    sizes = torch.tensor([float(len(part)) for part in data.test_parts]).double()
    if name != "fedbn" or fraction == 1.0:  # a node that has not trained yet tests the layers it has been sent
        for number in (1, 2, 3):
            mean = float(history.client_accuracy[number - 1] @ sizes / sizes.sum())
            assert result.evaluate_metrics_clientapp[number]["accuracy"] == pytest.approx(mean)


ADAPTIVE = {"eta": 0.05, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}
RULES: dict[str, tuple[ServerRule, dict[str, Any]]] = {
    "FedAvg": (FedAvg(), {}),
    "FedAvgM": (FedAvgM(lr=0.8, momentum=0.9), {"server_learning_rate": 0.8, "server_momentum": 0.9}),
    "FedAdam": (FedAdam(0.05, 0.8, 0.95, 0.01), ADAPTIVE),
    "FedYogi": (FedYogi(0.05, 0.8, 0.95, 0.01), ADAPTIVE),
    "FedMedian": (FedMedian(), {}),
    "FedTrimmedAvg": (FedTrimmedAvg(0.2), {"beta": 0.2}),
    "Krum": (Krum(1), {"num_malicious_nodes": 1}),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_are_those_of_flowers_own_strategies(name: str, data: FederatedData) -> None:
    """Three rounds of Flower's strategy over our clients, against three of ours in the simulation."""
    needs_flower()
    from flwr.app import ArrayRecord
    from flwr.serverapp import strategy

    rule, arguments = RULES[name]
    update = SGD(**SETTINGS)
    client_app, _ = to_flower(update, rule, data=data, model_fn=model, rounds=3)
    history = simulate(data, model, update, rule, rounds=3)
    first = simulate(data, model, SGD(lr=0.0, steps=1), FedAvg(), rounds=1).params
    theirs = getattr(strategy, name)(fraction_evaluate=0.0, **arguments)
    result = theirs.start(
        grid=LocalGrid(client_app, CLIENTS), initial_arrays=ArrayRecord(torch_state_dict=first), num_rounds=3
    )
    for key, p in result.arrays.to_torch_state_dict().items():
        assert torch.allclose(history.params[key], p.double(), rtol=0, atol=1e-6)


def test_a_client_that_fails_is_left_out(data: FederatedData, caplog: pytest.LogCaptureFixture) -> None:
    needs_flower()
    calls: dict[int, int] = {}

    def own(context: Any) -> Any:
        number = context.node_config["partition-id"]
        calls[number] = calls.get(number, 0) + 1
        if number == 1 and calls[number] == 2:
            raise OSError("the disk is gone")
        return data.client(number)

    def run(source: Any) -> Any:
        results: list[Any] = []
        client_app, server_app = to_flower(
            SGD(**SETTINGS), FedAvg(), data=source, clients=CLIENTS, model_fn=model, rounds=2, eval_every=None,
            finish=results.append,
        )  # fmt: skip
        LocalGrid(client_app, CLIENTS).serve(server_app)
        return results[0]

    result = run(own)
    assert [result.train_metrics_clientapp[n]["failures"] for n in (1, 2)] == [0, 1]
    assert "round 2 goes on without node(s) 1" in caplog.text
    assert "the disk is gone" in caplog.text
    whole = run(data)
    sent, expected = (r.arrays.to_torch_state_dict() for r in (result, whole))
    assert not torch.allclose(sent["head.weight"], expected["head.weight"], atol=1e-6)

    def dead(context: Any) -> Any:
        raise OSError("no data")

    nothing = run(dead)
    assert nothing.train_metrics_clientapp[2]["failures"] == CLIENTS
    assert not nothing.arrays  # nobody has ever answered


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"timeout": 0.0}, "timeout=0.0"),
        ({"data": lambda context: None}, "clients=None"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str, data: FederatedData) -> None:
    needs_flower()
    arguments: dict[str, Any] = {"data": data, "model_fn": model, "rounds": 1} | change
    with pytest.raises(ValueError, match=message):
        to_flower(SGD(), FedAvg(), **arguments)


def test_without_flower_the_extra_is_named(data: FederatedData, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "flwr" or name.startswith("flwr.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(ImportError, match=r"landform\[federated\]"):
        to_flower(SGD(), FedAvg(), data=data, model_fn=model, rounds=1)
    with pytest.raises(ImportError, match=r"landform\[federated\]"):
        LocalGrid(object(), 2)  # type: ignore[arg-type]


# --- over processes ------------------------------------------------------------------------------------------------

WORLD = """
import torch

from landform.federated import FedLDStrategy, FederatedData, partition_dirichlet
from landform.models import MLP

STRATEGY = FedLDStrategy()
UPDATE = STRATEGY.client_update(lr=0.1, steps=3, batch_size=10)


def model():
    return MLP(6, (8,), 4).double()


def world():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 6, generator=generator, dtype=torch.float64)
    y = (x @ torch.randn(6, 4, generator=generator, dtype=torch.float64)).argmax(1)
    return FederatedData(x, y, partition_dirichlet(y, 3, 0.5, rng=0), test_fraction=0.2)
"""

APP = """
import json, logging, time
from pathlib import Path

import torch
from safetensors.torch import save_file
from world import STRATEGY, UPDATE, model, world

from landform.federated import to_flower

torch.set_num_threads(1)
HERE = Path({folder!r})
logging.getLogger("landform.federated").addHandler(logging.FileHandler(HERE / "warnings.txt"))


def own(context):
    number = context.node_config["partition-id"]
    calls = HERE / f"calls-{{number}}"
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if number == 2 and len(calls.read_text()) == 4:
        (HERE / "hanging").touch()
        time.sleep(600)
    return world().client(number)


def finish(result):
    save_file(result.arrays.to_torch_state_dict(), HERE / "model.safetensors")
    rounds = {{number: dict(metrics) for number, metrics in result.train_metrics_clientapp.items()}}
    (HERE / "metrics.json").write_text(json.dumps(rounds))
    (HERE / "done").touch()


APPS = to_flower(
    UPDATE, STRATEGY, data=own, clients=3, model_fn=model, rounds=4, seed=4, eval_every=None, timeout=90.0,
    finish=finish,
)
client_app = APPS[0]
server_app = APPS[1]
"""

PYPROJECT = """
[project]
name = "fedldtest"
version = "1.0.0"
description = "FedLD over processes"
license = "MIT"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "landform"

[tool.flwr.app.components]
serverapp = "fedldtest:server_app"
clientapp = "fedldtest:client_app"

[tool.flwr.app.config]
"""

CONNECTION = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Federation:
    """A SuperLink and three SuperNodes on loopback, each in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, {}
        app = folder / "app"
        app.mkdir()
        (app / "pyproject.toml").write_text(PYPROJECT)
        (app / "world.py").write_text(WORLD)
        (app / "fedldtest.py").write_text(APP.format(folder=str(folder)))
        self.app = app
        scripts = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        self.env = os.environ | {
            "PATH": os.pathsep.join(scripts),
            "FLWR_HOME": str(folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
        }
        for command in ("flower-superlink", "flower-supernode", "flwr"):
            if shutil.which(command, path=self.env["PATH"]) is None:
                pytest.skip(f"Flower's command {command} is not installed")
        self.port, *self.node_ports = free_ports(4)

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("w") as out:
            program = shutil.which(command[0], path=self.env["PATH"])
            assert program is not None
            self.processes[name] = subprocess.Popen(
                [program, *command[1:]], stdout=out, stderr=out, env=self.env, cwd=self.app, start_new_session=True
            )

    def begin(self) -> None:
        (self.folder / "home").mkdir()
        (self.folder / "home" / "config.toml").write_text(CONNECTION.format(port=self.port))
        self.start(
            "superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self.port),
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        self.wait_for(lambda: answers(self.port), 60, "the SuperLink's start")
        for k, port in enumerate(self.node_ports):
            self.start(
                f"node-{k}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}",
                "--host", "127.0.0.1", "--port", str(port), "--node-config", f"partition-id={k} num-partitions=3",
            )  # fmt: skip
        self.start("run", "flwr", "run", ".", "here")

    def wait_for(self, found: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until something is so, unless the run could not be submitted."""
        until = time.monotonic() + seconds
        while not found():
            run = self.processes.get("run")
            if time.monotonic() > until or (run is not None and run.poll()):
                logs = "\n".join(f"--- {p.name}\n{p.read_text()[-3000:]}" for p in sorted(self.folder.glob("*.log")))
                pytest.fail(f"{what} did not happen within {seconds:g} s\n{logs}")
            time.sleep(0.1)

    def kill(self, name: str) -> None:
        """The process and all that it has started, found by the session that it leads."""
        process = self.processes[name]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def federation(folder: Path) -> Iterator[Federation]:
    needs_flower()
    flower = Federation(folder)
    try:
        flower.begin()
        yield flower
    finally:
        for name in reversed(flower.processes):
            flower.kill(name)


def answers(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_fedld_over_processes_is_fedld_in_process_and_goes_on_without_a_killed_node(tmp_path: Path) -> None:
    """Three rounds of all three nodes; in the fourth one is killed with all its processes while it trains."""
    with federation(tmp_path) as flower:
        flower.wait_for((tmp_path / "hanging").exists, 300, "the fourth round")
        flower.kill("node-2")
        flower.wait_for((tmp_path / "done").exists, 200, "the end of the run")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [metrics[number]["failures"] for number in "1234"] == [0, 0, 0, 1]
    warnings = (tmp_path / "warnings.txt").read_text().splitlines()
    assert any(line.startswith("round 4 goes on without node(s)") for line in warnings)
    assert all(line.startswith("round 4") for line in warnings)

    names: dict[str, Any] = {}
    exec(WORLD, names)
    world, update, rule = names["world"](), names["UPDATE"], names["STRATEGY"]
    history = simulate(world, names["model"], update, rule, rounds=3, seed=4)
    assert [metrics[number]["loss"] for number in "123"] == pytest.approx(history.losses.tolist(), abs=1e-12)

    rounds: list[int] = []

    def own(context: Any) -> Any:
        number = context.node_config["partition-id"]
        rounds.append(number)
        if number == 2 and rounds.count(2) == 4:
            raise OSError("killed")
        return world.client(number)

    results: list[Any] = []
    client_app, server_app = to_flower(
        update, rule, data=own, clients=3, model_fn=names["model"], rounds=4, seed=4, eval_every=None,
        finish=results.append,
    )  # fmt: skip
    LocalGrid(client_app, 3).serve(server_app)
    sent = load_file(tmp_path / "model.safetensors")
    for key, p in results[0].arrays.to_torch_state_dict().items():
        assert torch.allclose(sent[key], p, rtol=0, atol=1e-12)
