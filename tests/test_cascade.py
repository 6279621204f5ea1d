"""The cascade at test time: which network gets what, and that pictures do not mix."""

import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from cdtlib.cascade import Cascade
from cdtlib.data import to_float
from cdtlib.features import backbones
from cdtlib.features.backbones import VGG19, Backbone, embedded, map_shape
from cdtlib.features.normalise import ChannelStatistics, channel_statistics
from cdtlib.files import DamagedFile
from cdtlib.models.blocks import kaiming
from cdtlib.models.inverter import Inverter
from cdtlib.saved import FILE
from cdtlib.settings import Settings, load
from cdtlib.training.translation import Translators, make_translator

SIZE = 32


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return embedded()


@pytest.fixture(scope="module")
def settings() -> Settings:
    small = {"style": 8, "style_width": 8}
    return load(
        "smoke", ("zebra", "giraffe"), data={"size": SIZE}, levels=(5, 4, 3),
        translation={i: small | {"width": width} for i, width in ((5, 16), (4, 24), (3, 20))},
        inversion={"width": {5: 16, 4: 24, 3: 20}, "refine": 1, "crop": {}},
    )  # fmt: skip


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator)
    return to_float((torch.nn.functional.interpolate(coarse, size=SIZE) * 255).byte())


def untrained(backbone: Backbone, settings: Settings) -> Cascade:
    """A whole cascade with random weights."""
    torch.manual_seed(0)

    def translators(i: int) -> Translators:
        deeper = backbone.channels[i + 1] if i < 5 else None
        shape = map_shape(backbone, i, SIZE)
        make = (kaiming(make_translator(i, shape, deeper, settings.translation[i])).eval() for _ in range(2))
        return Translators(*make)

    s = settings.inversion
    return Cascade(
        backbone=backbone,
        statistics={side: channel_statistics([backbone(pictures(8, seed))]) for seed, side in enumerate("ab")},
        translators={i: translators(i) for i in (5, 4, 3)},
        inverters={
            side: {
                i: kaiming(Inverter(backbone.channels[i], s.width[i], VGG19.halvings[i], s.refine)).eval()
                for i in (5, 4, 3)
            }
            for side in "ab"
        },
    )


@pytest.fixture(scope="module")
def cascade(backbone, settings) -> Cascade:
    return untrained(backbone, settings)


# ---- what comes out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["a", "b"])
@pytest.mark.parametrize("level", [None, 5, 4, 3])
def test_translate_gives_pictures(cascade, to, level):
    made = cascade.translate(pictures(3), to, level=level)
    assert made.shape == (3, 3, SIZE, SIZE) and made.dtype == torch.float32 and not made.requires_grad
    assert -1 <= made.min() and made.max() <= 1 and made.std() > 0


def test_the_two_directions_differ(cascade):
    x = pictures(2)
    assert not torch.allclose(cascade.translate(x, "a"), cascade.translate(x, "b"))


@pytest.mark.parametrize("to", ["c", "A", "", None, "zebra"])
def test_an_unknown_domain_is_refused(cascade, to):
    with pytest.raises(ValueError, match='the domains are "a" and "b"'):
        cascade.translate(pictures(1), to)


@pytest.mark.parametrize("level", [2, 1, 0, 6])
def test_a_level_that_the_cascade_lacks_is_refused(cascade, level):
    with pytest.raises(ValueError, match=rf"level: .*5, 4, 3.*{level}"):
        cascade.translate(pictures(1), "b", level=level)


def test_pictures_of_another_range_and_none_are_refused(cascade):
    for images in (pictures(1) * 255, pictures(1)[:0]):
        with pytest.raises(ValueError, match=r"images: at least one, with values in \[-1, 1\]"):
            cascade.translate(images, "b")


def test_a_level_without_an_inverter_is_refused(cascade):
    last = {"a": {}, "b": {3: cascade.inverters["b"][3]}}
    bare = Cascade(cascade.backbone, cascade.statistics, cascade.translators, last)
    assert bare.translate(pictures(1), "b").shape == (1, 3, SIZE, SIZE)
    with pytest.raises(ValueError, match="no inverter .*level 4"):
        bare.translate(pictures(1), "b", level=4)


def test_pictures_of_a_batch_do_not_mix(cascade):
    x = pictures(5)
    whole = cascade.translate(x, "b")
    for batch in (1, 2):
        # Untrained, the inverter enlarges the rounding of float32; pictures that mixed would differ by tenths.
        torch.testing.assert_close(cascade.translate(x, "b", batch=batch), whole, atol=1e-3, rtol=0)
    torch.testing.assert_close(cascade.translate(x.flip(0), "b").flip(0), whole, atol=1e-4, rtol=0)


# ---- which network gets what -------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Stands for a network: returns maps filled with `value`, and notes the means of its inputs."""

    def __init__(self, name: str, value: float, seen: list):
        super().__init__()
        self.name, self.value, self.seen = name, value, seen

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.name, *(round(x.mean().item(), 3) for x in inputs)))
        return torch.full_like(inputs[0], self.value)


class ConstantBackbone(nn.Module):
    """Level i is i / 10 everywhere."""

    def forward(self, images: torch.Tensor, deepest: int = 5) -> dict[int, torch.Tensor]:
        return {i: torch.full((len(images), 2, 2 ** (6 - i), 2 ** (6 - i)), i / 10) for i in range(1, deepest + 1)}


@pytest.fixture
def recorded() -> tuple[Cascade, list]:
    """A cascade of recorders. Statistics: domain a's maps are left as they are, domain b's get a minus."""
    seen: list = []
    return Cascade(
        backbone=ConstantBackbone(),
        statistics={
            "a": {i: ChannelStatistics(torch.zeros(2), torch.ones(2)) for i in (5, 4, 3)},
            "b": {i: ChannelStatistics(torch.zeros(2), -torch.ones(2)) for i in (5, 4, 3)},
        },
        translators={
            i: Translators(Recorder(f"G_A^{i}", -i / 100, seen), Recorder(f"G_B^{i}", i / 100, seen)) for i in (5, 4, 3)
        },
        inverters={
            side: {i: Recorder(f"invert {side} {i}", 0.0, seen) for i in (5, 4, 3)} for side in "ab"
        },
    ), seen  # fmt: skip


def test_every_level_is_conditioned_on_the_translated_deeper_one(recorded):
    cascade, seen = recorded
    cascade.translate(torch.zeros(2, 3, 32, 32), "b")
    # Real levels are 0.5, 0.4, 0.3; translated ones 0.05, 0.04, 0.03.
    assert seen == [("G_B^5", 0.5), ("G_B^4", 0.4, 0.05), ("G_B^3", 0.3, 0.04), ("invert b 3", 0.03)]


def test_the_other_direction_uses_the_other_statistics_and_networks(recorded):
    cascade, seen = recorded
    cascade.translate(torch.zeros(2, 3, 32, 32), "a")
    assert seen == [("G_A^5", -0.5), ("G_A^4", -0.4, -0.05), ("G_A^3", -0.3, -0.04), ("invert a 3", -0.03)]


def test_a_level_stops_the_cascade_there(recorded):
    cascade, seen = recorded
    cascade.translate(torch.zeros(1, 3, 32, 32), "b", level=5)
    assert seen == [("G_B^5", 0.5), ("invert b 5", 0.05)]
    seen.clear()
    cascade.translate(torch.zeros(1, 3, 32, 32), "b", level=4)
    assert seen == [("G_B^5", 0.5), ("G_B^4", 0.4, 0.05), ("invert b 4", 0.04)]


def test_the_translated_pyramid_is_handed_out_deepest_first(recorded):
    cascade, _ = recorded
    maps = cascade.pyramid(torch.zeros(1, 3, 32, 32), "a")
    assert {i: round(x.mean().item(), 3) for i, x in maps.items()} == {5: 0.5, 4: 0.4, 3: 0.3}
    translated = cascade.translate_maps(maps, "b")
    assert list(translated) == [5, 4, 3]
    assert all(translated[i].shape == maps[i].shape for i in maps)


def test_the_pyramid_is_normalised_with_its_own_domains_statistics(cascade):
    x = pictures(2, seed=3)
    raw = cascade.backbone(x)
    for side in "ab":
        for i, maps in cascade.pyramid(x, side).items():
            s = cascade.statistics[side][i]
            expected = ((raw[i] - s.mean[:, None, None]) / s.std[:, None, None]).clamp(-1, 1)
            torch.testing.assert_close(maps, expected)


# ---- kept in a file ----------------------------------------------------------------------------------------


def test_a_saved_cascade_translates_the_same(cascade, settings, tmp_path):
    cascade.save(tmp_path, settings)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    loaded, its_settings = Cascade.load(tmp_path)
    assert its_settings == settings
    x = pictures(2)
    for to in "ab":
        for level in (5, 4, 3):
            assert torch.equal(loaded.translate(x, to, level=level), cascade.translate(x, to, level=level))
    assert not any(m.training for t in loaded.translators.values() for m in (t.to_a, t.to_b))


def test_only_the_inverters_that_were_saved_are_there(cascade, settings, tmp_path):
    last = {side: {3: cascade.inverters[side][3]} for side in "ab"}
    Cascade(cascade.backbone, cascade.statistics, cascade.translators, last).save(tmp_path, settings)
    loaded, _ = Cascade.load(tmp_path)
    assert [list(loaded.inverters[side]) for side in "ab"] == [[3], [3]]
    assert torch.equal(loaded.translate(pictures(1), "b"), cascade.translate(pictures(1), "b"))


def test_a_missing_cascade_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no {FILE} in .*cdt train"):
        Cascade.load(tmp_path)


def test_a_damaged_cascade_is_named_and_refused(cascade, settings, tmp_path):
    cascade.save(tmp_path, settings)
    path = tmp_path / FILE
    whole = path.read_bytes()
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    few = {k: v for k, v in tensors.items() if not k.startswith("translator.a.4.head")}

    def write(data: bytes) -> None:
        path.unlink()  # not over what is mapped into memory
        path.write_bytes(data)

    for harm in (
        lambda: write(b""),
        lambda: write(whole[: len(whole) // 2]),
        lambda: write(b"\0" * len(whole)),
        lambda: write(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:]),  # one bit of a weight
        lambda: save_file(tensors, path),  # says nothing about itself
        lambda: save_file(tensors, path, metadata=about | {"settings": about["settings"].replace("zebra", "kudu")}),
        lambda: save_file(few, path, metadata=about),
        lambda: save_file({k: v for k, v in tensors.items() if not k.startswith("mean.b.3")}, path, metadata=about),
    ):
        harm()
        with pytest.raises(DamagedFile, match=FILE):
            Cascade.load(tmp_path)


def test_a_cascade_is_not_used_with_another_backbone(cascade, settings, tmp_path, monkeypatch):
    cascade.save(tmp_path, settings)
    state = {f"features.{k}": v for k, v in cascade.backbone.features.state_dict().items()}
    monkeypatch.setitem(backbones.BACKBONES, "embedded", lambda: Backbone("embedded", 0.25, state, "another"))
    with pytest.raises(ValueError, match="other embedded weights.*another.*--weights"):
        Cascade.load(tmp_path)
