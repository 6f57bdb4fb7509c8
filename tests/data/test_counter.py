"""Counter-based random numbers: splitmix64's published stream, NumPy's unsigned arithmetic, and the numbers' laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landform.data.counter import GOLDEN, Field, hash_normal, hash_uniform, mix

G = np.uint64(0x9E3779B97F4A7C15)


def mix_unsigned(z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key_unsigned(seed: int, index: np.ndarray, field: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        start = mix_unsigned(np.array([seed % 2**64], dtype=np.uint64) + G)
        counter = np.uint64(256) * np.asarray(index, dtype=np.uint64) + np.uint64(field + 1)
        return mix_unsigned(start + G * counter)


def test_mix_gives_the_published_stream_of_splitmix64():
    states = torch.tensor([1234567]) + GOLDEN * torch.arange(1, 6)
    expected = [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip
    assert [z % 2**64 for z in mix(states).tolist()] == expected


def test_uniform_numbers_are_the_format_s_own():
    expected = torch.tensor([0.7215081453323364, 0.9696972966194153, 0.6428493857383728])
    assert torch.equal(hash_uniform(7, torch.arange(3), 0), expected)
    assert torch.equal(hash_uniform(7, [0, 1, 2], 0), expected)
    assert hash_uniform(7, 1, 0).item() == expected[1].item()


@pytest.mark.parametrize(("seed", "field"), [(0, 0), (-3, 255), (2**64 + 5, 40), (2**63, 7)])
def test_torch_agrees_with_unsigned_numpy_to_the_bit(seed, field):
    index = np.array([0, 1, 2, 10**6, 2**40, 2**55])
    key = key_unsigned(seed, index, field)
    found = hash_uniform(seed, torch.from_numpy(index), field)
    assert found.numpy().tobytes() == ((key >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).tobytes()
    with np.errstate(over="ignore"):
        z = mix_unsigned(key[:, None] + G * np.arange(1, 7, dtype=np.uint64))
    pixels = hash_uniform(seed, torch.from_numpy(index), field, (2, 3))
    assert np.array_equal(pixels.reshape(6, 6).numpy(), (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))
    quarters = sum((z >> np.uint64(16 * k) & np.uint64(0xFFFF)).astype(np.int64) for k in range(4))
    normal = hash_normal(seed, torch.from_numpy(index), field, (6,)).numpy()
    np.testing.assert_allclose(normal, (quarters - 131070) * np.sqrt(3) / 65536, rtol=1e-6)


def test_numbers_do_not_depend_on_the_batch():
    whole = hash_normal(3, torch.arange(50), Field.SHOT_NOISE, (4, 4))
    order = torch.randperm(50)
    assert torch.equal(hash_normal(3, order, Field.SHOT_NOISE, (4, 4)), whole[order])
    assert torch.equal(hash_normal(3, [17], Field.SHOT_NOISE, (4, 4))[0], whole[17])
    assert hash_uniform(3, torch.arange(6).view(2, 3), 0, (5,)).shape == (2, 3, 5)


def test_the_numbers_laws():
    n = hash_normal(0, torch.arange(400), 0, (1000,)).double()
    count = n.numel()
    assert abs(n.mean()) < 3 / count**0.5
    assert n.var().item() == pytest.approx(1, abs=0.01)
    assert n.abs().max() <= 3.4642
    assert ((n**4).mean() - 3).item() == pytest.approx(-0.3, abs=0.03)
    u = hash_uniform(0, torch.arange(400_000), 0).double()
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, 100, 0, 1)
    assert ((counts - 4000).square() / 4000).sum() < 160  # chi-square of 99 degrees: p < 1e-4 above


def test_seeds_fields_indices_and_places_are_independent():
    index = torch.arange(20_000)
    draws = torch.stack(
        [hash_normal(seed, index, field) for seed in (0, 1) for field in (0, 1)]
        + [hash_normal(0, index + 1, 0)]
        + list(hash_normal(0, index, 2, (2,)).T)
    )
    off = torch.corrcoef(draws.double()) - torch.eye(len(draws))
    assert off.abs().max() < 4 / 20_000**0.5


def test_fields_are_distinct_and_within_their_ranges():
    assert len({field.value for field in Field}) == len(Field.__members__)
    assert all(0 <= field <= 255 for field in Field)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((0, [-1], 0), ValueError, "-1"),
        ((0, [0], 256), ValueError, "field=256"),
        ((0, [0], -1), ValueError, "field=-1"),
        ((0.5, [0], 0), TypeError, "seed"),
        ((0, torch.tensor([0.5]), 0), TypeError, "index"),
    ],
)
def test_what_is_no_index_or_field_is_refused(arguments, error, match):
    for draw in (hash_uniform, hash_normal):
        with pytest.raises(error, match=match):
            draw(*arguments)


def test_no_samples_draw_nothing():
    assert hash_normal(0, torch.empty(0, dtype=torch.int64), 0, (3, 2)).shape == (0, 3, 2)
