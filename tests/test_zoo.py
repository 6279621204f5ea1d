import hashlib
import json
from dataclasses import astuple

import numpy as np
import pytest
import torch
from PIL import Image

from cdtlib.data import zoo
from cdtlib.data.zoo import ANIMALS, DRAWING, INVENTED, SPECIES, ZooDomain, draw, layout


def pixels(species, index, **options):
    return np.asarray(draw(species, index, **options)[0])


def test_species_are_distinct():
    assert set(SPECIES) == {*ANIMALS, *INVENTED} and len(SPECIES) == len(ANIMALS) + len(INVENTED)
    assert len(INVENTED) >= 20
    looks = [{k: v for k, v in vars(species).items() if k != "name"} for species in SPECIES.values()]
    assert all(a != b for i, a in enumerate(looks) for b in looks[:i])


@pytest.mark.parametrize("species", SPECIES)
def test_every_species_can_be_drawn(species):
    image, truth = draw(species, 3)
    assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (64, 64)
    assert truth.species == species and truth.count == len(truth.animals) == truth.mask.max()
    assert truth.mask.dtype == np.uint8 and truth.mask.shape == (64, 64)


def test_draw_depends_on_its_arguments_only():
    first = pixels("giraffe", 5)
    draw("zebra", 6, size=48)
    np.random.seed(1)
    np.testing.assert_array_equal(first, pixels("giraffe", 5))
    assert (first != pixels("giraffe", 6)).any()
    assert (first != pixels("giraffe", 5, seed=1)).any()
    assert draw("giraffe", 5)[1] == draw("giraffe", 5)[1]


@pytest.mark.parametrize("index", range(12))
def test_same_seed_and_index_give_a_counterfactual_pair(index):
    image, truth = draw("zebra", index, seed=7)
    for other in ("giraffe", "elephant", INVENTED[0]):
        twin, twin_truth = draw(other, index, seed=7)
        assert (twin_truth.count, twin_truth.facing) == (truth.count, truth.facing)
        for a, b in zip(truth.animals, twin_truth.animals, strict=True):
            assert all(getattr(a, k) == getattr(b, k) for k in ("facing", "gait", "head", "scale", "x", "y"))
        background = (truth.mask == 0) & (twin_truth.mask == 0)
        np.testing.assert_array_equal(np.asarray(image)[background], np.asarray(twin)[background])
        assert (np.asarray(image)[~background] != np.asarray(twin)[~background]).any()


def test_the_layout_stays_within_its_ranges_and_all_cases_occur():
    plans = [layout(index, seed=3) for index in range(600)]
    counts = np.bincount([len(plan.poses) for plan in plans], minlength=4) / len(plans)
    np.testing.assert_allclose(counts, (0, 0.60, 0.28, 0.12), atol=0.06)
    assert 0.43 < np.mean([plan.facing == "left" for plan in plans]) < 0.57
    for plan in plans:
        assert all(plan.horizon + 0.07 < pose.y < 0.96 for pose in plan.poses)
        assert all(-1 <= pose.gait <= 1 and -1 <= pose.head <= 1 for pose in plan.poses)
        assert [pose.y for pose in plan.poses] == sorted(pose.y for pose in plan.poses)
        across = sorted(plan.poses, key=lambda pose: pose.x)
        assert all(b.x - a.x > 0.9 * max(a.scale, b.scale) for a, b in zip(across, across[1:], strict=False))
    heads = np.array([pose.head for plan in plans for pose in plan.poses])
    gaits = np.array([pose.gait for plan in plans for pose in plan.poses])
    assert abs(heads.mean()) < 0.1 and heads.std() > 0.5 and abs(gaits.mean()) < 0.1 and gaits.std() > 0.5


def test_unpaired_domains_have_the_same_distribution_of_layouts():
    sides = [ZooDomain(name, "train", 400).picture_seed for name in ANIMALS]
    plans = [[layout(index, seed=seed) for index in range(400)] for seed in sides]
    assert len(set(sides)) == 3
    for measure in (
        lambda plan: len(plan.poses),
        lambda plan: plan.facing == "left",
        lambda plan: plan.poses[0].scale,
        lambda plan: plan.poses[0].x,
        lambda plan: plan.poses[0].y,
        lambda plan: plan.poses[0].head,
    ):
        values = [np.array([float(measure(plan)) for plan in side]) for side in plans]
        noise = np.std(np.concatenate(values)) * (2 / 400) ** 0.5  # of the difference of two means
        assert all(abs(a.mean() - b.mean()) < 4 * noise for a in values for b in values)


@pytest.mark.parametrize("species", ANIMALS)
def test_masks_and_boxes_agree(species):
    for index in range(12):
        truth = draw(species, index, seed=11)[1]
        assert set(np.unique(truth.mask)) == set(range(truth.count + 1))  # each animal shows
        for k, animal in enumerate(truth.animals, start=1):
            rows, columns = np.nonzero(truth.mask == k)
            x0, y0, x1, y1 = animal.box
            assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
            seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert x0 - 1 < seen[0] and y0 - 1 < seen[1] and seen[2] < x1 + 1 and seen[3] < y1 + 1
            assert abs(y1 - 64 * animal.y) < 1.5  # it stands on its line
            if truth.count == 1:
                np.testing.assert_allclose(seen, animal.box, atol=1)
            pose = layout(index, seed=11).poses[k - 1]
            assert all(getattr(animal, name) == value for name, value in vars(pose).items())
            for part in ("neck", "legs", "body"):
                assert getattr(animal, part) == pytest.approx(getattr(SPECIES[species], part) * animal.scale * 64)


@pytest.mark.parametrize("species", SPECIES)
def test_no_species_reaches_farther_than_the_layout_allows(species):
    above = []
    for head in (-1.0, -0.3, 0.4, 1.0):
        for gait in (-1.0, 1.0):
            pose = zoo.Pose(gait=gait, head=head, scale=0.4, x=0.5, y=0.9)
            brush = zoo._paint(zoo._Body(SPECIES[species], pose), "right", 256, np.random.default_rng(0))
            x0, y0, x1, _ = brush.silhouette.getbbox()
            unit = 0.4 * 256
            assert (brush.x0 + x1 - 128) / unit < zoo.FRONT + 0.02 and (128 - brush.x0 - x0) / unit < zoo.BACK + 0.02
            above.append((0.9 * 256 - brush.y0 - y0) / unit)
    poses = [pose for index in range(400) for pose in layout(index, seed=9).poses]
    assert min(pose.y - max(above) * pose.scale for pose in poses) > 0


def test_few_animals_are_cut_by_the_frame():
    cut = 0
    for index in range(1000):
        plan = layout(index, seed=2)
        forward = 1 if plan.facing == "right" else -1
        ends = [p.x + forward * reach * p.scale for p in plan.poses for reach in (-zoo.BACK, zoo.FRONT)]
        cut += min(ends) < -1e-9 or max(ends) > 1 + 1e-9
    assert 0.05 < cut / 1000 < 0.11


@pytest.mark.parametrize("species", ANIMALS)
def test_animals_face_as_told(species):
    """The truth gives the layout's facing, and the muzzle is drawn on that side of the body's centre."""
    for index in range(8):
        plan = layout(index, seed=4)
        truth = draw(species, index, seed=4)[1]
        assert truth.facing == plan.facing and all(animal.facing == plan.facing for animal in truth.animals)
        for pose in plan.poses:
            body = zoo._Body(SPECIES[species], pose)
            right, left = (zoo._Brush(body, facing, 256) for facing in ("right", "left"))
            for brush in (right, left):
                brush.dot(body.at(1.0, 0.0), 0.02, (255, 0, 0))  # at the muzzle
            assert right.x0 + right.silhouette.getbbox()[0] > pose.x * 256  # left edge of the dot
            assert left.x0 + left.silhouette.getbbox()[2] < pose.x * 256  # right edge of the dot


@pytest.mark.parametrize("species", SPECIES)
def test_heads_and_legs_are_drawn_as_told(species):
    def body(gait: float = 0.0, head: float = 0.0) -> zoo._Body:
        return zoo._Body(SPECIES[species], zoo.Pose(gait, head, scale=0.4, x=0.5, y=0.9))

    def apart(legs: list) -> float:
        hind, fore = (leg.axis[-1, 0] for leg in legs)
        return fore - hind

    lowered, middle, raised = (body(head=head) for head in (-1.0, 0.0, 1.0))
    assert lowered.tip[1] < middle.tip[1] < raised.tip[1] and lowered.look[1] < middle.look[1] < raised.look[1]
    together, standing, striding = (body(gait=gait) for gait in (-1.0, 0.0, 1.0))
    assert apart(together.near_legs) < apart(standing.near_legs) < apart(striding.near_legs)
    assert apart(together.far_legs) > apart(standing.far_legs) > apart(striding.far_legs)


def test_a_pixel_of_the_mask_shows_the_animal_that_covers_most_of_it():
    ids = np.zeros((8, 8), np.uint8)
    ids[:4, :4], ids[:4, 0], ids[2, 1:4] = 1, 2, 2  # 9 of the 16 are of the first animal, 7 of the second
    ids[:4, 4:], ids[1:3, 4:] = 1, 2  # 8 of each
    ids[0, 4] = 2
    ids[7, 0] = 2  # the background shows only where there is nothing else
    assert zoo._mask(Image.fromarray(ids), 2).tolist() == [[1, 2], [2, 0]]


@pytest.mark.parametrize("size", [32, 50, 96, 256])
def test_any_size_shows_the_same(size):
    image, truth = draw("zebra", 1, size=size)
    reference = draw("zebra", 1)[1]
    assert image.size == (size, size) and truth.mask.shape == (size, size)
    for a, b in zip(truth.animals, reference.animals, strict=True):
        np.testing.assert_allclose(np.array(a.box) / size, np.array(b.box) / 64, atol=0.03)
        assert a.x == b.x and a.body / size == pytest.approx(b.body / 64)
    assert np.mean(truth.mask > 0) == pytest.approx(np.mean(reference.mask > 0), abs=0.05)


def test_domain_does_not_depend_on_batches():
    domain = ZooDomain("elephant", "train", 10)
    whole = domain.images()
    assert whole.dtype == torch.uint8 and whole.shape == (10, 3, 64, 64) and len(domain) == 10
    assert torch.equal(domain.batch([7, 2, 2]), whole[[7, 2, 2]])
    assert torch.equal(torch.cat([domain.batch([i]) for i in range(10)]), whole)
    assert torch.equal(ZooDomain("elephant", "train", 20).batch(range(10)), whole)  # more pictures are more of the same
    image, _ = draw("elephant", 4, seed=domain.picture_seed)
    assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), whole[4])
    assert domain.batch([]).shape == (0, 3, 64, 64)


def test_domains_share_no_picture():
    domains = [ZooDomain(name, split, 15, size=32) for name in ("zebra", "giraffe") for split in ("train", "test")]
    domains.append(ZooDomain("zebra", "train", 15, size=32, seed=1))
    assert len({domain.picture_seed for domain in domains}) == 5
    assert len({domain.fingerprint for domain in domains}) == 5
    pictures = torch.cat([domain.images() for domain in domains])
    assert len(torch.unique(pictures.flatten(1), dim=0)) == 75
    plans = {layout(i, seed=domain.picture_seed) for domain in domains for i in range(15)}
    assert len(plans) == 75


def test_counterpart_shares_the_layouts():
    zebras = ZooDomain("zebra", "test", 6)
    giraffes = zebras.counterpart("giraffe")
    assert (giraffes.name, giraffes.split, len(giraffes)) == ("giraffe", "test", 6)
    assert giraffes.fingerprint != ZooDomain("giraffe", "test", 6).fingerprint
    assert giraffes.counterpart("elephant").picture_seed == zebras.picture_seed
    assert giraffes.counterpart("zebra") == zebras
    for i in range(6):
        a, b = (draw(domain.name, i, seed=domain.picture_seed)[1] for domain in (zebras, giraffes))
        assert [(p.x, p.y, p.head) for p in a.animals] == [(p.x, p.y, p.head) for p in b.animals]
        background = torch.from_numpy((a.mask == 0) & (b.mask == 0))
        assert torch.equal(zebras.batch([i])[0][:, background], giraffes.batch([i])[0][:, background])


def test_scenes_are_as_they_always_were():
    """Fingerprints look at four pictures: who changes scenes must rename `DRAWING`, too, and change this number."""
    scenes = [layout(index, seed=7) for index in range(300)]
    told = [[len(s.poses), s.facing] + [f"{v:.6f}" for pose in s.poses for v in astuple(pose)] for s in scenes]
    digest = hashlib.sha256(json.dumps([DRAWING, told]).encode()).hexdigest()
    assert digest[:16] == "44ac63b60fb8e07c"
    assert ZooDomain("zebra", "train", 1).picture_seed == 7520399042218387992


def test_fingerprint_tells_what_determines_the_pictures():
    domain = ZooDomain("zebra", "train", 5)
    assert domain.fingerprint == ZooDomain("zebra", "train", 5).fingerprint and len(domain.fingerprint) == 64
    others = [
        ZooDomain("zebra", "train", 6),
        ZooDomain("zebra", "train", 5, size=32),
        ZooDomain("zebra", "train", 5, seed=1),
    ]
    assert domain.fingerprint not in {other.fingerprint for other in others}


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="unknown species 'lion'.*zebra, giraffe, elephant"):
        draw("lion", 0)
    with pytest.raises(ValueError, match="size is 16.*32 to 512"):
        draw("zebra", 0, size=16)
    with pytest.raises(ValueError, match="size is 1024"):
        ZooDomain("zebra", "train", 1, size=1024)
    with pytest.raises(ValueError, match="size is 64.0"):
        draw("zebra", 0, size=64.0)
    with pytest.raises(IndexError, match="index is -1"):
        draw("zebra", -1)
    with pytest.raises(ValueError, match="seed is -1"):
        draw("zebra", 0, seed=-1)
    with pytest.raises(ValueError, match="unknown species"):
        ZooDomain("lion", "train", 1)
    with pytest.raises(ValueError, match='split is .val.*"train" or "test"'):
        ZooDomain("zebra", "val", 1)
    with pytest.raises(ValueError, match="count is 0"):
        ZooDomain("zebra", "train", 0)
    domain = ZooDomain("zebra", "train", 3)
    with pytest.raises(IndexError, match="index 3 is out of range: zebra/train has 3 pictures"):
        domain.batch([0, 3])
    with pytest.raises(IndexError, match="index -1"):
        domain.batch([-1])
    with pytest.raises(ValueError, match="unknown species"):
        domain.counterpart("lion")
