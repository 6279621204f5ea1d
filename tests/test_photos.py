"""Folders of photos: good pictures load right, bad ones are named and refused, splits are stable."""

import base64
import errno
import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdtlib.data import to_float, to_uint8
from cdtlib.data.photos import (
    BadPicture,
    BadPictures,
    PhotoDomain,
    check_files,
    check_pair,
    load,
    scan,
    split_of,
    unused,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(side: int = 64) -> Image.Image:
    """Red, green / blue, white: every rotation and flip looks different."""
    picture = Image.new("RGB", (side, side), RED)
    half = side // 2
    picture.paste(GREEN, (half, 0, side, half))
    picture.paste(BLUE, (0, half, half, side))
    picture.paste(WHITE, (half, half, side, side))
    return picture


# `quarters` as a HEIC file, which Pillow does not write here
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAVVtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABeQABAAAAAAAAAEMAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1Wlw"
    "cnAAAAC2aXBjbwAAAHdodmNDAQQIAAAAnjgAAAAAHvAA/P/4+AAADwNgAAEAF0ABDAH//wQIAAADAJ44AAADAAAeugJAYQABACpCAQEECAAA"
    "AwCeOAAAAwAAHpAEECCy3UklNc3AQ0GBAAADABkAAAMAAQhiAAEACEQBwXKGDAIkAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAA"
    "AEAAAABAAAAAEHBpeGkAAAAAAwgICAAAABdpcG1hAAAAAAAAAAEAAQSBAgMEAAAAS21kYXQAAAA/KAGvBjha/P03+Z3v///K9d6H+9g4bCV/"
    "ly5f/9N7v//4BLyxmP45ChG/plhv//H2Ky1B/NInIn6S8l1+uBVQ"
)


def colours(picture: torch.Tensor) -> list[tuple[int, ...]]:
    """The four quarters' colours: top left, top right, bottom left, bottom right."""
    at = (picture.shape[1] // 4, 3 * picture.shape[1] // 4)
    return [tuple(picture[:, y, x].tolist()) for y in at for x in at]


def assert_near(picture: torch.Tensor, expected: list[tuple[int, ...]], tolerance: int = 12) -> None:
    assert np.abs(np.array(colours(picture)) - np.array(expected)).max() <= tolerance, colours(picture)


def photo(path: Path, seed: int = 0) -> Path:
    """A small JPEG of its own content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((40, 32), Image.Resampling.NEAREST).save(path, "JPEG")
    return path


def photos(folder: Path, count: int, first: int = 0) -> Path:
    for seed in range(first, first + count):
        photo(folder / f"{seed:04}.jpg", seed)
    return folder


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds ten bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    )


# --- Conversions -----------------------------------------------------------------------------------------


def test_float_and_back_is_exact():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every)
    assert floats.dtype == torch.float32
    assert floats[0] == -1 and floats[255] == 1 and floats[102] == pytest.approx(102 / 127.5 - 1)
    assert torch.equal(to_uint8(floats), every)


def test_to_uint8_clamps_and_rounds():
    assert to_uint8(torch.tensor([-2.0, -1.0, 0.001, 1.0, 7.0])).tolist() == [0, 0, 128, 255, 255]


def test_conversions_refuse_the_wrong_type():
    with pytest.raises(TypeError, match="uint8"):
        to_float(torch.zeros(2))
    with pytest.raises(TypeError, match="float"):
        to_uint8(torch.zeros(2, dtype=torch.uint8))


# --- Good pictures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "avif", "webp", "bmp", "tif", "gif"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    quarters().save(path, quality=95)
    picture = load(path, 32)
    assert picture.dtype == torch.uint8 and picture.shape == (3, 32, 32)
    assert_near(picture, [RED, GREEN, BLUE, WHITE])


def test_heic(tmp_path):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(HEIC)
    assert scan(tmp_path, least=1) == [path]
    assert_near(load(path, 32), [RED, GREEN, BLUE, WHITE])
    path.write_bytes(HEIC[:-30])
    with pytest.raises(BadPicture, match="IMG_0001.HEIC: damaged: .*end of file"):
        load(path, 32)


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("RGB", "png", [RED, GREEN, BLUE, WHITE]),
        ("CMYK", "jpg", [RED, GREEN, BLUE, WHITE]),
        ("P", "png", [RED, GREEN, BLUE, WHITE]),
        ("L", "jpg", [(76,) * 3, (150,) * 3, (29,) * 3, WHITE]),
        ("1", "png", [(0,) * 3, WHITE, (0,) * 3, WHITE]),
    ],
)
def test_modes(tmp_path, mode, suffix, expected):
    path = tmp_path / f"x.{suffix}"
    dither = {"dither": Image.Dither.NONE} if mode == "1" else {}
    quarters().convert(mode, **dither).save(path)
    assert_near(load(path, 64), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257, 1), (32896, 128), (65535, 255)])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix, value, expected):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.full((20, 20), value, np.uint16)).save(path)
    assert (load(path, 16) == expected).all()


def test_transparency_is_put_on_white(tmp_path):
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    blue = palette.getpixel((0, 63))
    palette.save(tmp_path / "palette.png", transparency=blue)
    palette.save(tmp_path / "palette.gif", transparency=blue)
    rgba = quarters().convert("RGBA")
    rgba.paste((0, 0, 255, 0), (0, 32, 32, 64))
    rgba.save(tmp_path / "rgba.png")
    rgba.save(tmp_path / "rgba.webp", lossless=True)
    quarters().save(tmp_path / "key.png", transparency=BLUE)
    for path in scan(tmp_path):
        assert_near(load(path, 64), [RED, GREEN, WHITE, WHITE], tolerance=1)

    grey = Image.new("LA", (20, 20), (0, 128))  # half transparent black
    grey.save(tmp_path / "half.png")
    assert (load(tmp_path / "half.png", 16) == 127).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "avif", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    """The file's pixels are turned; EXIF says how to turn them back: red belongs at the top left."""
    undo = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),  # the viewer turns it 90° clockwise
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.ascontiguousarray(undo(np.asarray(quarters())))).save(path, exif=exif, quality=95)
    assert_near(load(path, 64), [RED, GREEN, BLUE, WHITE])


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    quarters().save(tmp_path / "x.jpg", exif=b"Exif\0\0" + bytes(range(40)), quality=95)
    assert_near(load(tmp_path / "x.jpg", 64), [RED, GREEN, BLUE, WHITE])


def test_crop_is_the_centred_square(tmp_path):
    wide = Image.new("RGB", (192, 64), RED)
    wide.paste(quarters(), (64, 0))
    wide.save(tmp_path / "wide.png")
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    tall.save(tmp_path / "tall.png")
    assert_near(load(tmp_path / "wide.png", 64), [RED, GREEN, BLUE, WHITE], tolerance=0)
    assert_near(load(tmp_path / "tall.png", 64), [RED, BLUE, GREEN, WHITE], tolerance=0)


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((128, 128), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    middle = load(tmp_path / "stripes.png", 32)[:, 4:-4, 4:-4]
    assert (middle.float() - 127.5).abs().max() <= 2


def test_large_jpeg_is_close_to_a_full_decode(tmp_path):
    y, x = np.mgrid[0:600, 0:800]
    wave = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), 128 + 50 * np.sin((x + y) / 60)], 2)
    Image.fromarray(wave.astype(np.uint8)).save(tmp_path / "x.jpg", quality=95)
    with Image.open(tmp_path / "x.jpg") as picture:
        exact = picture.crop((100, 0, 700, 600)).resize((32, 32), Image.Resampling.LANCZOS)
    exact = torch.from_numpy(np.array(exact)).permute(2, 0, 1)
    assert (load(tmp_path / "x.jpg", 32).int() - exact.int()).abs().max() <= 3


def test_animation_gives_its_first_frame(tmp_path):
    frames = [quarters(), Image.new("RGB", (64, 64), BLUE)]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert_near(load(path, 64), [RED, GREEN, BLUE, WHITE])


def test_small_pictures_are_enlarged(tmp_path):
    quarters(16).save(tmp_path / "x.png")
    assert_near(load(tmp_path / "x.png", 64), [RED, GREEN, BLUE, WHITE], tolerance=0)


# --- Bad pictures ----------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> tuple[Path, dict[str, str]]:
    """A folder of 4 good and 12 bad pictures, and the reason that must be given for each bad one."""
    folder = tmp_path / "corpus"
    photo(folder / "good.jpg", 1)
    photo(folder / "ünïcödé näme 斑马 .JPG", 2)
    photo(folder / "sub folder/below.jpeg", 3)
    quarters().save(folder / "good.gif")

    (folder / "empty.jpg").touch()
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    (folder / "truncated.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "PNG")
    (folder / "truncated.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "header only.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    (folder / "text.jpg").write_text("This is not a picture.\n" * 10)
    (folder / "postscript.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "bomb.png").write_bytes(png_header(20_000, 20_000))
    (folder / "large.png").write_bytes(png_header(9_000, 12_000))
    Image.fromarray(np.zeros((20, 20), np.float32)).save(folder / "float.tif")
    (folder / "broken link.jpg").symlink_to(folder / "nowhere.jpg")

    photo(folder / "forbidden.jpg", 4)
    real_open = open

    def refuse(path, *args, **kwargs):  # chmod does not stop the superuser
        if str(path).endswith("forbidden.jpg"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)

    # None of these is a picture, bad or good.
    (folder / "folder.jpg").mkdir()
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden.jpg").touch()
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails/x.jpg").touch()
    return folder, {
        "empty.jpg": "empty file",
        "truncated.jpg": "truncated",
        "truncated.png": "truncated",
        "header only.jpg": "Truncated",
        "text.jpg": "not a picture",
        "postscript.png": "not a picture",
        "dot.png": "too small: 1×1",
        "bomb.png": "too large",
        "large.png": "too large: its header says 9000×12000",
        "float.tif": "32 bits",
        "broken link.jpg": "broken link",
        "forbidden.jpg": "Permission denied",
    }


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_pictures_are_named_in_one_summary(corpus):
    folder, reasons = corpus
    with pytest.raises(BadPictures) as caught:
        check_files(scan(folder))
    assert {bad.path.name: bad.reason for bad in caught.value.bad}.keys() == reasons.keys()
    message = str(caught.value)
    assert message.startswith("12 of 16 pictures cannot be used:\n")
    assert "--skip-bad" in message
    for name, reason in reasons.items():
        [line] = [line for line in message.splitlines() if f"/{name}: " in line]
        assert reason in line


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_skip_bad_goes_on_with_the_good_ones(corpus, capsys):
    folder, reasons = corpus
    good = check_files(scan(folder), skip_bad=True)
    assert [path.name for path in good] == ["good.gif", "good.jpg", "below.jpeg", "ünïcödé näme 斑马 .JPG"]
    said = capsys.readouterr().err
    assert said.startswith("Warning: 12 of 16 pictures cannot be used") and "Going on without them." in said
    assert all(name in said for name in reasons)

    with pytest.raises(BadPictures):
        PhotoDomain(folder, "train", 32)
    train = PhotoDomain(folder, "train", 32, skip_bad=True)
    assert set(train.paths) <= set(good) and train.batch(range(len(train))).shape[1:] == (3, 32, 32)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_load_names_the_file_and_the_reason(corpus):
    folder, reasons = corpus
    for name, reason in reasons.items():
        with pytest.raises(BadPicture, match=reason) as caught:
            load(folder / name, 64)
        assert caught.value.path == folder / name and str(folder / name) in str(caught.value)
    for name, reason in {"missing.jpg": "no such file", "folder.jpg": "not a file"}.items():
        with pytest.raises(BadPicture, match=reason):
            load(folder / name, 64)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (9_000, 12_000)])
def test_bomb_is_refused_by_its_header(tmp_path, monkeypatch, width, height):
    (tmp_path / "bomb.png").write_bytes(png_header(width, height))
    allocated = []
    monkeypatch.setattr(Image.core, "new", lambda *args: allocated.append(args))
    monkeypatch.setattr(Image.core, "fill", lambda *args: allocated.append(args))
    with pytest.raises(BadPicture, match="at most 100 megapixels"):
        load(tmp_path / "bomb.png", 64)
    assert not allocated


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_jpeg_that_lacks_its_last_bytes_is_refused(tmp_path, cut):
    data = photo(tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(data[:-cut])
    with pytest.raises(BadPicture, match="truncated"):
        load(tmp_path / "x.jpg", 8)


@pytest.mark.parametrize(
    "error, known",
    [(OSError(errno.EIO, "Input/output error"), False), (OSError(errno.EMFILE, "Too many open files"), False),
     (MemoryError(), False), (OSError(errno.EINVAL, "Invalid argument"), True),
     (OSError(errno.EACCES, "Permission denied"), True), (OSError("broken data"), True)],
)  # fmt: skip
def test_what_the_machine_does_wrong_is_not_the_pictures_fault(tmp_path, monkeypatch, error, known):
    def fails(*_, **__):
        raise error

    path = photo(tmp_path / "x.jpg")
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(BadPicture if known else type(error)):
        load(path, 8)
    if not known:
        with pytest.raises(type(error)):
            check_files([path], skip_bad=True)


def test_many_bad_pictures_are_cut_short(tmp_path):
    for i in range(27):
        (tmp_path / f"{i:02}.jpg").touch()
    with pytest.raises(BadPictures) as caught:
        check_files(scan(tmp_path), skip_bad=True)  # nothing is left to go on with
    lines = str(caught.value).splitlines()
    assert lines[0] == "27 of 27 pictures cannot be used:"
    assert len(lines) == 23 and lines[21] == "  and 7 more" and "skip" not in lines[22]


def test_a_picture_that_goes_bad_later_is_named(tmp_path):
    domain = PhotoDomain(photos(tmp_path, 10), "train", 16)
    domain.paths[0].write_bytes(b"")
    with pytest.raises(BadPicture, match=domain.paths[0].name):
        domain.batch([0])
    with pytest.raises(BadPictures, match=domain.paths[0].name):
        check_files(scan(tmp_path))


def test_check_takes_several_folders_and_single_files(tmp_path):
    a, b = photos(tmp_path / "a", 3), photos(tmp_path / "b", 2, first=10)
    assert len(check_files([*scan(a), *scan(b)])) == 5
    (a / "bad.jpg").touch()
    (b / "bad.jpg").touch()
    with pytest.raises(BadPictures, match="2 of 7"):
        check_files([*scan(a), *scan(b)])
    assert list(check_files([a / "0000.jpg", a / "bad.jpg"], skip_bad=True)) == [a / "0000.jpg"]


# --- Folders ---------------------------------------------------------------------------------------------


def test_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        scan(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="x.jpg is a file"):
        scan(photo(tmp_path / "one/x.jpg"))
    with pytest.raises(ValueError, match="one holds only one picture, x.jpg: a domain needs at least two"):
        scan(tmp_path / "one")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").touch()
    with pytest.raises(ValueError, match="empty holds no pictures"):
        PhotoDomain(tmp_path / "empty", "train", 32)


def test_scan_is_sorted_and_follows_links_once(tmp_path):
    photos(tmp_path / "far", 2)
    folder = photos(tmp_path / "near", 2)
    (folder / "linked").symlink_to(tmp_path / "far")
    (folder / "loop").symlink_to(folder)
    names = [path.relative_to(folder).as_posix() for path in scan(folder)]
    assert names == ["0000.jpg", "0001.jpg", "linked/0000.jpg", "linked/0001.jpg"]


def test_pair_of_the_same_folder_is_refused(tmp_path):
    a = photos(tmp_path / "a", 2)
    (tmp_path / "link").symlink_to(a)
    for b in (a, tmp_path / "link", a / ".." / "a"):
        with pytest.raises(ValueError, match="A and B are the same folder"):
            check_pair(a, b)


def test_pair_that_shares_pictures_is_refused(tmp_path):
    a, b = photos(tmp_path / "a", 6), photos(tmp_path / "b", 4, first=10)
    (a / "empty.jpg").touch()
    (b / "empty.jpg").touch()  # left to `check_files`
    check_pair(a, b)
    (b / "other name.jpg").write_bytes((a / "0003.jpg").read_bytes())
    with pytest.raises(ValueError, match="1 pictures of") as caught:
        check_pair(a, b)
    assert f"{a / '0003.jpg'} = {b / 'other name.jpg'}" in str(caught.value)


# --- Split and domain ------------------------------------------------------------------------------------


def names(paths: list[Path]) -> set[str]:
    return {path.stem for path in paths}


def test_split_is_stable(tmp_path):
    folder = photos(tmp_path / "a", 200)
    before = split_of(folder)
    assert not names(before["train"]) & names(before["test"])
    assert len(before["train"]) + len(before["test"]) == 200 and 15 <= len(before["test"]) <= 45

    photos(folder, 50, first=200)
    (folder / "0007.jpg").unlink()
    (folder / "0008.jpg").rename(folder / "0008.png")  # the suffix does not matter
    after = split_of(folder)
    for side in ("train", "test"):
        assert names(before[side]) - {"0007"} <= names(after[side])
    assert split_of(photos(tmp_path / "moved/b", 200))["test"] == [
        tmp_path / "moved/b" / path.name for path in before["test"]
    ]


def test_split_is_fixed_for_ever(tmp_path):
    """Known values: a change of the rule would silently mix train and test of older runs."""
    test = split_of(photos(tmp_path, 20))["test"]
    assert [path.stem for path in test] == ["0004", "0005", "0008", "0010", "0013", "0014", "0017"]


def test_split_does_not_depend_on_how_the_system_stores_accents(tmp_path):
    for folder, name in (("composed", "z\u00e9bre"), ("decomposed", "ze\u0301bre")):
        photos(tmp_path / folder, 30)
        photo(tmp_path / folder / f"{name}.jpg")
    sides = [
        next(side for side, paths in split_of(tmp_path / folder).items() if any("bre" in p.name for p in paths))
        for folder in ("composed", "decomposed")
    ]
    assert sides[0] == sides[1]


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("count", [2, 3])
def test_each_side_gets_a_picture(tmp_path, fraction, count):
    sides = split_of(photos(tmp_path, count), fraction)
    assert len(sides["train"]) >= 1 and len(sides["test"]) >= 1
    assert len(sides["train"]) + len(sides["test"]) == count


def test_an_empty_side_gets_the_picture_that_is_nearest_to_it(tmp_path):
    folder = photos(tmp_path, 5)
    by_hash = sorted(scan(folder), key=lambda path: hashlib.sha256(path.stem.encode()).hexdigest())
    assert split_of(folder, 0.001)["test"] == by_hash[:1] and split_of(folder, 0.999)["train"] == by_hash[-1:]


def test_train_and_test_folders_are_used(tmp_path):
    photos(tmp_path / "train", 3)
    photos(tmp_path / "test/deeper", 1, first=3)
    photos(tmp_path / "val", 2, first=4)
    sides = split_of(tmp_path)
    assert names(sides["train"]) == {"0000", "0001", "0002"} and names(sides["test"]) == {"0003"}
    (tmp_path / "test/deeper/0003.jpg").unlink()
    with pytest.raises(ValueError, match="no pictures in .*test"):
        split_of(tmp_path)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_impossible_fractions_are_refused(tmp_path, fraction):
    with pytest.raises(ValueError, match="test_fraction must lie between 0 and 1"):
        split_of(photos(tmp_path, 2), fraction)


def test_a_folder_of_validation_stands_for_that_of_tests(tmp_path):
    for name in ("train", "val", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    assert split_of(tmp_path) == {"train": [tmp_path / "train" / "1.jpg"], "test": [tmp_path / "val" / "1.jpg"]}
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "2.jpg").touch()
    assert split_of(tmp_path)["test"] == [tmp_path / "test" / "2.jpg"]
    (tmp_path / "train").rename(tmp_path / "more")  # without it, names decide
    assert sorted(path for side in split_of(tmp_path).values() for path in side) == scan(tmp_path)


def test_files_that_are_no_pictures_are_counted(tmp_path):
    for name in ("1.jpg", "2.NEF", "3.nef", "notes", ".hidden"):
        (tmp_path / name).touch()
    assert unused(tmp_path) == {".nef": 2, "": 1}


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match='"train" or "test"'):
        PhotoDomain(photos(tmp_path, 2), "val", 32)


def test_domain(tmp_path):
    train = PhotoDomain(photos(tmp_path / "zebra", 12), "train", 24)
    test = PhotoDomain(tmp_path / "zebra", "test", 24)
    assert (train.name, train.split, train.size) == ("zebra", "train", 24)
    assert PhotoDomain(tmp_path / "zebra", "test", 24, name="horse").name == "horse"
    assert len(train) + len(test) == 12 and len(train) == len(train.paths)

    everything = train.batch(range(len(train)))
    assert everything.dtype == torch.uint8 and everything.shape == (len(train), 3, 24, 24)
    assert torch.equal(train.batch([2, 0, 2]), everything[[2, 0, 2]])
    assert torch.equal(everything[1], load(train.paths[1], 24))
    assert train.batch([]).shape == (0, 3, 24, 24)
    with pytest.raises(IndexError):
        train.batch([len(train)])


def test_fingerprint_follows_content_not_place_or_time(tmp_path, monkeypatch):
    def fingerprint(folder, **options):
        return PhotoDomain(folder, "train", **{"size": 24, **options}).fingerprint

    a, b = photos(tmp_path / "a", 12), photos(tmp_path / "elsewhere/b", 12)
    first = fingerprint(a)
    assert len(first) == 64 and int(first, 16) >= 0
    os.utime(b / "0000.jpg", (1, 1))
    assert fingerprint(b) == first
    assert fingerprint(a, size=32) != first
    assert PhotoDomain(a, "test", 24).fingerprint != first
    changed = PhotoDomain(b, "train", 24).paths[0]
    photo(changed, seed=99)
    assert fingerprint(b) != first
    changed.write_bytes((a / changed.name).read_bytes())
    assert fingerprint(b) == first
    photos(tmp_path / "c/train", 3), photos(tmp_path / "c/test", 3, first=3)
    before = fingerprint(tmp_path / "c")
    (tmp_path / "c/train/0000.jpg").rename(tmp_path / "c/train/00000.jpg")  # still the first
    assert fingerprint(tmp_path / "c") != before
    monkeypatch.setattr("cdtlib.data.photos.POLICY", 2)
    assert fingerprint(a) != first
