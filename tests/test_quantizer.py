"""The quantizer against naive search, its gradients against formulas, its codebook's upkeep against counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.nets import quantizer as module
from loupe.nets.quantizer import Quantizer, perplexity, rows_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantizer(codes: int = 12, channels: int = 3) -> Quantizer:
    made = Quantizer(codes, channels)
    with torch.no_grad():
        made.codebook.copy_(torch.randn(codes, channels, generator=generator(7)))
    return made


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_nearest_is_that_of_a_naive_search(count: int, codes: int, channels: int, seed: int) -> None:
    latents = torch.randn(count, channels, generator=generator(seed))
    made = quantizer(codes, channels)
    found = made.nearest(latents)
    for latent, index in zip(latents, found, strict=True):
        distances = (latent - made.codebook).square().sum(1)
        assert distances[index] <= distances.min() * (1 + 1e-4) + 1e-6


def test_blocks_do_not_change_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    made, latents = quantizer(), torch.randn(1000, 3, generator=generator())
    whole = made.nearest(latents)
    monkeypatch.setattr(module, "_BLOCK", {"cpu": 12 * 7})
    assert torch.equal(made.nearest(latents), whole)


def test_search_ignores_autocast() -> None:
    made, latents = quantizer(400, 16), torch.randn(500, 16, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.nearest(latents), made.nearest(latents))
        cast = made.nearest(latents)
    assert torch.equal(cast, made.nearest(latents))


def test_the_map_holds_codes_and_keeps_its_layout() -> None:
    made, latents = quantizer(), torch.randn(2, 3, 4, 5, generator=generator())
    found = made(latents)
    for b, y, x in ((0, 0, 0), (1, 3, 4), (0, 2, 1)):
        code = made.codebook[found.indices[b, y, x]]
        assert torch.equal(found.codes[b, :, y, x], code)
        assert torch.equal(found.passed[b, :, y, x], code)
        assert found.indices[b, y, x] == (latents[b, :, y, x] - made.codebook).square().sum(1).argmin()
    assert torch.equal(found.codes, made.lookup(found.indices))
    assert torch.equal(rows_of(latents)[1 * 20 + 2 * 5 + 3], latents[1, :, 2, 3])


def test_codes_that_are_latents_are_a_fixed_point() -> None:
    made = quantizer()
    latents = made.codebook.detach().T.reshape(1, 3, 3, 4).clone()
    found = made(latents)
    assert torch.equal(found.indices.flatten(), torch.arange(12))
    assert torch.equal(found.codes, latents)


def test_straight_through_gradient_reaches_the_latents_alone_and_unchanged() -> None:
    made, latents = quantizer(), torch.randn(1, 3, 4, 4, generator=generator()).requires_grad_()
    weights = torch.randn(1, 3, 4, 4, generator=generator(1))
    (made(latents).passed * weights).sum().backward()
    assert torch.equal(latents.grad, weights)
    assert made.codebook.grad is None


def test_codes_gradient_reaches_the_codebook_alone() -> None:
    made, latents = quantizer(), torch.randn(1, 3, 4, 4, generator=generator()).requires_grad_()
    found = made(latents)
    found.codes.sum().backward()
    assert latents.grad is None
    assert torch.equal(made.codebook.grad, made.count(found.indices)[:, None].expand(12, 3).float())


def test_uses_are_counted_in_training_alone() -> None:
    made, latents = quantizer(), torch.randn(1, 3, 4, 4, generator=generator())
    made.eval()(latents)
    assert made.uses.sum() == 0
    made.train()(latents)
    made(latents)
    assert made.uses.sum() == 32
    assert torch.equal(made.uses, 2 * made.count(made.eval()(latents).indices))


def test_only_dead_codes_are_revived_on_the_latents_farthest_off() -> None:
    made = quantizer()
    before = made.codebook.detach().clone()
    near = before[:9].clone()  # codes 0 to 8 are used; these latents lie on them
    far = 50 + torch.arange(9.0).reshape(3, 3)
    made.uses.copy_(torch.tensor([1] * 9 + [0] * 3))
    assert made.revive(torch.cat([near, far]), generator()) == 3
    assert torch.equal(made.codebook[:9], before[:9])
    assert {tuple(row) for row in made.codebook[9:].tolist()} == {tuple(row) for row in far.tolist()}
    assert made.uses.sum() == 0


def test_revival_repeats_with_its_generator_and_copes_with_few_latents() -> None:
    one, two, latents = quantizer(), quantizer(), torch.randn(40, 3, generator=generator())
    assert one.revive(latents, generator(3)) == two.revive(latents, generator(3)) == 12
    assert torch.equal(one.codebook, two.codebook)
    assert one.revive(latents[:2], generator()) == 2
    one.uses += 1
    assert one.revive(latents, generator()) == 0


def test_k_means_places_a_code_on_each_of_as_many_points() -> None:
    centres = 20 * torch.eye(6)
    made = quantizer(6, 6)
    made.fit_k_means(centres.repeat(30, 1), 8, generator())  # of random first codes some coincide, and are revived
    assert torch.cdist(centres, made.codebook.detach()).amin(1).max() == 0


def test_k_means_lowers_the_error_and_ends_on_means() -> None:
    latents = torch.randn(3000, 3, generator=generator())
    errors = []
    for rounds in (0, 1, 30):
        made = quantizer()
        made.fit_k_means(latents, rounds, generator(1))
        indices = made.nearest(latents)
        errors.append(float((latents - made.codebook[indices]).detach().square().mean()))
    assert errors[0] > errors[1] > errors[2]
    for code in range(12):
        assert torch.allclose(made.codebook[code], latents[indices == code].mean(0), atol=0.05)


def test_k_means_with_fewer_latents_than_codes_takes_them_all() -> None:
    made, latents = quantizer(), torch.randn(5, 3, generator=generator())
    made.fit_k_means(latents, 2, generator())
    assert torch.cdist(latents, made.codebook.detach()).amin(1).max() < 1e-6


def test_perplexity_of_even_and_single_use() -> None:
    assert perplexity(torch.tensor([5, 5, 5, 5, 0, 0])) == pytest.approx(4)
    assert perplexity(torch.tensor([0, 9, 0])) == pytest.approx(1)
    assert perplexity(torch.tensor([3, 1])) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
