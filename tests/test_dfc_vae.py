"""DFC-VAE: its size, its loss, its schedule (see test_rivals.py for what it shares with others)."""

import pytest
import torch

from cdtlib.features.backbones import embedded
from cdtlib.rivals import dfc_vae
from cdtlib.rivals.common import parameters
from cdtlib.rivals.dfc_vae import DFCVAE, Model, halved, perceptual, scales_of
from cdtlib.settings import load


def test_full_width_has_the_published_layers():
    o = dfc_vae.Options()
    model = Model(128, o.width, o.latent)
    convolutions = [(3, 32), (32, 64), (64, 128), (128, 256), (256, 256)]
    encoder = sum((16 * a + 3) * b for a, b in convolutions)  # 4×4, bias, batch normalisation
    assert parameters(model.encoder) == encoder
    assert parameters(model.mean) == parameters(model.log_variance) == 100 * (4 * 4 * 256 + 1)
    convolutions = [(512, 256), (256, 128), (128, 64), (64, 32)]
    decoder = (100 + 1) * 512 * 4 * 4 + sum((9 * a + 3) * b for a, b in convolutions) + 3 * (9 * 32 + 1)
    assert parameters(model.decoder) == decoder
    assert parameters(model) == 4_956_267


def test_the_papers_own_size_has_four_layers():
    model = Model(64)
    channels = [[layer.out_channels for layer in part if isinstance(layer, torch.nn.Conv2d)] for part in (
        model.encoder, model.decoder,
    )]  # fmt: skip
    assert channels == [[32, 64, 128, 256], [128, 64, 32, 3]] and model.mean.in_features == 256 * 4 * 4


@pytest.mark.parametrize("size", [32, 48, 96, 112, 128, 224])
def test_any_size_comes_back(size):
    model = Model(size, 4, 8).eval()
    mean, log_variance = model.encode(torch.zeros(2, 3, size, size))
    assert mean.shape == log_variance.shape == (2, 8) and model.decode(mean).shape == (2, 3, size, size)


def test_perceptual_loss_by_hand():
    made, wanted = ({i: torch.tensor(x) for i, x in maps.items()} for maps in (
        {1: [[1.0, -2.0]], 2: [[3.0]]}, {1: [[3.0, -1.0]], 2: [[-1.0]]},
    ))  # fmt: skip
    # level 1: 10² · ((1 - 3)² + (0 - 0)²) / 2, level 2: 2² · (3 - 0)²
    assert perceptual(made, wanted, {1: 10.0, 2: 2.0}).item() == 200 + 36


def test_features_are_brought_to_the_published_size():
    backbone, images = embedded(), torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = backbone(images)
    for i, scale in scales_of(backbone, images, {1: 43.0, 3: 271.0}).items():
        assert (scale * maps[i].relu()).square().mean().sqrt().item() == pytest.approx({1: 43.0, 3: 271.0}[i], rel=1e-5)


def test_the_rate_is_halved_between_equal_parts():
    assert [halved(step, 10, 4) for step in (0, 1, 2, 5, 9)] == [1, 1, 0.5, 0.25, 0.0625]
    assert halved(9, 10, 0) == 1


def test_codes_of_samples_are_standard_normal(tmp_path, monkeypatch):
    seen = []
    made = DFCVAE(load("smoke"), {}, tmp_path, latent=100)
    monkeypatch.setattr(DFCVAE, "_decode", lambda self, codes: seen.append(codes))
    made.sample(400)
    torch.testing.assert_close(seen[0].T.cov().diagonal().mean(), torch.tensor(1.0), atol=0.02, rtol=0)
    assert seen[0].mean().abs() < 0.02
