"""Semantics: masks and readings made by hand, an oracle in place of the probes, and a tiny training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdtlib.data import to_float
from cdtlib.data.zoo import Animal, Truth, ZooDomain, draw
from cdtlib.metrics import semantics
from cdtlib.metrics.semantics import (
    BACKGROUND,
    HEAD,
    LEGS,
    SILHOUETTE,
    STILL_CUT,
    Measure,
    Probes,
    Reading,
    background,
    columns,
    compare,
    cut,
    evaluate,
    evaluate_cut,
    foot_line,
    labelled,
    overlap,
    pose_kept,
    shift,
    silhouettes,
    table,
    touching,
    zoo_probes,
)
from cdtlib.training import probes
from cdtlib.training.probes import Probe, blur, shift_and_mirror, spoil, spoil_masks, wreck
from cdtlib.training.run import Run

SPECIES = ("zebra", "giraffe", "elephant")


def beast(neck: int = 6, legs: int = 4) -> np.ndarray:
    """An animal that faces right, 24 × 24: torso 10 × 4, two legs, a neck of `neck` rows above the back."""
    mask = np.zeros((24, 24), bool)
    mask[14 - legs : 18 - legs, 4:14] = True  # the torso; the feet are in row 17
    mask[18 - legs : 18, 4:6] = mask[18 - legs : 18, 12:14] = True
    mask[14 - legs - neck : 18 - legs, 14:16] = True
    return mask


def truth(mask: np.ndarray, species="zebra", count=1, facing="right", box=(4, 4, 16, 18)) -> Truth:
    animal = Animal(box, facing, 0.0, 0.0, 0.4, 0.5, 0.9, 5.0, 5.0, 10.0)
    return Truth(species, count, facing, (animal,) * count, mask.astype(np.uint8))


def reading(masks, species=None, count=None, right=None) -> Reading:
    n = len(masks)
    probabilities = np.eye(3)[[1] * n if species is None else species]
    return Reading(
        probabilities,
        probabilities,
        np.array([1] * n if count is None else count),
        np.array([True] * n if right is None else right),
        np.asarray(masks, float),
    )


class Oracle(Probes):
    """Reads every picture of some domains without a fault, by looking it up."""

    def __init__(self, *domains: ZooDomain):
        self.species, self.size = SPECIES, domains[0].size
        self.known = {
            picture.numpy().tobytes(): truth
            for domain in domains
            for picture, truth in zip(*labelled(domain), strict=True)
        }

    def read(self, pictures):
        truths = [self.known[picture.numpy().tobytes()] for picture in pictures]
        return reading(
            np.stack([t.mask > 0 for t in truths]),
            [SPECIES.index(t.species) for t in truths],
            [t.count for t in truths],
            [t.facing == "right" for t in truths],
        )


# --- Place ---


def test_overlap_is_intersection_over_union():
    a = np.zeros((3, 4, 4), bool)
    b = a.copy()
    a[0, :2], b[0, 1:3] = True, True  # 4 of 12 pixels in common
    a[1, 0], b[1, 0] = True, True  # equal
    assert overlap(a, b).tolist() == [4 / 12, 1.0, 0.0]  # the last: both empty
    with pytest.raises(ValueError, match=r"\(3, 4, 4\) and \(2, 4, 4\)"):
        overlap(a, b[:2])


def test_place_ignores_height_and_specks():
    short, tall = beast(neck=2), beast(neck=8)
    assert columns(short[None])[0].nonzero()[0].tolist() == list(range(4, 16))
    assert overlap(columns(short[None]), columns(tall[None])) == [1.0]
    assert foot_line(short[None]) == foot_line(tall[None]) == [17]
    specks = short.copy()
    specks[22, 1] = specks[1, 20] = True
    assert foot_line(specks[None]) == [17]
    assert (columns(specks[None]) == columns(short[None])).all()
    assert np.isnan(foot_line(np.zeros((1, 24, 24), bool)))


def test_place_moves_with_the_animal():
    here, there = beast(), np.roll(beast(), (-3, 6), (0, 1))
    assert overlap(columns(here[None]), columns(there[None])) == [6 / 18]
    assert foot_line(there[None]) == [14]


# --- Shape ---


def test_silhouette_statistics_of_a_hand_made_animal():
    found = silhouettes(beast(neck=6, legs=4)[None], np.array([True]))
    assert list(found) == list(SILHOUETTE)
    assert found["aspect"] == [14 / 12]  # 6 + 4 + 4 rows, 12 columns
    assert found["neck"] == [14 / 8 - 1]  # the back is 4 + 4 high
    assert found["legs"] == [4 / 8]
    assert found["fullness"] == pytest.approx([(40 + 2 * 8 + 2 * 10) / (14 * 12)])


def test_silhouette_statistics_follow_neck_and_legs_only():
    masks = np.stack([beast(2, 4), beast(6, 4), beast(6, 6)])
    found = silhouettes(masks, np.array([True] * 3))
    assert found["neck"].tolist() == [10 / 8 - 1, 14 / 8 - 1, 16 / 10 - 1]
    assert found["legs"].tolist() == [0.5, 0.5, 0.6]


def test_silhouette_statistics_know_no_direction_size_or_speck():
    plain = silhouettes(beast()[None], np.array([True]))
    mirrored = silhouettes(beast()[None, :, ::-1], np.array([False]))
    large = silhouettes(beast().repeat(2, 0).repeat(2, 1)[None], np.array([True]))
    specks = beast()
    specks[0, 0] = specks[22, 22] = True
    assert plain == mirrored == silhouettes(specks[None], np.array([True]))
    assert {name: float(value[0]) for name, value in large.items()} == pytest.approx(
        {name: float(value[0]) for name, value in plain.items()}
    )


def test_silhouette_without_an_animal_is_nan():
    empty, speck = np.zeros((2, 24, 24), bool)
    speck[3:5, 3:5] = True
    assert all(np.isnan(v).all() for v in silhouettes(np.stack([empty, speck]), np.array([True, False])).values())
    none = silhouettes(np.zeros((0, 24, 24), bool), np.zeros(0, bool))
    assert [v.shape for v in none.values()] == [(0,)] * 4
    with pytest.raises(ValueError, match="1 directions"):
        silhouettes(np.stack([empty, speck]), np.array([True]))


def test_silhouettes_of_the_zoo_tell_its_species_apart():
    middle = {}
    for name in SPECIES:
        truths = [t for t in labelled(ZooDomain(name, "test", 40))[1] if t.count == 1]
        right = np.array([t.facing == "right" for t in truths])
        found = silhouettes(np.stack([t.mask > 0 for t in truths]), right)
        middle[name] = {statistic: np.nanmedian(values) for statistic, values in found.items()}
    zebra, giraffe, elephant = (middle[name] for name in SPECIES)
    assert giraffe["aspect"] > 1.3 * zebra["aspect"]
    assert giraffe["neck"] > 1.5 * zebra["neck"] > 2 * elephant["neck"]
    assert giraffe["legs"] > zebra["legs"] > 1.2 * elephant["legs"]
    assert giraffe["fullness"] < zebra["fullness"] < elephant["fullness"]


def test_shift_is_the_share_of_the_way():
    source, target = np.array([0.0, 1.0, 2.0]), np.array([10.0, 11.0, 12.0])
    assert shift(source, source, target) == 0
    assert shift(target, source, target) == 1
    assert shift(source + 5, source, target) == pytest.approx(0.5)
    assert shift(source - 5, source, target) == pytest.approx(-0.5)
    assert shift(np.array([np.nan, 10, 11, 12]), source, target) == 1
    assert np.isnan(shift(source, target, target))
    assert np.isnan(shift(np.array([np.nan]), source, target))


# --- Agreement ---


def test_compare_counts_each_fault_by_itself():
    masks = np.stack([beast()] * 5)
    truths = [truth(beast(), count=1, facing="right")] * 5
    twins = [truth(beast(neck=8), "giraffe")] * 5
    masks[4] = False
    found = compare(truths, twins, reading(masks, [1, 0, 1, 1, 1], [1, 1, 2, 1, 1], [1, 1, 1, 0, 1] == np.ones(5)), 1)
    values = list(found.values())
    assert values[0].tolist() == values[1].tolist() == [1, 0, 1, 1, 1]
    assert values[2].tolist() == [1, 1, 0, 1, 1]
    assert values[3].tolist() == [1, 1, 1, 0, 1]
    assert values[4].tolist() == [1, 0, 0, 0, 1]
    assert values[5].tolist() == [1, 1, 1, 1, 0]
    assert values[6][:4].tolist() == [0, 0, 0, 0] and np.isnan(values[6][4])
    assert values[7] == pytest.approx([76 / 80] * 4 + [0])
    right = np.roll(beast(), 8, 1)  # its box is cut on the left, the animal stands at the right
    cut_off = compare([truth(beast(), box=(0, 4, 12, 18))], [truth(right)], reading(right[None]), 1)
    assert cut_off[STILL_CUT] == [0] and np.isnan(found[STILL_CUT]).all()
    repaint = replace(reading(np.stack([beast()] * 5)), silhouette=np.eye(3)[[0] * 5])
    assert [v.sum() for v in list(compare(truths, twins, repaint, 1).values())[:5]] == [5, 0, 5, 5, 0]
    with pytest.raises(ValueError, match="5 pictures were read, but there are 4 source scenes"):
        compare(truths[:4], twins, reading(masks), 1)


@pytest.fixture(scope="module")
def zebras():
    return ZooDomain("zebra", "test", 24)


@pytest.fixture(scope="module")
def giraffes():
    return ZooDomain("giraffe", "test", 20)


@pytest.fixture(scope="module")
def oracle(zebras, giraffes):
    return Oracle(zebras, giraffes, zebras.counterpart("giraffe"))


def test_the_counterparts_are_perfect_translations(oracle, zebras, giraffes):
    twins, _ = labelled(zebras.counterpart("giraffe"))
    measures = {m.name: m for m in evaluate(oracle, zebras, twins, giraffes)}
    assert len(measures) == 15 and measures[BACKGROUND].value == 0
    assert measures[HEAD].value == measures[LEGS].value == 1 and measures[HEAD].n < measures[LEGS].n == 24
    assert 0.2 < measures[LEGS].target < 0.8  # other scenes: by chance
    assert measures[HEAD].kept and measures[LEGS].kept
    truths = labelled(zebras)[1]
    assert measures[HEAD].n == sum(all(abs(animal.head) > 0.4 for animal in truth.animals) for truth in truths)
    x = to_float(zebras.images())
    animals = np.stack(
        [
            (own.mask > 0) | (twin.mask > 0)
            for own, twin in zip(truths, labelled(zebras.counterpart("giraffe"))[1], strict=True)
        ]
    )
    median = background(x.median(0).values.expand_as(x), x, animals).mean()
    assert measures[BACKGROUND].target == pytest.approx(median) and measures[BACKGROUND].source == 0
    for measure in measures.values():
        assert measure.value == measure.counterpart
    for name in list(measures)[:5] + ["overlap with the counterpart's silhouette"]:
        assert measures[name].value == 1 and measures[name].n == 24
    assert measures["place: overlap of the columns taken up"].value > 0.6
    assert measures["place: distance of the foot lines"].value < 2
    singles = [t for t in labelled(zebras)[1] if t.count == 1]
    for statistic in SILHOUETTE:
        measure = measures[f"shape: {statistic} moved to the target's"]
        assert measure.source == 0 and measure.target == 1
        assert 0.5 < measure.value <= 1
        assert 0 < measure.n <= len(singles)


@pytest.mark.parametrize("kept, lost", [(LEGS, HEAD), (HEAD, LEGS)])
def test_another_pose_is_seen_where_it_is_another(zebras, giraffes, kept, lost):
    """Perfect translations but for the heads, low for high, or for the legs, together for apart."""

    def posed(pose):
        if lost == HEAD:
            return replace(pose, head=-pose.head)
        return replace(pose, gait=pose.gait - np.copysign(1, pose.gait))

    twins, seed = zebras.counterpart("giraffe"), zebras.picture_seed
    drawn = [draw("giraffe", i, size=zebras.size, seed=seed, posed=posed) for i in range(len(zebras))]
    oracle = Oracle(zebras, giraffes, twins)
    made = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in drawn])
    oracle.known |= {x.numpy().tobytes(): truth for x, (_, truth) in zip(made, drawn, strict=True)}
    found = {m.name: m.value for m in evaluate(oracle, zebras, made, giraffes)}
    assert found[lost] == 0 and found[kept] > 0.9


def test_the_untouched_source_keeps_all_and_changes_nothing(oracle, zebras, giraffes):
    pictures, _ = labelled(zebras)
    for measure in evaluate(oracle, zebras, pictures, giraffes):
        assert measure.value == measure.source
        if measure.name in (HEAD, LEGS):
            continue  # a zebra's pose can be told from its silhouette in part only, on a giraffe's
        if measure.kept:
            assert measure.value == (0 if measure.better == "lower" else 1)
            assert measure.as_metric()["lower"] == measure.target != measure.value
        elif measure.name != "overlap with the counterpart's silhouette":
            assert measure.value == 0


def test_the_background_is_what_no_animal_covers():
    animals = np.zeros((2, 4, 4), bool)
    animals[0, :, :2] = animals[1] = True
    source = torch.zeros(2, 3, 4, 4)
    pictures = source.clone()
    pictures[0, :, :, :2] = 1.0  # behind the animal nothing counts
    pictures[0, 0, 0, 2] = -0.6
    found = background(pictures, source, animals)
    assert found[0] == pytest.approx(0.6 / 3 / 8) and np.isnan(found[1])


def test_pictures_of_other_scenes_keep_nothing(oracle, zebras, giraffes):
    others, _ = labelled(giraffes)
    found = {m.name: m for m in evaluate(oracle, zebras, others, giraffes)}
    assert found["recognised as the target species"].value == 1
    assert found["facing kept"].value < 0.9 and found["facing kept"].n == 20
    assert found["overlap with the counterpart's silhouette"].value < 0.5


def test_what_the_frame_cuts():
    inside, left, both = (4, 4, 16, 18), (0, 4, 12, 18), (0, 4, 24, 18)
    assert cut([truth(beast(), box=box) for box in (inside, left, both)]).tolist() == [[0, 0], [1, 0], [1, 1]]


def test_whole_is_one_animal_that_no_side_cuts():
    inside, ends = (4, 4, 16, 18), ((0, 4, 16, 18), (4, 0, 16, 18), (4, 4, 24, 18), (4, 4, 16, 24))
    scenes = [truth(beast(), box=box) for box in (inside, *ends)] + [truth(beast(), count=2)]
    assert semantics._whole(scenes).tolist() == [True] + [False] * 5


def test_an_animal_touches_the_frame_where_its_columns_reach_it():
    masks = np.zeros((4, 100, 100), bool)
    masks[0, 40:60, 0:50] = masks[1, 40:60, 60:99] = masks[2, 40:60, 60:98] = True
    masks[3, 40:42, :] = True  # a line of two pixels is none
    assert touching(masks).tolist() == [[True, False], [False, True], [False, False], [False, False]]


def test_animals_that_the_frame_cuts_are_looked_for_and_measured(giraffes):
    scenes = ZooDomain("zebra", "test", 120)
    twins = scenes.counterpart("giraffe")
    oracle = Oracle(scenes, twins, giraffes)
    pictures, truths = labelled(scenes)
    perfect, _ = labelled(twins)
    rows = np.flatnonzero(cut(truths).any(1)).tolist()
    assert len(rows) >= 5
    whole = [perfect[i] for i in range(120) if i not in rows][: len(rows)]  # nothing is cut in these
    cases = {"perfect": perfect[rows], "untouched": pictures[rows], "elsewhere": torch.stack(whole)}
    found = {case: {m.name: m for m in evaluate_cut(oracle, scenes, made, giraffes)} for case, made in cases.items()}
    right = "cut by the frame: species, silhouette, number and facing all right"
    assert found["untouched"][STILL_CUT].value == 1 and found["untouched"][right].value == 0
    assert found["perfect"][STILL_CUT].value > 0.8 and found["perfect"][right].value == 1
    assert found["elsewhere"][STILL_CUT].value == 0 and found["elsewhere"][STILL_CUT].n == len(rows)
    assert all(m.kept == (m.name == STILL_CUT) and m.value == m.counterpart for m in found["perfect"].values())
    assert all(m.value == m.source for m in found["untouched"].values())
    assert evaluate_cut(oracle, replace(scenes, count=rows[0]), perfect[:0], giraffes) == []


def test_a_pose_is_told_from_another():
    low, high = np.zeros((2, 1, 8, 8), bool)
    low[0, 4:6], high[0, 2:4] = True, True
    found = np.concatenate([low, high, low | high, np.zeros_like(low)])
    assert pose_kept(found, low.repeat(4, 0), high.repeat(4, 0)).tolist() == [1, 0, 0.5, 0.5]


def test_measures_fit_the_results_file():
    measure = Measure("facing kept", 0.9, 10, "share", "higher", True, source=1.0, target=0.5, counterpart=0.99)
    metric = {"name": "facing kept", "value": 0.9, "n": 10, "lower": 0.5, "upper": 0.99}
    assert measure.as_metric() == metric | {"unit": "share", "better": "higher"}
    assert replace(measure, kept=False).as_metric()["lower"] == 1.0
    assert table([measure]).loc[0, "perfect translation"] == 0.99


def test_without_a_perfect_translation_the_ideal_is_the_source_or_the_target():
    kept = Measure("number of animals kept", 0.8, 10, "share", "higher", True, source=1.0, target=0.5)
    change = Measure("recognised as the target species", 0.8, 10, "share", "higher", False, source=0.1, target=0.9)
    assert [(m["lower"], m["upper"]) for m in (kept.as_metric(), change.as_metric())] == [(0.5, 1.0), (0.1, 0.9)]
    shown = table([kept, change])
    assert shown["untouched source"].tolist() == [1.0, 0.1] and "perfect translation" not in shown
    assert shown["other real target pictures"].tolist() == [0.5, 0.9] and shown["translated"].tolist() == [0.8, 0.8]


def test_evaluate_refuses_what_does_not_fit(oracle, zebras, giraffes):
    pictures, _ = labelled(zebras)
    with pytest.raises(ValueError, match="25 translations of the 24 pictures"):
        evaluate(oracle, zebras, torch.cat([pictures, pictures[:1]]), giraffes)
    with pytest.raises(ValueError, match="0 translations"):
        evaluate(oracle, zebras, pictures[:0], giraffes)
    with pytest.raises(ValueError, match="both 'zebra'"):
        evaluate(oracle, zebras, pictures, zebras)
    with pytest.raises(ValueError, match="not 'orrum'"):
        evaluate(oracle, zebras, pictures, ZooDomain("orrum", "test", 2))
    with pytest.raises(TypeError, match="has none"):
        evaluate(oracle, zebras, pictures, type("Photos", (), {"name": "horse"})())


def test_evaluate_copes_with_probes_that_see_nothing(untrained):
    """As in the smoke profile: what cannot be measured is left out, the rest are numbers."""
    zebras, giraffes = (ZooDomain(name, "test", 4, size=32) for name in SPECIES[:2])
    for bias in (-100.0, 100.0):  # no animal anywhere, animals everywhere
        with torch.no_grad():
            untrained.network.mask[1].bias.fill_(bias)
        measures = evaluate(untrained, zebras, labelled(zebras)[0], giraffes)
        assert len(measures) >= 7
        assert all(np.isfinite([m.value, m.source, m.target, m.counterpart]).all() and m.n for m in measures)


# --- Probes ---


def test_augmentation_moves_pictures_and_masks_together():
    torch.manual_seed(0)
    masks = torch.rand(16, 32, 32) < 0.5
    pictures = masks[:, None].float().repeat(1, 3, 1, 1) * 2 - 1
    x, m, mirrored = shift_and_mirror(pictures, masks)
    assert torch.equal(x, m[:, None].repeat(1, 3, 1, 1) * 2 - 1)
    assert set(m.unique().tolist()) == {0, 1}
    assert 0 < mirrored.sum() < 16
    for row, (moved, mirror) in enumerate(zip(m, mirrored, strict=True)):
        plain = masks[row].flip(-1) if mirror else masks[row]
        inner = moved[4:-4, 4:-4].bool()
        places = [plain[i : i + 24, j : j + 24] for i in range(9) for j in range(9)]
        assert sum(torch.equal(inner, place) for place in places) == 1


def test_spoiled_pictures_and_masks_stay_in_range():
    torch.manual_seed(0)
    x = torch.rand(8, 3, 32, 32) * 2 - 1
    spoiled = spoil(x)
    assert spoiled.shape == (8, 3, 32, 32) and spoiled.abs().max() <= 1
    assert ((spoiled - x).abs().mean((1, 2, 3)) > 0.02).all()
    masks = torch.zeros(8, 32, 32)
    masks[:, 8:24, 8:24] = 1
    soft = spoil_masks(masks)
    assert soft.shape == masks.shape and set(soft.unique().tolist()) == {0, 1}
    assert soft[:, 13:19, 13:19].all() and not soft[:, :4].any() and not torch.equal(soft, masks)
    assert torch.allclose(blur(torch.full((1, 3, 32, 32), 0.3), 8), torch.tensor(0.3))


def test_wrecks_are_made_of_the_picture_and_show_nothing_of_it():
    torch.manual_seed(0)
    pictures = ZooDomain("zebra", "test", 16, size=64).images()
    x = to_float(pictures)
    made = wreck(x)
    assert made.shape == x.shape and made.min() >= x.min() and made.max() <= x.max()
    tiled, melted, fogged, blotched = made.chunk(4)
    assert torch.equal(tiled.flatten(2).sort().values, x[:4].flatten(2).sort().values)  # every pixel, elsewhere
    assert ((tiled - x[:4]).abs().mean((1, 2, 3)) > 0.05).all()
    assert ((melted - x[4:8]).abs().mean((1, 2, 3)) > 0.05).all()
    assert (fogged.flatten(2).std(2) < x[8:12].flatten(2).std(2)).all()
    assert blotched.flatten(2).std(2).min() > 0.05
    masks = wreck((torch.arange(64) < 16).float().expand(8, 1, 64, 64).contiguous())  # a quarter is animal
    assert (masks.sum((1, 2, 3)) > 0).all() and masks.min() >= 0 and masks.max() <= 1
    assert torch.equal(masks[:2].sum((1, 2, 3)), torch.full((2,), 1024.0))
    assert wreck(x[:1]).shape == x[:1].shape  # of fewer pictures than there are ways


@pytest.fixture
def untrained():
    torch.manual_seed(0)
    return Probes(Probe(3), SPECIES, 32)


def test_reading_is_the_same_for_any_batch_and_for_both_kinds_of_pictures(untrained):
    pictures = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8)
    found = untrained.read(pictures)
    assert found.species.shape == found.silhouette.shape == (70, 4)
    assert found.mask.shape == (70, 32, 32) and 0 <= found.mask.min() <= found.mask.max() <= 1
    assert found.species.sum(1) == pytest.approx(np.ones(70), abs=1e-5)
    assert set(found.count) <= {1, 2, 3} and found.facing_right.dtype == bool
    x = to_float(pictures)
    with torch.no_grad():
        mask, species, count, facing = untrained.network(x)
        silhouette = untrained.network.silhouette((mask > 0).float()[:, None])  # of where an animal is, or is not
    assert 0 < found.animals.mean() < 1 and (found.animals == (found.mask > 0.5)).all()
    assert found.mask == pytest.approx(mask.sigmoid().numpy(), abs=1e-5)
    assert found.species == pytest.approx(species.softmax(1).numpy(), abs=1e-5)
    assert found.silhouette == pytest.approx(silhouette.softmax(1).numpy(), abs=1e-5)
    sure = facing.abs() > 1e-4
    assert (found.facing_right == (facing > 0).numpy())[sure].all()
    assert (found.count == count.argmax(1).numpy() + 1).mean() > 0.9  # but for rounding
    one = untrained.read(to_float(pictures[5:6]))
    for name in Reading.__dataclass_fields__:
        assert getattr(one, name)[0] == pytest.approx(getattr(found, name)[5], abs=1e-5)
    assert (found[2:4].mask == found.mask[2:4]).all()


def test_pictures_of_another_size_are_read_at_the_probes_own(untrained):
    pictures = torch.rand(3, 3, 32, 32) * 2 - 1
    own, large = untrained.read(pictures), untrained.read(pictures.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert large.mask.shape == (3, 64, 64)
    assert (large.count == own.count).all()
    assert large.species == pytest.approx(own.species, abs=0.05)
    assert large.mask.reshape(3, 32, 2, 32, 2).mean((2, 4)) == pytest.approx(own.mask, abs=0.2)


def test_reading_refuses_what_it_cannot_read(untrained):
    with pytest.raises(ValueError, match=r"not \(2, 3, 64, 32\)"):
        untrained.read(torch.zeros(2, 3, 64, 32))
    with pytest.raises(ValueError, match=r"not \(2, 1, 32, 32\)"):
        untrained.read(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match=r"not \(0, 3, 32, 32\)"):
        untrained.read(torch.zeros(0, 3, 32, 32))
    with pytest.raises(ValueError, match="NaN"):
        untrained.read(torch.full((1, 3, 32, 32), float("nan")))


def test_accuracy_reads_sharp_and_blurred_pictures(untrained):
    domain = ZooDomain("giraffe", "test", 3, size=32)
    found = untrained.accuracy(domain)
    read, taken = untrained.read(domain.images()), untrained.taken_for_animals(domain.images())
    assert taken == {of: (getattr(read, of).argmax(1) != 3).mean() for of in ("species", "silhouette")}
    assert all(0 <= value <= 1 for value in found.values())


def test_accuracy_by_hand(untrained, monkeypatch):
    domain = ZooDomain("giraffe", "test", 4, size=32)
    pictures, truths = labelled(domain)
    masks = np.stack([t.mask > 0 for t in truths])
    masks[3] = False
    count = [truths[0].count] + [t.count % 3 + 1 for t in truths[1:]]  # three of them wrong
    right = np.array([t.facing == "right" for t in truths]) ^ np.array([False, True, True, True])
    given = replace(reading(masks, [1, 1, 1, 0], count, right), silhouette=np.eye(4)[[3, 3, 1, 3]])
    asked = []
    monkeypatch.setattr(untrained, "read", lambda x: asked.append(x) or given)
    expected = {"species": 0.75, "silhouette": 0.25, "count": 0.25, "facing": 0.25, "mask": 0.75}
    assert untrained.accuracy(domain) == untrained.accuracy(domain, blurred_to=12) == expected
    sharp = to_float(pictures)
    assert torch.equal(asked[0], sharp) and torch.equal(asked[1], blur(sharp, 12))


def tiny(root):
    return zoo_probes(root, pictures=4, epochs=8, size=32)  # 3 steps


def same(a: Probes, b: Probes) -> bool:
    one, other = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_probes_are_trained_alike_and_found(tmp_path, monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")
    first = tiny(tmp_path / "first")
    assert not first.run.reused and first.species == SPECIES and not first.network.training
    assert same(first, tiny(tmp_path / "second"))

    def refuse(domain):
        raise AssertionError("a finished run needs no pictures")

    monkeypatch.setattr(semantics, "_draw", refuse)
    found = tiny(tmp_path / "first")
    assert found.run.reused and same(first, found)


def test_probes_learn_from_other_scenes_and_their_truth(tmp_path, monkeypatch):
    given = []

    def train(run, draw, **options):
        given.extend(draw())
        return Probe(3)

    monkeypatch.setattr(semantics, "train_probe", train)
    zoo_probes(tmp_path, pictures=2, size=32)
    pictures, labels = given
    assert labels["species"].tolist() == [0, 0, 1, 1, 2, 2]
    for i, name in enumerate(SPECIES):
        for split in ("train", "test"):
            assert not torch.equal(pictures[2 * i], ZooDomain(name, split, 2, size=32).images()[0])
        truths = labelled(ZooDomain(name, "train", 2, size=32, seed=semantics.PROBE_SEED))[1]
        for row, own in enumerate(truths, start=2 * i):
            assert labels["count"][row] == own.count and labels["facing_right"][row] == (own.facing == "right")
            assert torch.equal(labels["mask"][row], torch.from_numpy(own.mask > 0))


def test_what_a_probe_learns_of_a_batch(tmp_path, monkeypatch):
    """Half of it are wrecks, of which only that there is no animal; what is mirrored faces the other way."""
    monkeypatch.setenv("CDT_PROGRESS", "none")
    seen, wanted = [], []

    class Watched(Probe):
        def __init__(self, species):
            super().__init__(species)
            for network in (self, self.silhouette):
                network.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))

    def watched(loss):
        return lambda got, right: wanted.append((len(got), right.clone())) or loss(got, right)

    for name in ("cross_entropy", "binary_cross_entropy_with_logits"):
        monkeypatch.setattr(probes.F, name, watched(getattr(probes.F, name)))
    monkeypatch.setattr(probes, "Probe", Watched)
    mirrored = torch.tensor([True, False, True, False])
    monkeypatch.setattr(probes, "shift_and_mirror", lambda x, masks: (x, masks.float(), mirrored))
    monkeypatch.setattr(probes, "spoil", lambda x: x * 0 + 0.25)
    monkeypatch.setattr(probes, "spoil_masks", lambda masks: 1 - masks)
    monkeypatch.setattr(probes, "wreck", lambda x: x * 0 + 1)
    mask = (torch.arange(32) < 8).expand(1, 32, 32)
    numbers = {"species": torch.tensor([2]), "count": torch.tensor([3]), "facing_right": torch.tensor([True])}
    pictures = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with Run("probe", {}, {}, root=tmp_path) as run:
        options = {"species": 3, "steps": 1, "batch": 4, "learning_rate": 1e-3, "wrecks": 0.5}
        probes.train_probe(run, lambda: (pictures, numbers | {"mask": mask}), **options)
    x, shapes = seen
    assert (x[:2] == 1).all() and (x[2:] == 0.25).all()
    animals = mask.float().expand(2, 32, 32)
    assert len(shapes) == 6 and not shapes[:2].any() and torch.equal(shapes[2:4, 0], 1 - animals)
    (_, masks), (_, species), (_, count), (_, facing), (_, silhouette) = wanted
    assert [n for n, _ in wanted] == [2, 4, 2, 2, 6]
    assert torch.equal(masks, animals) and count.tolist() == [2, 2] and facing.tolist() == [0, 1]
    assert species.tolist() == [3, 3, 2, 2] and silhouette.tolist() == [3, 3, 2, 2, 3, 3]


def test_interrupted_probes_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")
    monkeypatch.setenv("CDT_CHECKPOINT_SECONDS", "0")
    whole = tiny(tmp_path / "whole")
    log = Run.log

    def interrupt(run, **values):
        if run._step == 2:
            raise KeyboardInterrupt
        log(run, **values)

    monkeypatch.setattr(Run, "log", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path / "cut")
    monkeypatch.setattr(Run, "log", log)
    assert same(whole, tiny(tmp_path / "cut"))


def test_impossible_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a multiple of 16"):
        zoo_probes(tmp_path, size=40)
    with pytest.raises(ValueError, match="at least one picture"):
        zoo_probes(tmp_path, pictures=0)
