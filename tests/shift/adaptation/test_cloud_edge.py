"""The cloud-edge session: a slow retelling of the algorithm, its ledger, and what it leaves alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from landform.losses import SelectiveDistillationLoss
from landform.shift import BatchRenormTT, CloudEdgeSession, EntropyScreen, RedundancyScreen, softmax_entropy

K = 4


def network(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, K),
    ).double()  # fmt: skip
    with torch.no_grad():
        model[-1].weight.mul_(8)
    return model


EDGE, FOUNDATION = network(8, 0), network(24, 1)


def batches(count: int, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(size, 6, generator=generator, dtype=torch.float64) + 0.5 for _ in range(count)]


def session(screen=None, **options) -> CloudEdgeSession:
    options = {"upload_batch": 6, "replay_from": 20, "edge_lr": 0.02, "foundation_lr": 0.01} | options
    options.setdefault("generator", torch.Generator().manual_seed(5))
    return CloudEdgeSession(EDGE, FOUNDATION, screen or EntropyScreen(K, high=0.8), **options)


class Told:
    """The algorithm told again, plainly: lists for queue and buffer, and models in which statistics are by hand."""

    def __init__(self, send_every: int) -> None:
        self.device, self.student, self.foundation = (self.ready(m) for m in (EDGE, EDGE, FOUNDATION))
        self.screen = EntropyScreen(K, high=0.8)
        self.e_max = 0.8 * math.log(K)
        self.queue: list[Tensor] = []
        self.buffer: list[Tensor] = []
        self.velocity: dict[int, Tensor] = {}
        self.generator = torch.Generator().manual_seed(5)
        self.send_every = send_every
        self.batch = 0

    @staticmethod
    def ready(model: nn.Module) -> nn.Module:
        model = BatchRenormTT.convert(copy.deepcopy(model)).eval()
        model[1].drop_statistics()
        return model

    def descend(self, model: nn.Module, loss: Tensor, rate: float) -> None:
        trained = [model[1].weight, model[1].bias, model[5].weight, model[5].bias]
        for p, g in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            self.velocity[id(p)] = 0.9 * self.velocity.get(id(p), 0) + g
            p.data -= rate * self.velocity[id(p)]

    def distil(self, samples: Tensor) -> None:
        teacher = self.foundation(samples).detach()
        self.student[1].train()
        student = self.student(samples)
        p, q = teacher.softmax(1), student.softmax(1)
        h_teacher, h_student = softmax_entropy(teacher), softmax_entropy(student)
        w_teacher, w_student = (self.e_max - h_teacher).exp(), (self.e_max - h_student.detach()).exp()
        divergence = (p * (p.log() - q.log())).sum(1)
        answer = -q.log()[torch.arange(len(q)), teacher.argmax(1)]
        loss = (w_student * h_student + 3 * w_teacher * divergence + 3 * w_teacher * answer).mean()
        self.descend(self.student, loss, 0.02)
        self.student[1].eval()

    def replayed(self, count: int) -> Tensor:
        order = torch.randperm(len(self.buffer), generator=self.generator)[:count]
        return torch.stack([self.buffer[i] for i in order])

    def predict(self, x: Tensor) -> Tensor:
        self.batch += 1
        if (self.batch <= 10 or self.batch % self.send_every == 0) and self.batch > 1:
            self.device = copy.deepcopy(self.student)
        logits = self.device(x).detach()
        if self.batch == 1:
            self.student[1].running_mean = self.device[1].running_mean.clone()
            self.student[1].running_var = self.device[1].running_var.clone()
        kept = list(x[self.screen(logits)])
        self.queue += kept
        self.buffer += kept
        worked = False
        while len(self.queue) >= 6:
            uploads, self.queue = torch.stack(self.queue[:6]), self.queue[6:]
            self.foundation[1].train()
            h = softmax_entropy(self.foundation(uploads))
            self.descend(self.foundation, ((self.e_max - h.detach()).exp() * h).mean(), 0.01)
            self.foundation[1].eval()
            self.distil(uploads if len(self.buffer) < 20 else torch.cat([uploads, self.replayed(18)]))
            worked = True
        if not worked and len(self.buffer) > 20:
            self.distil(self.replayed(24))
        return logits


@pytest.mark.parametrize("send_every", [1, 4])
def test_a_session_is_the_algorithm(send_every):
    found, told = session(send_every=send_every), Told(send_every)
    stream = [*batches(14), *(x[:3] for x in batches(6))]  # small batches at the end leave uploads waiting
    for x in stream:
        torch.testing.assert_close(found.predict(x), told.predict(x), rtol=1e-9, atol=1e-10)
    assert found.ledger.uploads == len(told.buffer)
    assert found.ledger.foundation_steps == len(told.buffer) // 6
    assert found.ledger.edge_steps > found.ledger.foundation_steps


def test_predictions_come_before_the_step():
    x, *_ = batches(1)
    first = session().predict(x)
    edge = Told.ready(EDGE)
    torch.testing.assert_close(first, edge(x).detach())


def test_the_ledger_adds_up():
    found = session()
    sends = 0
    for number, x in enumerate(batches(12), start=1):
        steps = found.ledger.edge_steps
        found.predict(x)
        sends += found.ledger.edge_steps > steps
        assert found.ledger.seen == 16 * number
        assert found.ledger.uploads == found.screen.kept <= found.ledger.seen
        assert found.ledger.bytes_up == 6 * found.ledger.uploads
    assert found.ledger.bytes_down == sends * 4 * (16 + 16)
    assert found.ledger.bytes_statistics == (sends + 1) * 4 * 16
    rare = session(send_every=5)
    for x in batches(24):
        rare.predict(x)
    # After batches 1 … 9, and then for the 15th and the 20th.
    assert rare.ledger.bytes_down == sum(1 for t in range(2, 26) if t <= 10 or t % 5 == 0) * 4 * 32


def test_only_normalisation_changes_and_the_models_given_do_not():
    before = [copy.deepcopy(m.state_dict()) for m in (EDGE, FOUNDATION)]
    found = session()
    for x in batches(10):
        found.predict(x)
    for model, state in zip((EDGE, FOUNDATION), before, strict=True):
        assert all(torch.equal(a, state[key]) for key, a in model.state_dict().items())
    for model, given in ((found.edge, EDGE), (found.student, EDGE), (found.foundation, FOUNDATION)):
        for (key, after), first in zip(model.named_parameters(), given.parameters(), strict=True):
            assert torch.equal(after, first) == key.startswith(("0.", "4.", "7.")), key


def test_nothing_uploaded_changes_nothing():
    found = session(
        lambda logits: torch.zeros(len(logits), dtype=torch.bool), loss=SelectiveDistillationLoss(e_max=1.0)
    )
    for x in batches(5):
        found.predict(x)
    ledger = found.ledger
    assert (ledger.uploads, ledger.bytes_up, ledger.bytes_down, ledger.edge_steps, ledger.foundation_steps) == (0,) * 5
    assert torch.equal(found.edge[1].weight, EDGE[1].weight)


def test_without_replay_only_uploads_are_distilled():
    seen = []
    found = session(replay=0)
    found.student.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    for x in batches(8):
        found.predict(x)
    assert set(seen) == {6}
    assert len(seen) == found.ledger.edge_steps == found.ledger.foundation_steps == found.ledger.uploads // 6
    replayed = []
    other = session()
    other.student.register_forward_pre_hook(lambda module, inputs: replayed.append(len(inputs[0])))
    for x in batches(8):
        other.predict(x)
    assert set(replayed) == {6, 24}


def test_a_foundation_without_a_rate_keeps_its_parameters():
    found = session(foundation_lr=0)
    for x in batches(6):
        found.predict(x)
    assert found.ledger.foundation_steps == 0
    assert found.ledger.edge_steps > 0
    assert torch.equal(found.foundation[1].weight, FOUNDATION[1].weight)
    assert not torch.equal(found.foundation[1].running_mean, FOUNDATION[1].running_mean)


def test_redundancy_screens_those_that_entropy_keeps():
    found = session(redundancy=RedundancyScreen(0.6))
    entropy, redundancy = EntropyScreen(K, high=0.8), RedundancyScreen(0.6)
    expected = 0
    for x in batches(6):
        logits = found.predict(x)
        kept = entropy(logits)
        expected += int(redundancy(logits[kept]).sum())
        assert found.ledger.uploads == expected
    assert 0 < expected < entropy.kept


def test_the_same_stream_gives_the_same_session():
    one, other = session(), session()
    torch.manual_seed(9)
    for x in batches(8):
        a = one.predict(x)
        torch.rand(3)
        assert torch.equal(a, other.predict(x))


def test_models_without_batch_statistics_adapt_too():
    def norms(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, K))

    found = CloudEdgeSession(norms(8), norms(16), EntropyScreen(K, high=1.0), upload_batch=6, edge_lr=0.1)
    for x in batches(4):
        found.predict(x.float())
    assert found.ledger.edge_steps > 0
    assert found.ledger.bytes_statistics == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"upload_batch": 0}, "upload_batch=0"),
        ({"replay": -1}, "replay=-1"),
        ({"send_every": 0}, "send_every=0"),
        ({"edge_lr": 0.0}, r"edge_lr=0\.0"),
        ({"foundation_lr": -1.0}, r"foundation_lr=-1\.0"),
        ({"momentum": 1.0}, "momentum"),
        ({"screen": lambda logits: logits[:, 0] > 0}, "loss"),
    ],
)
def test_impossible_sessions_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        session(**options)


def test_screens_that_give_no_booleans_and_models_that_do_not_fit_are_refused():
    loss = SelectiveDistillationLoss(e_max=1.0)
    with pytest.raises(ValueError, match="screen: gave"):
        session(lambda logits: logits[:, 0], loss=loss).predict(batches(1)[0])
    other = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, K + 1)).double()
    found = CloudEdgeSession(EDGE, other, EntropyScreen(K, high=1.0), upload_batch=4)
    with pytest.raises(ValueError, match="teacher logits"):
        found.predict(batches(1)[0])
