"""CEMA: an edge device that only predicts, and a cloud that adapts its model from the few samples it sends."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from landform.losses import SelectiveDistillationLoss
from landform.shift.adaptation.adapter import (
    BYTES_PER_NUMBER,
    Adapter,
    check_batch,
    check_momentum,
    check_rates,
    prepared,
)
from landform.shift.adaptation.batch_renorm import BatchRenormTT
from landform.shift.adaptation.entropy import EntropyScreen, softmax_entropy
from landform.shift.adaptation.normalization import normalization_parameters
from landform.shift.adaptation.redundancy import RedundancyScreen
from landform.shift.adaptation.replay import ReplayBuffer

Screen = Callable[[Tensor], Tensor]

FIRST_BATCHES = 9
"""In so many batches at the beginning the edge always has the latest parameters."""


class CloudEdgeSession(Adapter):
    """Cloud-edge adaptation by selective entropy distillation, for one episode.

    On the edge each batch is predicted, without gradients, and scored; the samples that ``screen`` keeps are uploaded.
    In the cloud, for every B uploads U that have come together,

    1. the foundation model f takes one step on mean_i exp(E_max − H(f_i)) H(f_i) over U, the weights without gradient;
    2. the cloud's copy of the edge model takes one step on the distillation loss against f, over U and, once the replay
       buffer holds ``replay_from`` samples, 3B random ones of it.

    If a batch of the stream made no such B complete and the buffer holds more than ``replay_from`` samples, there is
    one distillation step on 4B of them. The new parameters then go to the edge: after every batch up to the ninth, and
    later with every ``send_every``-th. Only the parameters of normalisation layers are trained, by SGD. Every BatchNorm
    becomes a :class:`~landform.shift.adaptation.batch_renorm.BatchRenormTT` whose running statistics begin with the
    first batch: for the edge model, on the device and in the cloud, that of the stream, for f its first U. On the edge
    they only change by what is sent.

    Arguments:
        edge, foundation: the two models, of the same classes; both are copied. ``self.edge`` is the device's.
        screen: takes the logits of a batch and says which of its samples to upload.
        redundancy: a second screen, for those that the first keeps (the released configuration has one with margin
            0.05).
        loss: of the distillation; its ``e_max`` also weighs the foundation's entropies. If None the paper's, with the
            E_max^0 of ``screen``, which must then be an :class:`~landform.shift.adaptation.entropy.EntropyScreen`.
        upload_batch: B.
        replay: how many uploads the buffer holds; 0 for none.
        replay_from: see above.
        edge_lr, foundation_lr, momentum: of SGD. With ``foundation_lr=0`` the foundation takes no steps, and only its
            running statistics follow.
        send_every: see above.
        generator: draws from the buffer, on the CPU; PyTorch's global one if None.

    Raises:
        ValueError: an argument out of range, no loss with a screen that has no E_max, or a model without normalisation
            layers; models of different numbers of classes, when they first meet.

    Source: arXiv 2402.17316, algorithm 1; what it leaves open is as in the released code.

    >>> def network(width):
    ...     return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))
    >>> session = CloudEdgeSession(network(8), network(32), EntropyScreen(3, high=1.0))
    >>> session.predict(torch.randn(64, 4)).shape
    torch.Size([64, 3])
    """

    def __init__(
        self,
        edge: nn.Module,
        foundation: nn.Module,
        screen: Screen,
        *,
        redundancy: RedundancyScreen | None = None,
        loss: SelectiveDistillationLoss | None = None,
        upload_batch: int = 32,
        replay: int = 10_000,
        replay_from: int = 256,
        edge_lr: float = 2.5e-3,
        foundation_lr: float = 2.5e-4,
        momentum: float = 0.9,
        send_every: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("upload_batch", upload_batch, 1),
            ("replay", replay, 0),
            ("replay_from", replay_from, 1),
            ("send_every", send_every, 1),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: must be at least {least}")
        check_rates(edge_lr=edge_lr)
        check_momentum(momentum)
        if not 0 <= foundation_lr < float("inf"):
            raise ValueError(f"foundation_lr={foundation_lr}: must be at least zero and finite")
        if loss is None:
            if not isinstance(screen, EntropyScreen):
                raise ValueError("loss: give one, as its e_max cannot be had from a screen that is no EntropyScreen")
            loss = SelectiveDistillationLoss(e_max=screen.e_max)
        self.screen = screen
        self.redundancy = redundancy
        self.loss = loss
        self.upload_batch = upload_batch
        self.replay = ReplayBuffer(replay) if replay else None
        self.replay_from = replay_from
        self.send_every = send_every
        self.generator = generator
        self.edge = adaptable(edge)
        self.student = copy.deepcopy(self.edge)
        self.foundation = adaptable(foundation)
        self._edge_optimizer = torch.optim.SGD(normalization_parameters(self.student), edge_lr, momentum)
        self._foundation_optimizer = (
            torch.optim.SGD(normalization_parameters(self.foundation), foundation_lr, momentum)
            if foundation_lr
            else None
        )
        self._queue: Tensor | None = None
        self._batches = 0
        self._unsent = False

    def predict(self, batch: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        check_batch(batch)
        with torch.no_grad():
            logits = self.edge(batch)
            keep = self._screened(logits)
        self._batches += 1
        if self._batches == 1:
            self.ledger.bytes_statistics += copy_statistics(self.edge, self.student)
        self._upload(batch, batch[keep])
        steps = self.ledger.edge_steps
        while self._queue is not None and len(self._queue) >= self.upload_batch:
            uploads, self._queue = self._queue[: self.upload_batch], self._queue[self.upload_batch :]
            self._adapt_foundation(uploads)
            self._distil(self._with_replay(uploads))
        if self.ledger.edge_steps == steps and self.replay is not None and len(self.replay) > self.replay_from:
            self._distil(self._replayed(4 * self.upload_batch))
        following = self._batches + 1
        if self._unsent and (following <= FIRST_BATCHES + 1 or following % self.send_every == 0):
            self._send()
        return logits

    def _screened(self, logits: Float[Tensor, "batch classes"]) -> Bool[Tensor, " batch"]:
        keep = self.screen(logits)
        if keep.dtype != torch.bool or keep.shape != logits.shape[:1]:
            raise ValueError(
                f"screen: gave {keep.dtype} of shape {tuple(keep.shape)}; it must give booleans, one for each sample"
            )
        if self.redundancy is not None:
            kept = keep.nonzero().squeeze(1)
            keep = torch.zeros_like(keep)
            keep[kept[self.redundancy(logits[kept])]] = True
        return keep

    def _upload(self, batch: Tensor, uploads: Tensor) -> None:
        self.ledger.seen += len(batch)
        self.ledger.uploads += len(uploads)
        self.ledger.bytes_up += len(uploads) * batch[0].numel()
        self._queue = uploads if self._queue is None else torch.cat([self._queue, uploads])
        if self.replay is not None:
            self.replay.add(uploads)

    def _adapt_foundation(self, uploads: Tensor) -> None:
        renormalise(self.foundation, training=True)
        if self._foundation_optimizer is None:
            with torch.no_grad():
                self.foundation(uploads)
        else:
            with torch.enable_grad():
                entropy = softmax_entropy(self.foundation(uploads))
                loss = (self.loss.weight(entropy) * entropy).mean()
                self._foundation_optimizer.zero_grad()
                loss.backward()
                self._foundation_optimizer.step()
            self.ledger.foundation_steps += 1
        renormalise(self.foundation, training=False)

    def _with_replay(self, uploads: Tensor) -> Tensor:
        if self.replay is None or len(self.replay) < self.replay_from:
            return uploads
        return torch.cat([uploads, self._replayed(3 * self.upload_batch)])

    def _replayed(self, count: int) -> Tensor:
        assert self.replay is not None
        assert self._queue is not None
        return self.replay.sample(min(count, len(self.replay)), self.generator).to(self._queue.device)

    def _distil(self, samples: Tensor) -> None:
        with torch.no_grad():
            teacher = self.foundation(samples)
        renormalise(self.student, training=True)
        with torch.enable_grad():
            loss = self.loss(self.student(samples), teacher)
            self._edge_optimizer.zero_grad()
            loss.backward()
            self._edge_optimizer.step()
        renormalise(self.student, training=False)
        self.ledger.edge_steps += 1
        self._unsent = True

    @torch.no_grad()
    def _send(self) -> None:
        """Bring the edge up to date with the cloud's copy of it."""
        for ours, theirs in zip(
            normalization_parameters(self.edge), normalization_parameters(self.student), strict=True
        ):
            ours.copy_(theirs)
            self.ledger.bytes_down += BYTES_PER_NUMBER * ours.numel()
        self.ledger.bytes_statistics += copy_statistics(self.student, self.edge)
        self._unsent = False


def adaptable(model: nn.Module) -> nn.Module:
    """A copy of which gradients reach the normalisation layers alone, with renormalisation and no statistics yet."""
    model = prepared(BatchRenormTT.convert(copy.deepcopy(model)))
    for layer in renorm_layers(model):
        layer.drop_statistics()
    return model


def renorm_layers(model: nn.Module) -> list[BatchRenormTT]:
    """Every test-time batch renormalisation of a model."""
    return [m for m in model.modules() if isinstance(m, BatchRenormTT)]


def renormalise(model: nn.Module, *, training: bool) -> None:
    """Whether the running statistics move with the batches of a model, all else being in evaluation mode."""
    for layer in renorm_layers(model):
        layer.train(training)


def copy_statistics(source: nn.Module, target: nn.Module) -> int:
    """Give ``target`` the running statistics of ``source``; how many bytes they are."""
    size = 0
    for theirs, ours in zip(renorm_layers(source), renorm_layers(target), strict=True):
        assert theirs.running_mean is not None
        assert theirs.running_var is not None
        ours.running_mean, ours.running_var = theirs.running_mean.clone(), theirs.running_var.clone()
        size += BYTES_PER_NUMBER * 2 * ours.num_features
    return size
