"""Detection: a detector of coloured rectangles, whose answers are known, and a tiny random Faster R-CNN."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import execute
from PIL import Image
from scipy import ndimage
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from cdtlib import experiment as experiment_module
from cdtlib import plots, settings
from cdtlib.data import to_float
from cdtlib.data.download import COCO_CLASSES
from cdtlib.experiment import Experiment
from cdtlib.files import DamagedFile, sha256
from cdtlib.metrics import detection
from cdtlib.metrics.detection import (
    CATEGORIES,
    FILE,
    Detector,
    Found,
    Unmeasurable,
    coco_classes,
    compare,
    detector_weights,
    evaluate,
    load_detector,
    matched,
    recognised,
)

PAIR = ("zebra", "giraffe")
COLUMNS = "place: overlap of the columns taken up"
ALL, MATCHED = "place: overlap of all boxes", "place: overlap of matched boxes"


class Coloured(nn.Module):
    """Takes red rectangles for zebras and green ones for giraffes, as sure as they are bright."""

    def forward(self, pictures):
        return [self.one(picture) for picture in pictures]

    def one(self, picture):
        boxes, labels, scores = [], [], []
        for channel, name in enumerate(PAIR):
            pieces, number = ndimage.label(picture[channel] > 0)
            for k in range(number):
                rows, own = ndimage.find_objects(pieces)[k]
                boxes.append([own.start, rows.start, own.stop, rows.stop])
                labels.append(CATEGORIES.index(name))
                scores.append(picture[channel, rows.start, own.start])
        boxes, labels = torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(labels).long()
        return {"boxes": boxes, "labels": labels, "scores": torch.tensor(scores)}


def scene(*animals: tuple, size: int = 32) -> torch.Tensor:
    """A black picture with rectangles: (species, left, top, right, bottom[, brightness])."""
    picture = torch.zeros(3, size, size, dtype=torch.uint8)
    for species, left, top, right, bottom, *brightness in animals:
        picture[PAIR.index(species), top:bottom, left:right] = brightness[0] if brightness else 255
    return picture


def found(*animals: tuple, shape: tuple[int, int] = (32, 32)) -> Found:
    """Boxes without a picture: (species, left, top, right, bottom[, score])."""
    boxes = np.array([animal[1:5] for animal in animals], np.float32).reshape(-1, 4)
    scores = np.array([animal[5] if len(animal) > 5 else 0.9 for animal in animals], np.float32)
    return Found(boxes, np.array([animal[0] for animal in animals], str), scores, shape)


def tiny(classes: int = 91, **options) -> FasterRCNN:
    """Faster R-CNN with its own transform, on one convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(3, 8, 16, stride=32), nn.ReLU())
        backbone.out_channels = 8
        pool = MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=1)
        anchors = AnchorGenerator(((128, 256),), ((1.0,),))
        return FasterRCNN(backbone, classes, rpn_anchor_generator=anchors, box_roi_pool=pool, **options).eval()


# --- Names -------------------------------------------------------------------------------------------------------


def test_names_are_cocos():
    of_the_paper = {"zebra", "giraffe", "elephant", "cat", "dog"}
    assert len(COCO_CLASSES) == 80 and of_the_paper | {"horse", "teddy bear"} < set(COCO_CLASSES)
    assert coco_classes("Zebra", "teddy_bear") == ("zebra", "teddy bear")
    for pair in (("zebra", "lion"), ("lion", "zebra")):
        with pytest.raises(Unmeasurable, match="80 classes of COCO, and 'lion' is not among them.*zebra, giraffe"):
            coco_classes(*pair)
    with pytest.raises(Unmeasurable, match="'lion' and 'zebras' are not"):
        coco_classes("lion", "zebras")
    for placeholder in ("N/A", "__background__"):
        with pytest.raises(Unmeasurable, match="not among them"):
            coco_classes("zebra", placeholder)
    with pytest.raises(Unmeasurable, match="'Zebra' and 'zebra' are one class"):
        coco_classes("Zebra", "zebra")


# --- Reading -----------------------------------------------------------------------------------------------------


def test_a_picture_is_read_exactly_and_from_the_threshold_on():
    picture = scene(("zebra", 1, 2, 5, 9, 200), ("giraffe", 10, 0, 20, 30), ("zebra", 25, 2, 30, 6, 127))
    (seen,) = Detector(Coloured()).read(picture[None])
    assert seen.names.tolist() == ["giraffe", "zebra"]  # the likeliest first; 127 / 255 is less than a half
    assert seen.boxes.tolist() == [[10, 0, 20, 30], [1, 2, 5, 9]]
    assert seen.scores == pytest.approx([1, 200 / 255]) and seen.shape == (32, 32) and len(seen) == 2
    assert len(Detector(Coloured(), threshold=200 / 255).read(picture[None])[0]) == 2  # what reaches it counts
    assert len(Detector(Coloured(), threshold=201 / 255).read(picture[None])[0]) == 1
    assert len(Detector(Coloured(), threshold=127 / 255).read(picture[None])[0]) == 3
    (none,) = Detector(Coloured()).read(scene()[None])
    assert len(none) == 0 and none.boxes.shape == (0, 4)
    assert Detector(Coloured()).read(picture[None][:0]) == []


def equal(a: Found, b: Found) -> bool:
    return a.shape == b.shape and all(
        np.array_equal(getattr(a, k), getattr(b, k)) for k in ("boxes", "names", "scores")
    )


def test_reading_is_the_same_for_any_batch_and_for_both_kinds_of_pictures():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 3, 128, 128), dtype=torch.uint8, generator=generator)
    detector = Detector(tiny(3, box_score_thresh=0.0), ("", *PAIR), threshold=0.0)
    together = detector.read(pictures)
    assert all(len(own) for own in together) and not equal(together[0], together[1])
    for i, own in enumerate(together):
        assert equal(own, detector.read(to_float(pictures[i : i + 1]))[0])


def test_small_pictures_are_enlarged_by_the_detector_and_boxes_are_in_their_own_pixels():
    network, seen = tiny(3, box_score_thresh=0.0), []
    network.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    (own,) = Detector(network, ("", *PAIR), threshold=0.0).read(torch.rand(1, 3, 128, 128) * 2 - 1)
    assert seen == [(1, 3, 800, 800)] and own.shape == (128, 128)
    assert own.boxes.min() >= 0 and 64 < own.boxes.max() <= 128


def test_reading_refuses_what_it_cannot_read():
    detector = Detector(Coloured())
    for shape in ((3, 32, 32), (2, 1, 32, 32)):
        with pytest.raises(ValueError, match=r"pictures \(N, 3, H, W\), not"):
            detector.read(torch.zeros(shape))
    with pytest.raises(ValueError, match="NaN"):
        detector.read(torch.full((1, 3, 32, 32), float("nan")))


# --- Boxes -------------------------------------------------------------------------------------------------------


def test_one_animal_found_as_two_counts_once_as_the_likelier():
    same, other = ("giraffe", 0, 0, 10, 6, 0.6), ("giraffe", 0, 0, 10, 4, 0.6)  # IoU 0.6 and 0.4 with the zebra
    zebra, person = ("zebra", 0, 0, 10, 10, 0.9), ("person", 0, 0, 10, 10, 0.99)
    assert found(person, zebra, same).instances(PAIR).names.tolist() == ["zebra"]
    assert found(person, zebra, other).instances(PAIR).names.tolist() == ["zebra", "giraffe"]
    assert found(zebra, same).instances(("giraffe",)).names.tolist() == ["giraffe"]
    assert len(found(person).instances(PAIR)) == len(found().instances(PAIR)) == 0


def test_covered_is_the_union_by_pixel_centres():
    own = found(("zebra", 1, 0, 3, 2), ("giraffe", 2.5, 1.51, 4.49, 3.4), ("zebra", -5, 4, 0.4, 9), shape=(5, 6))
    assert own.covered.astype(int).tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert not found(shape=(5, 6)).covered.any() and found(shape=(5, 6)).covered.shape == (5, 6)


def test_matched_is_the_best_matching_not_the_greedy_one():
    a = found(("zebra", 0, 0, 10, 10), ("zebra", 3, 0, 13, 10))
    b = found(("giraffe", 2, 0, 12, 10), ("giraffe", 6, 0, 16, 10))
    assert matched(a, b) == matched(b, a) == pytest.approx((8 / 12 + 7 / 13) / 2)  # greedy: (9 / 11 + 4 / 16) / 2
    assert matched(a, b[[0]]) == pytest.approx(9 / 11 / 2)  # one has no partner
    assert matched(a, a) == 1 and matched(a, found()) == matched(found(), a) == 0
    assert np.isnan(matched(found(), found()))


# --- Measures ----------------------------------------------------------------------------------------------------

ZEBRA, OTHER_ZEBRA = ("zebra", 4, 10, 14, 20), ("zebra", 18, 10, 28, 20)
SOURCES = [scene(ZEBRA), scene(ZEBRA, OTHER_ZEBRA), scene(ZEBRA), scene()]
TRANSLATED = [
    scene(("giraffe", 4, 0, 14, 20)),  # a neck of 10 above the same place
    scene(("giraffe", 4, 10, 14, 20)),  # one of two
    scene(ZEBRA, ("giraffe", 9, 10, 19, 20)),  # the old one stays, the new one stands half over it
    scene(("giraffe", 0, 0, 10, 10)),  # nothing was found in the source
]
REAL = [scene(("giraffe", 4, 10, 14, 20)), scene(("giraffe", 16, 16, 32, 32), ("giraffe", 0, 0, 8, 8))]


def read(pictures):
    return Detector(Coloured()).read(torch.stack(pictures))


def test_compare_by_hand():
    kept = compare(read(SOURCES), read(TRANSLATED), PAIR)
    assert kept["number of animals kept"][:3].tolist() == [1, 0, 0]
    assert kept[COLUMNS][:3].tolist() == [1, 10 / 20, 10 / 15]
    assert kept[ALL][:3].tolist() == [100 / 200, 100 / 200, 100 / 150]
    assert kept[MATCHED][:3] == pytest.approx([0.5, 0.5, 0.5])
    assert all(np.isnan(values[3]) for values in kept.values())
    lost = compare(read(SOURCES[:2]), [found(), found(("person", 4, 10, 14, 20))], PAIR)
    assert all(values.tolist() == [0, 0] for values in lost.values())  # nothing, or something else
    with pytest.raises(ValueError, match="3 pictures were read, but there are 4 sources"):
        compare(read(SOURCES), read(TRANSLATED[:3]), PAIR)
    with pytest.raises(ValueError, match=r"pictures of \(64, 64\) and \(32, 32\) pixels differ"):
        compare(read(SOURCES[:1]), [found(shape=(64, 64))], PAIR)


def test_evaluate_by_hand():
    measures = {m.name: m for m in evaluate(read(TRANSLATED), read(SOURCES), read(REAL), PAIR)}
    right = measures["recognised as the target species"]
    assert (right.value, right.source, right.target, right.n) == (1, 0, 1, 4) and right.better == "higher"
    still = measures["still recognised as the source species"]
    assert (still.value, still.source, still.target, still.n) == (1 / 4, 3 / 4, 0, 4) and still.better == "lower"
    number = measures["number of animals kept"]
    assert (number.value, number.source, number.n) == (pytest.approx(1 / 3), 1, 3)
    assert number.target == 1  # real pictures show 1, 2, and again 1, as the sources do
    assert measures[COLUMNS].value == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    assert measures[ALL].value == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 3)
    assert measures[MATCHED].value == pytest.approx(1 / 2)
    for name in (COLUMNS, ALL, MATCHED):
        assert measures[name].source == 1 and measures[name].unit == "IoU" and measures[name].n == 3
    assert [m.kept for m in measures.values()] == [False, False, True, True, True, True]
    # The second real picture covers columns 0 … 8 and 16 … 32: 4 + 10 of the zebras' 20, 30 in all.
    assert measures[COLUMNS].target == pytest.approx((1 + 14 / 30 + 1) / 3)


def test_real_pictures_count_once_each_where_species_are_told():
    """Three sources and two real pictures, one of them empty: its share is a half, not a third."""
    measures = evaluate(read(TRANSLATED[:3]), read(SOURCES[:3]), read([REAL[0], scene()]), PAIR)
    assert measures[0].target == 1 / 2
    assert recognised(read([REAL[0], scene()]), "giraffe").tolist() == [True, False]


def test_what_is_kept_is_left_out_where_no_source_shows_an_animal():
    measures = evaluate(read(TRANSLATED[:2]), read([scene()] * 2), read(REAL), PAIR)
    assert [m.name for m in measures] == ["recognised as the target species", "still recognised as the source species"]
    for translated, source, real in ((0, 0, 1), (2, 3, 1), (2, 2, 0)):
        with pytest.raises(ValueError, match=f"{translated} translations of {source} pictures, and {real} real"):
            evaluate([found()] * translated, [found()] * source, [found()] * real, PAIR)


# --- Weights -----------------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path_factory, monkeypatch):
    """A folder with a file that passes for the published one, and no other place where weights could come from."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))

    def refuse(*args, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(detection, "_network", tiny)
    folder = tmp_path_factory.mktemp("weights")
    torch.save({k: v + 1 if v.is_floating_point() else v for k, v in tiny().state_dict().items()}, folder / FILE)
    monkeypatch.setattr(detection, "HASH", sha256(folder / FILE)[:8])
    return folder


def test_the_published_detector_is_the_one_that_is_built():
    assert FILE == "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth" and detection.HASH == "dd69338a"
    network = detection._network()
    assert sum(p.numel() for p in network.parameters()) == detection.PUBLISHED.meta["num_params"]
    assert network.transform.min_size == (800,) and network.roi_heads.score_thresh < detection.THRESHOLD
    assert network.roi_heads.box_predictor.cls_score.out_features == len(CATEGORIES)
    assert network.roi_heads.nms_thresh == detection.SAME


def test_weights_are_found_checked_and_loaded(published, monkeypatch):
    assert detector_weights(published) == detector_weights(published / FILE) == published / FILE
    monkeypatch.setenv("CDT_WEIGHTS", str(published))
    detector = load_detector()
    assert detector_weights() == published / FILE and not detector.network.training
    for name, value in tiny().state_dict().items():
        if value.is_floating_point():
            assert torch.equal(detector.network.state_dict()[name], value + 1)
    assert not any(p.requires_grad for p in detector.network.parameters())
    assert detector.read(torch.zeros(1, 3, 32, 32))[0].shape == (32, 32)


def test_missing_weights_are_named(published, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"no {FILE} in CDT_WEIGHTS, which is not set, and https.*no network.*"):
        detector_weights()
    monkeypatch.setenv("CDT_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"no {FILE} in {tmp_path}, and https.*set CDT_WEIGHTS to the folder"):
        detector_weights()
    (tmp_path / "other.pth").write_bytes(b"")
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "other.pth"):  # given: not looked for elsewhere
        with pytest.raises(FileNotFoundError, match=f"{place} neither is nor holds {FILE}; {FILE} comes from https"):
            detector_weights(place)


def test_damaged_weights_are_refused(published, tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes((published / FILE).read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=f"{tmp_path / FILE} is damaged or not the published file.*https"):
        load_detector(tmp_path)

    class Code:
        def __reduce__(self):
            return print, ("executed",)

    torch.save(Code(), tmp_path / FILE)
    monkeypatch.setattr(detection, "HASH", sha256(tmp_path / FILE)[:8])
    with pytest.raises(ValueError, match="cannot read the weights"):
        load_detector(tmp_path)


def test_a_download_is_checked_and_kept(published, monkeypatch):
    asked = []

    def download(url, path, **options):
        asked.append((url, options["hash_prefix"]))
        Path(path).write_bytes((published / FILE).read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    path = detector_weights()
    assert path == detector_weights() == Path(torch.hub.get_dir()) / "checkpoints" / FILE
    assert asked == [(detection.URL, detection.HASH)]
    path.write_bytes(b"cut short")
    with pytest.raises(DamagedFile, match=f"{path} is damaged"):
        detector_weights()


# --- In an experiment --------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Photos of red zebras and green giraffes, six to train on and six held out; and a class that COCO lacks."""

    def draw(name: str, kind: str):
        for split, n in (("train", 6), ("test", 6)):
            folder = tmp_path / name / split
            folder.mkdir(parents=True)
            for i in range(n):
                picture = scene((kind, 40 + 4 * i, 40, 80 + 4 * i, 80 + (split == "train")), size=128)
                Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")

    draw("zebra", "zebra")
    draw("giraffe", "giraffe")
    folder = tmp_path / "lion"
    draw("lion", "giraffe")
    for file in folder.rglob("*.png"):  # other pictures than the giraffes
        Image.open(file).rotate(90).save(file)
    monkeypatch.setenv("CDT_PHOTOS", str(tmp_path))


def test_an_experiment_on_photos_notes_what_is_detected(photos, published):
    experiment = Experiment("11_semantics", "photos", list(PAIR), 0)
    experiment.detector = Detector(Coloured())
    targets = experiment.method.domains["b"]["test"].batch(range(6))
    measures = experiment.semantics(to_float(targets), "b", "perfect")
    assert all(m.value == 1 for m in measures if m.better == "higher") and len(measures) == 6
    sources = experiment.method.domains["a"]["test"].batch([0, 1])
    experiment.semantics(to_float(sources), "b", "untouched")  # fewer than there are
    noted = {m["name"]: m for m in experiment.metrics}
    number = noted["number of animals kept, perfect, zebra → giraffe"]
    assert (number["value"], number["n"], number["lower"], number["upper"]) == (1, 6, 1, 1)
    right = noted["recognised as the target species, untouched, zebra → giraffe"]
    assert (right["value"], right["n"], right["lower"], right["upper"]) == (0, 2, 0, 1)
    shown = experiment.compared(["number of animals kept", "facing kept"], ["perfect", "untouched"], "b")
    assert shown["number of animals kept"].tolist() == [1, 1, 1, 1] and list(shown) == ["number of animals kept"]


def test_an_experiment_says_once_what_is_left_out(photos, published, capsys):
    experiment = Experiment("11_semantics", "photos", list(PAIR), 0)
    for _ in range(2):
        assert experiment.semantics(torch.zeros(3, 3, 128, 128), "b") == []
    said = capsys.readouterr().out
    assert said.count("left out") == 1 and f"no {FILE}" in said and "set CDT_WEIGHTS" in said and not experiment.metrics


def test_an_experiment_with_another_animal_says_so_and_asks_for_no_weights(photos, published, monkeypatch, capsys):
    monkeypatch.setattr(detection, "detector_weights", lambda weights: pytest.fail("weights for nothing"))
    experiment = Experiment("11_semantics", "photos", ["zebra", "lion"], 0)
    assert experiment.semantics(torch.zeros(3, 3, 128, 128), "b") == []
    assert "left out (the detector knows the 80 classes of COCO, and 'lion' is not" in capsys.readouterr().out


def test_an_experiment_stops_at_damaged_weights_and_loads_good_ones(photos, published, monkeypatch):
    monkeypatch.setenv("CDT_WEIGHTS", str(published))
    assert isinstance(Experiment("11_semantics", "photos", list(PAIR), 0).detector, Detector)
    (published / FILE).write_bytes(b"")
    with pytest.raises(DamagedFile):
        Experiment("11_semantics", "photos", list(PAIR), 0).semantics(torch.zeros(3, 3, 128, 128), "b")


def test_notebook_11_shows_what_is_detected_in_photos(photos, published, tmp_path, monkeypatch):
    """Its cells, on photos and with a detector: the executed notebooks, being of the drawn zoo, never come there."""
    monkeypatch.setenv("CDT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("CDT_PROGRESS", "none")
    monkeypatch.setitem(settings.PROFILES["smoke"], "data", {"source": "photos", "size": 128})
    monkeypatch.setattr(experiment_module, "load_detector", lambda device: Detector(Coloured()))
    execute("11_semantics", "smoke")
    assert len(list((tmp_path / "results/smoke/figures").glob("11_semantics-zebra-giraffe-detected-*.jpg"))) == 2
    written = json.loads((tmp_path / "results/smoke/metrics/11_semantics-zebra-giraffe.json").read_text())
    noted = {metric["name"]: metric for metric in written["metrics"]}
    for direction in ("zebra → giraffe", "giraffe → zebra"):
        right = noted[f"recognised as the target species, {direction}"]
        assert (right["n"], right["lower"], right["upper"]) == (6, 0, 1) and 0 <= right["value"] <= 1
        assert noted[f"number of animals kept, {direction}"]["lower"] == 1


def test_no_detector_on_the_drawn_zoo(published, capsys):
    assert Experiment("11_semantics", "smoke", list(PAIR), 0).detector is None
    assert "left out" not in capsys.readouterr().out


def test_boxes_are_drawn_at_twice_the_size():
    picture = to_float(scene(("giraffe", 10, 10, 20, 20)))
    own = found(("zebra", 2, 2, 30, 30), ("person", 10, 10, 20, 20))
    drawn = plots.boxed(torch.stack([picture, picture]), [own, found()], {"zebra": "#0000ff"})
    assert drawn.shape == (2, 3, 64, 64) and drawn.dtype == torch.uint8
    assert drawn[0, :, 4, 30].tolist() == drawn[0, :, 30, 60].tolist() == [0, 0, 255]
    assert (drawn[0, 2] > 0).float().mean() < 0.2  # one box of lines, and none for what is not asked for
    plain = (2 * picture.repeat_interleave(2, 1).repeat_interleave(2, 2)[1] > 0).byte() * 255
    assert torch.equal(drawn[1, 1], plain) and not drawn[1, 2].any()
