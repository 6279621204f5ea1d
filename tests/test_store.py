"""The feature store: built once, right, and never half."""

import json

import numpy as np
import pytest
import torch

from cdtlib.data import to_float
from cdtlib.features import store as store_module
from cdtlib.features.backbones import Backbone, embedded
from cdtlib.features.normalise import channel_statistics
from cdtlib.features.store import FeatureStore, build, view


class Pictures:
    """A domain of random pictures that counts how often it is asked, and can fail."""

    name, size = "noise", 32

    def __init__(self, count: int = 5, seed: int = 0, split: str = "train"):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(count, 3, 8, 8, generator=generator)
        self.pictures = (torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1) * 255).byte()
        self.split, self.fingerprint = split, f"{seed}/{count}/{split}"
        self.asked = 0
        self.fail_at: int | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, indices) -> torch.Tensor:
        if self.asked == self.fail_at:
            raise KeyboardInterrupt
        self.asked += 1
        return self.pictures[list(indices)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return embedded()


def content(root) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock") if root.exists() else []


def assert_within_half(stored: torch.Tensor, raw: torch.Tensor, statistics) -> None:
    """`stored` is `raw`, rounded to float16, normalised, rounded again."""
    rounding = (raw.abs() * 2**-11 / statistics.std.view(1, -1, 1, 1)) + 2**-11 + 1e-5
    assert ((stored - statistics.normalise(raw)).abs() <= rounding).all()


# ---- what is in it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [1, 2, 4])
def test_values_are_the_backbones_normalised_and_clamped(backbone, tmp_path, views):
    domain = Pictures()
    store = build(domain, backbone, tmp_path, views=views, batch=4)
    assert len(store) == 5 * views
    rows = torch.stack([view(domain.pictures[i], i, k) for i in range(5) for k in range(views)])
    torch.testing.assert_close(store.images(), to_float(rows), rtol=0, atol=0)
    maps = backbone(to_float(rows))
    expected = channel_statistics([maps])  # over all views, all at once
    assert store.levels == (5, 4, 3) and set(store.statistics) == {5, 4, 3}
    for i in store.levels:
        torch.testing.assert_close(store.statistics[i].mean, expected[i].mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(store.statistics[i].std, expected[i].std, rtol=1e-4, atol=1e-5)
        stored = store.level(i)
        assert stored.dtype == torch.float32 and stored.shape == maps[i].shape
        assert -1 <= stored.min() and stored.max() <= 1
        assert_within_half(stored, maps[i], store.statistics[i])
    assert store.originals() == list(range(0, 5 * views, views))
    torch.testing.assert_close(store.images(store.originals()), to_float(domain.pictures), rtol=0, atol=0)


def test_only_the_levels_asked_for_are_kept(backbone, tmp_path):
    store = build(Pictures(), backbone, tmp_path, levels=(3,))
    assert store.levels == (3,) and not (store.folder / "level_5.npy").exists()
    assert store.level(3).shape == (5, 64, 8, 8)


def test_rows_by_slice_list_and_tensor_mapped_or_resident(backbone, tmp_path):
    mapped = build(Pictures(), backbone, tmp_path)
    resident = FeatureStore(mapped.folder).resident("images", "level_5")
    for rows in ([4, 0, 4], torch.tensor([4, 0, 4])):
        for store in (mapped, resident):
            assert torch.equal(store.level(5, rows), mapped.level(5)[[4, 0, 4]])
            assert torch.equal(store.images(rows), mapped.images()[[4, 0, 4]])
    assert torch.equal(resident.level(5, slice(1, 3)), mapped.level(5)[1:3])
    resident.level(5).zero_(), mapped.level(5, slice(0, 2)).zero_()  # what is handed out is a copy
    assert mapped.level(5).any() and resident.level(5).any()


def test_what_would_fill_the_memory_stays_on_the_disk(backbone, tmp_path, monkeypatch, capsys):
    mapped = build(Pictures(), backbone, tmp_path)
    size = (mapped.folder / "level_5.npy").stat().st_size
    assert (mapped.folder / "level_4.npy").stat().st_size > size
    monkeypatch.setattr(store_module.machine, "free_memory", {"cpu": 2 * size}.get)
    resident = FeatureStore(mapped.folder).resident("level_5", "level_4")
    assert list(resident._resident) == [("level_5", "cpu")]
    assert store_module.fits(size, "cpu") and not store_module.fits(size + 1, "cpu")  # as much again stays free
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "level_4" in said and "cpu" in said
    assert torch.equal(resident.level(4, torch.tensor([4, 0])), mapped.level(4)[[4, 0]])


def test_a_test_split_is_normalised_with_the_statistics_of_its_training_split(backbone, tmp_path):
    train = build(Pictures(), backbone, tmp_path)
    domain = Pictures(3, seed=1, split="test")
    test = build(domain, backbone, tmp_path, statistics_of=train)
    own = build(domain, backbone, tmp_path)
    assert test.id != own.id
    maps = backbone(to_float(domain.pictures))
    for i in test.levels:
        assert torch.equal(test.statistics[i].mean, train.statistics[i].mean)
        assert torch.equal(test.statistics[i].std, train.statistics[i].std)
        assert not torch.equal(own.statistics[i].mean, train.statistics[i].mean)
        assert_within_half(test.level(i), maps[i], train.statistics[i])


def test_features_clamped_farther_out(backbone, tmp_path):
    plain, farther = (build(Pictures(), backbone, tmp_path, clamped_at=at) for at in (1.0, 3.0))
    test = build(Pictures(3, 1, "test"), backbone, tmp_path, statistics_of=farther, clamped_at=3.0)
    maps = backbone(to_float(Pictures().pictures))
    for i in plain.levels:
        assert torch.equal(farther.statistics[i].mean, plain.statistics[i].mean)
        torch.testing.assert_close(farther.statistics[i].std, 3 * plain.statistics[i].std)
        assert torch.equal(test.statistics[i].std, farther.statistics[i].std)
        assert_within_half(farther.level(i), maps[i], farther.statistics[i])
    about = [json.loads((store.folder / "done.json").read_text()) for store in (plain, farther)]
    assert plain.id != farther.id and about[1]["clamped_at"] == 3.0
    assert "clamped_at" not in about[0]  # stores from before there was such a setting are found


def test_the_batch_size_does_not_matter(backbone, tmp_path):
    stores = [build(Pictures(), backbone, tmp_path / str(batch), views=2, batch=batch) for batch in (1, 3, 32)]
    assert len({store.id for store in stores}) == 1
    for store in stores[1:]:
        assert torch.equal(store.images(), stores[0].images())
        for i in store.levels:
            torch.testing.assert_close(store.level(i), stores[0].level(i), rtol=0, atol=2e-3)


# ---- views -------------------------------------------------------------------------------------------------


def test_views_of_a_picture():
    # The red channel grows to the right, the green one downwards, by 4 a pixel.
    ramp = (torch.arange(64) * 4).byte()
    picture = torch.stack([ramp.expand(64, 64), ramp.expand(64, 64).T, torch.zeros(64, 64, dtype=torch.uint8)])
    assert torch.equal(view(picture, 7, 0), picture)
    assert torch.equal(view(picture, 7, 1), picture.flip(-1))
    seen = set()
    for row in range(6):
        for number in (2, 3):
            crop = view(picture, row, number)
            assert crop.shape == picture.shape and crop.dtype == torch.uint8
            assert torch.equal(crop, view(picture, row, number))
            red, green = (x.float() / 4 for x in crop[:2])  # the column and the row of the original
            across = red[:, -1] - red[:, 0]
            assert (across < 0).all() == (number % 2 == 1), "odd numbers are mirrored, even ones are not"
            assert ((green[-1] - green[0]) > 0).all(), "never upside down"
            assert 0.78 < across.abs().mean() / 63 < 0.97
            assert across.abs().mean() == pytest.approx((green[-1] - green[0]).mean().item(), abs=1), "a square"
            seen.add((round(red.min().item()), round(green.min().item()), round(across.abs().mean().item())))
    assert len(seen) > 6, "crops differ between rows and numbers"


# ---- found, not built again --------------------------------------------------------------------------------


def test_found_not_rebuilt(backbone, tmp_path, monkeypatch):
    domain = Pictures()
    first = build(domain, backbone, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    domain.fail_at = domain.asked  # the pictures are not looked at again …
    monkeypatch.setattr(Backbone, "forward", None)  # … and nothing is computed
    second = build(domain, backbone, tmp_path, batch=3)
    assert second.id == first.id and second.folder == first.folder
    assert {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before
    assert torch.equal(second.level(5), first.level(5))


def test_whatever_determines_the_features_names_them(backbone, tmp_path):
    train = build(Pictures(), backbone, tmp_path)
    state = {f"features.{k}": v for k, v in backbone.features.state_dict().items()}
    others = [
        build(Pictures(seed=1), backbone, tmp_path),
        build(Pictures(), backbone, tmp_path, levels=(5, 4)),
        build(Pictures(), backbone, tmp_path, views=2),
        build(Pictures(), backbone, tmp_path, statistics_of=train),
        build(Pictures(), Backbone("embedded", 0.25, state, "others"), tmp_path),
    ]
    assert len({store.id for store in [train, *others]}) == 6
    assert len(content(tmp_path)) == 6


def test_an_interrupted_build_leaves_nothing(backbone, tmp_path):
    domain = Pictures()
    domain.fail_at = 2
    with pytest.raises(KeyboardInterrupt):
        build(domain, backbone, tmp_path, batch=2)
    assert domain.asked == 2 and content(tmp_path) == []
    domain.fail_at = None
    again = build(domain, backbone, tmp_path, batch=2)
    undisturbed = build(Pictures(), backbone, tmp_path / "other", batch=2)
    for i in again.levels:
        assert torch.equal(again.level(i), undisturbed.level(i))


def test_what_a_killed_process_left_is_swept_up(backbone, tmp_path):
    whole = build(Pictures(), backbone, tmp_path)
    left = whole.folder.rename(whole.folder.with_name(whole.folder.name + ".unfinished"))
    (left / "done.json").unlink()
    np.save(left / "level_1.npy", np.zeros(3))
    again = build(Pictures(), backbone, tmp_path)
    assert content(tmp_path) == [again.folder.name]
    assert not (again.folder / "level_1.npy").exists()


def test_a_full_disk_is_an_error_that_leaves_nothing(backbone, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="images.npy|level_.*npy") as error:
        build(Pictures(), backbone, tmp_path)
    assert error.value.errno == 28 and content(tmp_path) == []


# ---- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images.npy", "level_5.npy", "level_3.npy", "statistics.safetensors"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_file_is_named_and_refused(backbone, tmp_path, name, harm):
    folder = build(Pictures(), backbone, tmp_path).folder
    path = folder / name
    path.unlink() if harm == "gone" else path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"{name}.*delete {folder}"):
        build(Pictures(), backbone, tmp_path)
    assert path.exists() == (harm == "cut"), "nothing is built again silently"


def test_a_damaged_record_is_named_and_refused(backbone, tmp_path):
    folder = build(Pictures(), backbone, tmp_path).folder
    text = (folder / "done.json").read_text()
    for damaged in (text[: len(text) // 2], "[]", json.dumps({"id": "x"})):
        (folder / "done.json").write_text(damaged)
        with pytest.raises(ValueError, match=f"done.json.*delete {folder}"):
            build(Pictures(), backbone, tmp_path)
    (folder / "done.json").unlink()
    with pytest.raises(ValueError, match=f"done.json.*delete {folder}"):
        build(Pictures(), backbone, tmp_path)
