"""The VQ-VAE: its objective against formulas, tiles against the whole, what it reads, what it saves."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe import pretraining
from loupe.capture_views import CaptureViews
from loupe.codebook import (
    Codebook,
    CodebookConfig,
    NetworkConfig,
    VqVae,
    decode_view,
    encode_view,
    objective,
    view_digest,
)
from loupe.config import read_section
from loupe.errors import InputError
from loupe.images import Pixels, to_uint8
from loupe.method import Segment
from loupe.metrics import psnr
from loupe.nets.autoencoder import Decoder, Encoder, in_tiles
from loupe.nets.quantizer import rows_of
from loupe.pretraining import CodebookTraining, pretrain_codebook
from loupe.tiles import Tiles, write_tiles
from loupe.training import Report, fit

NETWORK = NetworkConfig(factor=4, codes=24, channels=5, width=8, encoder_blocks=1, decoder_blocks=2)
CONFIG = CodebookConfig(
    network=NETWORK,
    batch=2,
    crop=16,
    plain_steps=6,
    quantised_steps=10,
    warm_up_steps=2,
    learning_rate=0.01,
    code_learning_rate=0.01,
    revive_every=3,
    reference=True,
)
PLAIN, QUANTISED = Segment("plain", 6), Segment("quantised", 10)


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    """With random weights everywhere: residual blocks start as identities, which would hide their reach."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module


def picture(seed: int, height: int = 40, width: int = 48) -> Pixels:
    """Smooth waves of several colours with a little noise: another part of the same waves for every seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] + 5 * seed
    phase = np.array([0, 2, 4]).reshape(3, 1, 1)
    waves = 0.5 + 0.35 * np.sin(x / 7 + phase) * np.cos(y / 9 + 2 * phase)
    return to_uint8(np.moveaxis(waves, 0, 2) + random.normal(0, 0.01, (height, width, 3)))


@pytest.fixture
def tiles(tmp_path: Path) -> Tiles:
    folder = tmp_path / "tiles"
    folder.mkdir()
    write_tiles(folder, [(name, picture(seed)) for seed, name in enumerate("abcd")], 4)
    return Tiles(folder)


def capture(tiles: Tiles) -> dict[str, CaptureViews]:
    """One capture, with view "c" for testing."""
    return {"one": CaptureViews(tiles, ["a", "b", "d"], ["c"])}


def two(tiles: Tiles) -> dict[str, Pixels]:
    return {name: tiles.image(name, "full") for name in "ab"}


def run(training: CodebookTraining, segment: Segment, steps: range, optimizer: torch.optim.Optimizer) -> None:
    for step in steps:
        batch = training.batch(segment, step, torch.Generator().manual_seed(step))
        loss = sum(training.losses(batch, segment)["codebook"].values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        training.after_step(segment, step)


def adam(training: CodebookTraining, segment: Segment) -> torch.optim.Optimizer:
    return training.optimizers(segment)["codebook"]


@pytest.fixture
def model() -> VqVae:
    return stirred(VqVae(NETWORK))


def test_objective_is_equation_3_in_means(model: VqVae) -> None:
    x = torch.rand(2, 3, 8, 12)
    made = model(x, quantise=True)
    terms = objective(x, made, beta=0.25)
    z, e = rows_of(made.latents).detach(), model.quantizer.codebook.detach()[made.quantized.indices.flatten()]
    squares = ((x - made.pictures.detach()) ** 2).sum()
    assert float(terms["reconstruction"].detach()) == pytest.approx(float(squares / (2 * 3 * 8 * 12)))
    distance = float(((z - e) ** 2).sum() / (2 * 2 * 3 * 5))
    assert float(terms["codebook"].detach()) == pytest.approx(distance)
    assert float(terms["commitment"].detach()) == pytest.approx(0.25 * distance)
    assert list(objective(x, model(x, quantise=False), 0.25)) == ["reconstruction"]


def test_beta_weighs_the_term_that_moves_the_encoder(model: VqVae) -> None:
    x = torch.rand(1, 3, 8, 8)
    made = model(x, quantise=True)
    terms = objective(x, made, beta=0.3)
    codebook = model.quantizer.codebook
    z, indices = rows_of(made.latents).detach(), made.quantized.indices.flatten()
    count = z.numel()
    by_codes = torch.autograd.grad(terms["codebook"], codebook, retain_graph=True)[0]
    expected = torch.zeros_like(codebook)
    for row, index in zip(z, indices, strict=True):
        expected[index] += 2 / count * (codebook[index].detach() - row)
    assert torch.allclose(by_codes, expected, atol=1e-7)
    by_latents = torch.autograd.grad(terms["commitment"], made.latents, retain_graph=True)[0]
    assert torch.allclose(rows_of(by_latents), 0.3 * 2 / count * (z - codebook[indices].detach()), atol=1e-7)
    none = {"retain_graph": True, "allow_unused": True}
    assert torch.autograd.grad(terms["codebook"], made.latents, **none) == (None,)
    assert torch.autograd.grad(terms["commitment"], codebook, **none) == (None,)
    assert torch.autograd.grad(terms["reconstruction"], codebook, **none) == (None,)


def test_reconstruction_moves_the_encoder_as_if_codes_were_latents(model: VqVae) -> None:
    x = torch.rand(1, 3, 8, 8)
    made = model(x, quantise=True)
    through = torch.autograd.grad(((made.pictures - x) ** 2).mean(), made.latents)[0]
    codes = made.quantized.codes.detach().clone().requires_grad_()
    direct = torch.autograd.grad(((model.decode(codes) - x) ** 2).mean(), codes)[0]
    assert direct.abs().max() > 0
    assert torch.allclose(through, direct, atol=1e-7)


@pytest.mark.parametrize("blocks", [1, 3])
def test_radius_is_how_far_a_cell_reaches_and_no_more(blocks: int) -> None:
    for net, gather, spread in ((Encoder(4, 6, blocks, 2), 2, 1), (Decoder(3, 6, blocks, 2), 1, 2)):
        stirred(net)
        side, centre = 2 * net.radius + 5, net.radius + 2
        inputs = torch.zeros(1, 3, side * gather, side * gather)
        inputs[..., centre * gather : (centre + 1) * gather, centre * gather : (centre + 1) * gather] = 5.0
        # A ReLU may hide what arrives; a bias keeps the features on its linear side.
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.bias.data += 3
        changed = (net(inputs) != net(torch.zeros_like(inputs)))[0].any(0)
        cells = changed.reshape(side, spread, side, spread).any(3).any(1).nonzero()
        assert cells.amin(0).tolist() == [2, 2]
        assert cells.amax(0).tolist() == [side - 3, side - 3]


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(1, 9))
def test_tiled_is_whole(rows: int, columns: int, tile: int) -> None:
    model = stirred(VqVae(NETWORK))
    pixels = picture(rows, rows * 4, columns * 4)
    with torch.no_grad():
        latents = model.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
        decoded = model.decode(latents)
        tiled = in_tiles(model.decode, latents, Fraction(4), tile, model.decoder.radius)
    found = encode_view(model, pixels, tile)
    scale = float(latents.abs().max())
    assert found.shape == latents.shape
    assert torch.allclose(found, latents, atol=1e-5 * scale)
    assert torch.allclose(tiled, decoded, atol=1e-5 * float(decoded.abs().max()))
    assert decode_view(model, latents, tile).shape == pixels.shape


def test_a_halo_too_small_shows() -> None:
    """So the test above could fail."""
    model, x = stirred(VqVae(NETWORK)), torch.rand(1, 5, 12, 12)
    with torch.no_grad():
        short = in_tiles(model.decode, x, Fraction(4), 4, model.decoder.radius - 1)
        assert not torch.allclose(short, model.decode(x), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 5, 48, 60])
def test_it_starts_as_the_best_linear_auto_encoder(channels: int) -> None:
    model = VqVae(NETWORK.model_copy(update={"channels": channels}))
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    model.start(x)
    cells = torch.nn.functional.pixel_unshuffle(x, 4).movedim(1, -1).reshape(-1, 48).numpy()
    mean = cells.mean(0)
    left, values, right = np.linalg.svd(cells - mean, full_matrices=False)
    wanted = left[:, :channels] * values[:channels] @ right[:channels] + mean
    with torch.no_grad():
        made = model(x, quantise=False)
    found = torch.nn.functional.pixel_unshuffle(made.pictures, 4).movedim(1, -1).reshape(-1, 48).numpy()
    assert np.allclose(found, wanted, atol=1e-4)
    variances = rows_of(made.latents).var(0, correction=0)[:48]
    assert np.allclose(variances, values[:channels] ** 2 / len(cells), atol=1e-4)


def test_training_is_given_training_views_alone(tmp_path: Path, tiles: Tiles, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Mapping[str, Pixels]] = []

    class Watched(CodebookTraining):
        def __init__(self, config: CodebookConfig, pictures: Mapping[str, Pixels], quantise: bool) -> None:
            given.append(pictures)
            super().__init__(config, pictures, quantise)

    monkeypatch.setattr(pretraining, "CodebookTraining", Watched)
    pretrain_codebook(capture(tiles), CONFIG, tmp_path, lambda *_: None)
    assert len(given) == 2  # with quantisation, and the reference without
    for pictures in given:
        assert list(pictures) == ["one.a", "one.b", "one.d"]
        assert all(np.array_equal(pictures[f"one.{name}"], picture("abcd".index(name))) for name in "abd")


def test_pixels_of_test_views_change_nothing_that_is_saved(tmp_path: Path, tiles: Tiles) -> None:
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    pictures = [(name, picture(seed) if name != "c" else 255 - picture(9)) for seed, name in enumerate("abcd")]
    write_tiles(poisoned, pictures, 4)
    states = []
    for name, source in (("one", tiles), ("two", Tiles(poisoned))):
        made = pretrain_codebook(capture(source), CONFIG, tmp_path / name, lambda *_: None)
        states.append(made.codebook.model.state_dict())
        assert set(made.codebook.seen) == {"one.a", "one.b", "one.d"}
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_squares_are_crops_of_training_views(tiles: Tiles) -> None:
    training = CodebookTraining(CONFIG, two(tiles), quantise=True)
    batch = training.batch(PLAIN, 0, torch.Generator().manual_seed(1))
    assert batch.shape == (2, 3, 16, 16)
    for square in batch:
        wanted = np.asarray(square.permute(1, 2, 0) * 255 + 0.5, np.uint8)
        windows = [
            tiles.image(name, "full")[y : y + 16, x : x + 16] for name in "ab" for y in range(25) for x in range(33)
        ]
        assert any(np.array_equal(window, wanted) for window in windows)


def test_resumed_in_the_quantised_segment_is_uninterrupted(tiles: Tiles) -> None:
    straight = CodebookTraining(CONFIG, two(tiles), quantise=True)
    run(straight, PLAIN, range(6), adam(straight, PLAIN))
    optimizer = adam(straight, QUANTISED)
    run(straight, QUANTISED, range(5), optimizer)  # between two revivals
    resumed = CodebookTraining(CONFIG, two(tiles), quantise=True)
    resumed.load_state({key: value.clone() for key, value in straight.state().items()})
    other = adam(resumed, QUANTISED)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for training, its in ((straight, optimizer), (resumed, other)):
        run(training, QUANTISED, range(5, 10), its)
    assert all(torch.equal(value, resumed.state()[key]) for key, value in straight.state().items())


class Stop(Exception):
    """Raised by a report, in the place of a kill."""


@pytest.mark.parametrize("quantise", [True, False])
@pytest.mark.parametrize("done", [3, 6, 12])
def test_killed_and_resumed_it_ends_with_the_same_weights(
    tmp_path: Path, tiles: Tiles, quantise: bool, done: int
) -> None:
    """In the plain segment, between both, and in the quantised one; with quantisation and as the reference."""

    def train(resume: Path, report: Report) -> CodebookTraining:
        training = CodebookTraining(CONFIG, two(tiles), quantise=quantise)
        fit(training, seed=0, resume=resume, configuration={}, report=report, save_every=0)
        return training

    def kill(part: str, now: int, total: int, values: Mapping[str, float]) -> None:
        if now == done + 1:  # the checkpoint of step `done` is there, that of this one is not
            raise Stop

    straight = train(tmp_path / "straight", lambda *_: None)
    with pytest.raises(Stop):
        train(tmp_path / "killed", kill)
    trained: list[int] = []
    resumed = train(tmp_path / "killed", lambda part, now, *_: trained.append(now) if part != "resumed" else None)
    assert trained == list(range(done + 1, 17))
    assert all(torch.equal(value, resumed.state()[key]) for key, value in straight.state().items())


def test_other_pixels_are_refused_with_the_difference(tmp_path: Path, tiles: Tiles) -> None:
    """A run that was begun on other views is not gone on with."""
    config = CONFIG.model_copy(update={"reference": False})
    pretrain_codebook(capture(tiles), config, tmp_path / "resume", lambda *_: None)
    other = tmp_path / "other"
    other.mkdir()
    write_tiles(other, [(name, picture(seed if name != "b" else 7)) for seed, name in enumerate("abcd")], 4)
    before, after = (view_digest(from_where.image("b", "full")) for from_where in (tiles, Tiles(other)))
    with pytest.raises(InputError) as caught:
        pretrain_codebook(capture(Tiles(other)), config, tmp_path / "resume", lambda *_: None)
    assert f"holds a run with another configuration: views.one.b {before} -> {after}; change it" in str(caught.value)


def test_codes_are_placed_on_latents_when_the_plain_segment_ends(tiles: Tiles) -> None:
    quantised, reference = (CodebookTraining(CONFIG, two(tiles), quantise=on) for on in (True, False))
    for training in (quantised, reference):
        run(training, PLAIN, range(6), adam(training, PLAIN))
    same = [torch.equal(a, b) for a, b in zip(quantised.state().values(), reference.state().values(), strict=True)]
    differing = [key for key, equal in zip(quantised.state(), same, strict=True) if not equal]
    assert differing == ["quantizer.codebook"]
    latents = rows_of(encode_view(quantised.model, np.array(tiles.image("a", "full"))))
    codebook = quantised.model.quantizer.codebook.detach()
    error = (latents - codebook[quantised.model.quantizer.nearest(latents)]).square().sum()
    assert error < 0.3 * (latents - latents.mean(0)).square().sum()


def test_it_learns(tmp_path: Path, tiles: Tiles) -> None:
    network = NETWORK.model_copy(update={"codes": 96})
    config = CONFIG.model_copy(update={"network": network, "plain_steps": 60, "quantised_steps": 120})
    points: list[tuple[str, int, int]] = []
    made = pretrain_codebook(capture(tiles), config, tmp_path / "resume", lambda *point: points.append(point[:3]))
    truth = np.array(tiles.image("c", "full"))
    flat = np.broadcast_to(truth.mean((0, 1)).astype(np.uint8), truth.shape)
    assert made.scores["psnr_plain"] > made.scores["psnr"] > psnr(flat, truth) + 3
    assert made.captures["one"]["views"]["c"] == {"psnr": made.scores["psnr"], "psnr_plain": made.scores["psnr_plain"]}
    assert points[-1][0] == "reference, quantised"
    assert points[-1][1:] == (180, 180)

    model = made.codebook.model
    indices = {}
    for seed, name in enumerate("abcd"):
        latents = model.encode(torch.from_numpy(picture(seed)).permute(2, 0, 1)[None] / 255)
        indices[name] = model.quantizer.nearest(rows_of(latents))
    used = set(torch.cat([indices[name] for name in "abd"]).tolist())
    assert made.scores["dead"] == 96 - len(used)
    shares = np.bincount(indices["c"].numpy()) / 120
    assert made.scores["perplexity"] == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares if p)))
    assert made.pictures.keys() == {"one.c_original", "one.c_vq", "one.c_plain"}
    assert np.array_equal(made.pictures["one.c_original"], truth)


def test_saved_and_loaded_is_the_same(tmp_path: Path, tiles: Tiles) -> None:
    config = CONFIG.model_copy(update={"reference": False})
    made = pretrain_codebook(capture(tiles), config, tmp_path / "resume", lambda *_: None)
    made.save(tmp_path)
    loaded = Codebook.load(tmp_path)
    pixels = picture(4)
    one, two = encode_view(made.codebook.model, pixels), encode_view(loaded.model, pixels)
    assert torch.equal(one, two)
    assert np.array_equal(decode_view(made.codebook.model, one), decode_view(loaded.model, two))
    assert loaded.config == config
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["psnr_plain"] is None
    assert scores["psnr"] == scores["captures"]["one"]["views"]["c"]["psnr"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["one.c_original.jpg", "one.c_vq.jpg"]

    assert loaded.seen == {f"one.{name}": view_digest(tiles.image(name, "full")) for name in "abd"}
    loaded.refuse(tiles, ["c"])
    with pytest.raises(InputError, match=r"test view b: the codebook was trained on it \(as one\.b\)"):
        loaded.refuse(tiles, ["c", "b"])


def test_a_codebook_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run pretrain_codebook first"):
        Codebook.load(tmp_path)
    Codebook(VqVae(NETWORK), CONFIG, {}).save(tmp_path)
    Codebook.load(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    content["config"]["network"]["width"] = 9
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not a codebook"):
        Codebook.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="not a codebook"):
        Codebook.load(tmp_path)


def test_views_that_do_not_suit_are_refused(tmp_path: Path, tiles: Tiles) -> None:
    for change, message in (({"crop": 18}, "no multiple of factor"), ({"crop": 44}, "does not fit into view a")):
        with pytest.raises(InputError, match=message):
            CodebookTraining(CONFIG.model_copy(update=change), {"a": picture(0)}, quantise=True)
    network = NETWORK.model_copy(update={"factor": 3})
    with pytest.raises(InputError, match="tiles of one, of ratio 4"):
        pretrain_codebook(capture(tiles), CONFIG.model_copy(update={"network": network}), tmp_path, lambda *_: None)


def test_learning_rate_warms_up_and_ends_low(tiles: Tiles) -> None:
    training = CodebookTraining(CONFIG, {"a": picture(0)}, quantise=True)
    assert [training.learning_rates(PLAIN, step)["codebook"] for step in range(4)] == [0.5, 1, 1, 1]
    rates = [training.learning_rates(QUANTISED, step)["codebook"] for step in range(10)]
    assert rates[0] == 0.5
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] < 0.05


def test_the_projects_own_configurations_are_whole() -> None:
    paths = sorted((Path(__file__).parents[1] / "configs/codebooks").glob("*.yaml"))
    assert paths
    for path in paths:
        config = read_section(path, "codebook", CodebookConfig)
        assert config.network.factor == 4
        size = path.stem.removeprefix("vqvae_f4").removeprefix("_") or "2048x16"
        assert f"{config.network.codes}x{config.network.channels}" == size
