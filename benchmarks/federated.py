"""A simulated federation: landform's stack of clients against Flower's simulation engine on the same work.

The work: 100 clients on ``digits``, an MLP 64-64-10, federated averaging for 5 rounds of 5 local steps of batches of
10, all clients in each round, float32. Flower's arm is what one writes with it: a ``ClientApp`` with a plain PyTorch
loop, Flower's own ``FedAvg``, and ``run_simulation`` on Ray with as many actors as there are cores, one thread each.
Both draw the same batches, so both end with the same model, which is checked. Neither evaluates.

Flower is timed twice over: the whole call, which starts Ray and its actors, and the rounds alone, from the first
message to the last aggregate. landform is timed as a whole call, after one for warm-up; the median of several.

Flower's simulation pins a Ray of its own. Where that does not fit the environment, install the peer beside it:

    pip install --target /tmp/flower-peer 'flwr[simulation]'
    PYTHONPATH=/tmp/flower-peer python benchmarks/federated.py [--blocks 5] [--clients 100]
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landform import data
from landform.federated import SGD, FedAvg, FederatedData, partition_iid, simulate
from landform.federated.batches import client_stream, local_batches
from landform.models import MLP
from landform.training import Stack

ROUNDS, STEPS, BATCH, LR, SEED = 5, 5, 10, 0.1, 0


def model() -> nn.Module:
    return MLP(64, (64,), 10)


def federation(clients: int) -> FederatedData:
    digits = data.merge(*data.load("digits").values())
    return FederatedData(digits.x.flatten(1), digits.y, partition_iid(digits.y, clients, rng=SEED))


def landform(federated: FederatedData) -> dict[str, Tensor]:
    update = SGD(lr=LR, steps=STEPS, batch_size=BATCH)
    return simulate(federated, model, update, FedAvg(), rounds=ROUNDS, seed=SEED, eval_every=ROUNDS).params


def flower(federated: FederatedData) -> tuple[dict[str, Tensor], float]:
    """The last model, and the seconds of the rounds alone."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp import strategy as strategies
    from flwr.simulation import run_simulation

    client_app, server_app = ClientApp(), ServerApp()
    clients = len(federated)
    samples = [(federated.client(k).x, federated.client(k).y) for k in range(clients)]

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        k = int(context.node_config["partition-id"])
        x, y = samples[k]
        net = model()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(net.parameters(), LR)
        stream = client_stream(SEED, int(message.content["config"]["server-round"]), k)
        drawn = local_batches(torch.tensor([len(x)]), [stream], batch_size=BATCH, steps=STEPS, epochs=1)
        for places, _ in drawn:
            optimizer.zero_grad()
            F.cross_entropy(net(x[places[0]]), y[places[0]]).backward()
            optimizer.step()
        arrays, metrics = ArrayRecord(net.state_dict()), MetricRecord({"num-examples": len(x)})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    found: dict[str, Any] = {}

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        first = Stack.from_factory(model, 1, SEED).module(0)
        strategy = strategies.FedAvg(fraction_evaluate=0.0, min_available_nodes=clients)
        start = time.perf_counter()
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord(first.state_dict()), num_rounds=ROUNDS)
        found["seconds"], found["params"] = time.perf_counter() - start, result.arrays.to_torch_state_dict()

    run_simulation(
        server_app,
        client_app,
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return found["params"], found["seconds"]


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--clients", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    federated = federation(options.clients)

    ours = landform(federated)  # the warm-up
    times = []
    for _ in range(options.blocks):
        start = time.perf_counter()
        ours = landform(federated)
        times.append(time.perf_counter() - start)
    print(f"{processor()}; torch {torch.__version__}; {options.clients} clients, {ROUNDS} rounds of {STEPS} steps")
    print(f"  landform              {median(times):8.3f} s ({min(times):.3f}–{max(times):.3f}), 1 thread")
    try:
        import flwr
        import ray
    except ImportError as error:
        raise SystemExit(f"Flower's simulation is not installed ({error}); see the top of this file") from error

    start = time.perf_counter()
    theirs, rounds = flower(federated)
    whole = time.perf_counter() - start
    apart = max(float((ours[name] - value).abs().max()) for name, value in theirs.items())
    print(f"  Flower {flwr.__version__}, Ray {ray.__version__}")
    print(f"    whole call          {whole:8.3f} s   landform is {whole / median(times):6.0f} × as fast")
    print(f"    rounds alone        {rounds:8.3f} s   landform is {rounds / median(times):6.0f} × as fast")
    print(f"  the two models are apart by {apart:.0e}")


if __name__ == "__main__":
    main()
