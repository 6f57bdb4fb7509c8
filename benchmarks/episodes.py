"""Few-shot episodes in one batch against an episode-by-episode loop: drawing them, testing on them, losses on them.

The loops are the usual way: for each episode a permutation of the classes and, for each class drawn, one of its items;
then, for each episode, prototypes, distances and accuracies; or a loss and its backward pass. They use the same
functions, which take a single episode as well; "published" is the ICNN score as the paper's code computes it, on all
differences between an episode's points. Medians of several repeats, in turns, after one to warm up; both ways must give
the same numbers.

    python benchmarks/episodes.py [--threads 1] [--repeats 7] [--clock wall]
"""

from __future__ import annotations

import argparse
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from landform.data import EpisodeSampler
from landform.losses.episodic import EpisodicLoss, episode_logits
from landform.metrics import episode_accuracy

CLASSES, ITEMS, DIM = 100, 40, 64
WAY, QUERY = 5, 15


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return names[0] if names else platform.processor()


def sampled_by_loop(labels: Tensor, n_shot: int, episodes: int, generator: torch.Generator) -> Tensor:
    members = [(labels == c).nonzero().squeeze(1) for c in range(CLASSES)]
    drawn = []
    for _ in range(episodes):
        support, query = [], []
        for c in torch.randperm(CLASSES, generator=generator)[:WAY].tolist():
            picked = members[c][torch.randperm(len(members[c]), generator=generator)[: n_shot + QUERY]]
            support.append(picked[:n_shot])
            query.append(picked[n_shot:])
        drawn.append(torch.cat([*support, *query]))
    return torch.stack(drawn)


def tested_by_loop(features: Tensor, index: Tensor, n_shot: int, labels: Tensor) -> float:
    right = 0.0
    for episode in index:
        logits = episode_logits(features[episode], WAY, n_shot)
        right += (logits.argmax(1) == labels).double().mean().item()
    return right / len(index)


def tested(features: Tensor, index: Tensor, n_shot: int, labels: Tensor) -> float:
    # Fifty at a time: what they hold stays in a processor's cache.
    parts = [episode_logits(features[part], WAY, n_shot) for part in index.split(50)]
    return episode_accuracy(torch.cat(parts), labels).mean


def gradient_by_loop(loss: EpisodicLoss, features: Tensor, n_shot: int) -> Tensor:
    gradients = []
    for episode in features:
        episode = episode.detach().requires_grad_()
        loss(episode[: WAY * n_shot], episode[WAY * n_shot :], WAY).backward()
        gradients.append(episode.grad)
    return torch.stack(gradients) / len(features)


def gradient(loss: EpisodicLoss, features: Tensor, n_shot: int) -> Tensor:
    features = features.detach().requires_grad_()
    loss(features[:, : WAY * n_shot], features[:, WAY * n_shot :], WAY).backward()
    assert features.grad is not None
    return features.grad


def published_icnn(features: Tensor, n_shot: int, k: int = 4) -> Tensor:
    """The gradient of the ICNN loss of each episode, from the differences of all its points."""
    n, gradients = features.shape[1], []
    classes = torch.arange(WAY)
    labels = torch.cat([classes.repeat_interleave(n_shot), classes.repeat_interleave(QUERY)])
    for episode in features:
        episode = episode.detach().requires_grad_()
        differences = episode.unsqueeze(1).expand(n, n, -1) - episode.unsqueeze(0).expand(n, n, -1)
        found = (differences.pow(2).sum(2) + 1e-6).sqrt().topk(n_shot + QUERY + 1, largest=False)
        near, same = found.values[:, 1:], labels[found.indices[:, 1:]] == labels.unsqueeze(1)
        r = near.masked_fill(same, torch.inf).amin(1, keepdim=True)
        near, same, other = near[:, :k], same[:, :k], ~same[:, :k]
        u = near / (r + 1e-7)
        u = u / u.amax(1, keepdim=True).clamp(min=1)
        a = ((u * same).sum(1) / same.sum(1).clamp(min=1)).sum() / same.any(1).sum().clamp(min=1)
        v = near * other / (near * other).max()
        b = (v.sum(1) / other.sum(1).clamp(min=1)).sum() / other.any(1).sum()
        (-(((1 - a + b) / 2 + same.float().mean()) / 2).log()).backward()
        gradients.append(episode.grad)
    return torch.stack(gradients) / len(features)


def timed(ways: list[Callable[[], object]], repeats: int, clock: Callable[[], float]) -> list[float]:
    """Each way's median time; the ways take turns, so that a busy machine slows them alike."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats + 1):
        for way, seconds in zip(ways, times, strict=True):
            start = clock()
            way()
            seconds.append(clock() - start)
    return [median(seconds[1:]) for seconds in times]


def report(label: str, seconds: list[float]) -> None:
    rest = "".join(f"{s * 1e3:10.1f} ms ({s / seconds[0]:5.1f}×)" for s in seconds[1:])
    print(f"{label:46}{seconds[0] * 1e3:9.1f} ms{rest}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(f"{machine()}, {options.threads} thread(s), torch {torch.__version__}, {options.clock} time, float32")
    print(f"{WAY}-way, {QUERY} queries a class, {CLASSES} classes of {ITEMS} items, {DIM} features\n")
    print(f"{'':46}{'batch':>12}{'loop':>22}{'published':>22}")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(ITEMS)
    features = 0.3 * torch.randn(CLASSES, DIM, generator=generator)[labels]
    features = features + 0.5 * torch.randn(features.shape, generator=generator)

    for n_shot, episodes in ((1, 500), (5, 500)):
        sampler = EpisodeSampler(labels, WAY, n_shot, QUERY, episodes, generator)
        index, of_query = sampler.sample(), sampler.labels[WAY * n_shot :]

        def draw(n_shot: int = n_shot, episodes: int = episodes) -> Tensor:
            return sampled_by_loop(labels, n_shot, episodes, generator)

        report(f"drawing {episodes} episodes, {n_shot}-shot", timed([sampler.sample, draw], options.repeats, clock))
        arguments = features, index, n_shot, of_query
        batch, loop = tested(*arguments), tested_by_loop(*arguments)
        if abs(batch - loop) > 1e-9:
            raise SystemExit(f"accuracies differ: {batch} and {loop}")
        ways = [lambda a=arguments: tested(*a), lambda a=arguments: tested_by_loop(*a)]
        report(f"testing on them (accuracy {batch:.3f})", timed(ways, options.repeats, clock))

        some = features[index[:32]]
        for name in ("ce", "proto_triplet", "icnn"):
            loss = EpisodicLoss([(name, 1.0)])
            wide = some.double()
            apart = (gradient(loss, wide, n_shot) - gradient_by_loop(loss, wide, n_shot)).abs().max()
            if name == "icnn":
                apart = max(apart, (gradient(loss, wide, n_shot) - published_icnn(wide, n_shot)).abs().max())
            if apart > 1e-9:
                raise SystemExit(f"{name}: gradients differ by {apart}")
            ways = [
                lambda f=loss, x=some, n=n_shot: gradient(f, x, n),
                lambda f=loss, x=some, n=n_shot: gradient_by_loop(f, x, n),
            ]
            if name == "icnn":
                ways.append(lambda x=some, n=n_shot: published_icnn(x, n))
            label = f"{name}: gradients of 32 episodes, {n_shot}-shot"
            report(label, timed(ways, options.repeats, clock))


if __name__ == "__main__":
    main()
