"""The paper's data sets, fetched from their publishers or read from local copies: a folder of photos for each class.

For example::

    photos/coco/zebra/train/000000000123.jpg, zebra/test/…, giraffe/train/…    the pictures, as published
    photos/coco/manifest.csv          of each picture: file, source, licence, SHA-256
    photos/coco/dataset.json          the options, archives with their checksums, licences, counts, what was left out
    photos/coco/contact-sheet.jpg     some pictures of each class
    photos/coco/downloads/            archives and unfinished downloads; not needed once the set is finished

Such a folder is what `cdt run … --photos` takes, and its classes are what `cdt train` takes.

Pictures are kept as they are published, byte for byte; `cdtlib.data.photos` crops them to the largest centred square
and resizes them when they are used. Each is decoded once before it is taken. A picture of one content in two classes
belongs to neither; of several of one content in a class, the first is taken. Nothing is unpacked by the names in an
archive.

Asking for a set again goes on where it stopped: pictures whose SHA-256 is the recorded one stay, all others are fetched
anew; in a finished set nothing but the sums is looked at. Options that change a set's content need a folder of its own.
"""

import csv
import json
import os
import re
import shutil
import sys
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

import ijson
import pooch
from filelock import FileLock, Timeout
from PIL import Image
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

from cdtlib import published
from cdtlib.data.fetch import Unavailable, fetch, progress
from cdtlib.data.photos import SUFFIXES, BadPicture, held_out, load
from cdtlib.files import TEMPORARY, DamagedFile, atomic, full_disk_named, sha256, walk, write_json

SIDES = ("train", "test")
WORKERS = 16  # pictures fetched at a time; the servers, not this machine, are what is waited for
GIVE_UP = 20  # pictures that fail one after the other: then it is the network, not the picture
MAX_BYTES = 64 * 2**20  # of one picture in an archive: COCO's largest has less than 1 MB
SHEET = 12  # pictures of each class on the contact sheet
_COLUMNS = ("file", "source", "licence", "sha256")


@dataclass(frozen=True)
class Archive:
    """A published file: `url`; `checksum` as pooch takes it ("md5:…", or SHA-256), None if none is known."""

    url: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name or "archive.zip"


_NUMBERED = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]  # some are only placeholders
COCO_CLASSES = tuple(name for name in _NUMBERED if name not in ("__background__", "N/A"))
COCO_URL = "http://images.cocodataset.org"
# The checksum that independent users of this file state: PaddlePaddle/PaddleDetection, ppdet/data/tests/test_reader.py;
# mlcommons/cm4mlops, script/get-dataset-coco/customize.py.
COCO_ANNOTATIONS = Archive(
    f"{COCO_URL}/annotations/annotations_trainval2017.zip", "md5:f4bbac642086de4f52a3fdda2de5fa2c"
)
# The address in datasets/download_dataset.sh of github.com/HsinYingLee/DRIT. No checksum is published.
CAT2DOG = Archive("http://vllab.ucmerced.edu/hylee/DRIT/datasets/cat2dog.zip")
# The checksum in examples/dogsvscats/dogsvscats.go of github.com/gomlx/gomlx; Microsoft publishes none.
KAGGLE = Archive(
    "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/kagglecatsanddogs_5340.zip",
    "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
)
CROWDS = ("keep", "ignore", "drop")


# --- The three data sets ---------------------------------------------------------------------------------


def coco(
    out: str | Path,
    classes: Sequence[str],
    *,
    subset: str = "train2017",
    min_area: float = 0.0,
    crowd: str = "keep",
    test_fraction: float = 0.15,
    seed: int = 0,
    sources: Sequence[str | Path] = (),
    url: str = COCO_URL,
    skip_bad: bool = False,
) -> dict:
    """The pictures of COCO 2017 that show one of `classes`; only these are fetched. Returns what dataset.json holds.

    :param classes: COCO's names: "zebra", "giraffe", …
    :param subset: train2017 (118,287 pictures) or val2017 (5,000); the paper does not say which
    :param min_area: share of the picture, 0 to 1, that the largest instance of the class covers at least, by its mask
    :param crowd: boxes around a crowd of the class. "keep": they count as an instance; "ignore": they do not count;
        "drop": pictures with one are left out
    :param test_fraction: share of the test side. The SHA-256 of `seed` and a picture's name decides, so that another
        filter moves no picture from one side to the other
    :param sources: local copies instead: the annotations (annotations_trainval2017.zip, or instances_<subset>.json) and
        the pictures (a folder or a zip), or one folder with both, COCO's zips included. What is missing is fetched.
    :param url: where annotations/ and <subset>/ are fetched from
    :param skip_bad: finish without pictures that cannot be had

    A picture that shows several of `classes` is left out: it belongs to no domain, and `cdt train` refuses pictures
    that two domains share. Raises ValueError, FileNotFoundError, DamagedFile (a checksum, an archive), Unavailable.
    """
    classes, url = list(dict.fromkeys(classes)), url.rstrip("/")
    if not classes:
        raise ValueError("--classes: name at least one of COCO's, such as zebra")
    if subset not in ("train2017", "val2017"):
        raise ValueError(f"--subset: train2017 or val2017, not {subset!r}")
    if crowd not in CROWDS:
        raise ValueError(f"--crowd: one of {', '.join(CROWDS)}, not {crowd!r}")
    if not 0 <= min_area < 1:
        raise ValueError(f"--min-area: a share of the picture, at least 0 and below 1, not {min_area}")
    _check_fraction(test_fraction)
    settings = {
        "data": "coco", "classes": classes, "subset": subset, "min_area": min_area, "crowd": crowd,
        "test_fraction": test_fraction, "seed": seed,
    }  # fmt: skip

    def plan(collection: Collection) -> list[Picture]:
        wanted = f"instances_{subset}.json"
        given = []
        for path in sources:
            own = [Files(path)]  # and COCO's archives, if they lie in it
            if own[0].path.is_dir():
                archives = re.compile(rf"(annotations.*|{subset})\.zip", re.IGNORECASE)
                own += [Files(own[0].path / n) for n in own[0].names if archives.fullmatch(PurePosixPath(n).name)]
            if not any(f.single or PurePosixPath(n).name == wanted or _is_picture(n) for f in own for n in f.names):
                raise ValueError(f"--from: {path} holds neither {wanted} nor pictures (.jpg), nor zips with them")
            given += own
        found = [(files, name) for files in given for name in files.names if PurePosixPath(name).name == wanted]
        found += [(files, files.names[0]) for files in given if files.single]
        if found:
            annotations, name = found[0]
            collection.given(annotations, COCO_ANNOTATIONS)
        else:
            _check_classes(classes, "COCO", COCO_CLASSES)
            archive = Archive(f"{url}/annotations/{COCO_ANNOTATIONS.name}", COCO_ANNOTATIONS.checksum)
            annotations = collection.fetched(archive)
            name = annotations.only(wanted)
        print(f"reading {name}", flush=True)
        with annotations.open(name) as file:
            chosen, counts, licences = _select(file, name, subset, classes, min_area, crowd)
        collection.record["licences"] = licences
        for kind in classes:
            collection.count(kind, **counts[kind])

        pictures_given = [(files, PurePosixPath(n)) for files in given for n in files.names if _is_picture(n)]
        pictures_given.sort(key=lambda found: found[1].parent.name == subset)  # of two of one name, that of its folder
        local = {name.name: (files, name.as_posix()) for files, name in pictures_given}
        missing = [image.name for kind in classes for image in chosen[kind] if local and image.name not in local]
        if missing and not skip_bad:
            raise ValueError(
                f"{len(missing)} of the pictures are not in {', '.join(map(str, sources))}, such as {missing[0]}: give "
                f"all of {subset}, or none to fetch them, or go on without them (--skip-bad)"
            )
        collection.leave_out({f"{subset}/{name}": "not among the pictures given" for name in missing})
        pictures = []
        for kind in classes:
            images = [image for image in chosen[kind] if not local or image.name in local]
            if len(images) < 2:
                rules = ", ".join(f"{rule}: {count}" for rule, count in counts[kind].items())
                raise ValueError(f"{kind}: {len(images)} pictures are left ({rules}), a domain needs two")
            test = held_out({image: f"{seed}/{Path(image.name).stem}" for image in images}, test_fraction)
            for image in images:
                file = f"{kind}/{'test' if image in test else 'train'}/{image.name}"
                about = {"licence": image.licence, "size": image.size}
                if local:
                    pictures.append(local[image.name][0].picture(local[image.name][1], file, **about))
                else:
                    address = f"{url}/{subset}/{image.name}"
                    pictures.append(Picture(file, address, _fetching(address), **about))
        return pictures

    return _make(Path(out), settings, classes, plan, skip_bad)


def cat2dog(
    out: str | Path, *, sources: Sequence[str | Path] = (), url: str = CAT2DOG.url, skip_bad: bool = False
) -> dict:
    """Faces of cats (birman) and dogs (husky, samoyed), the set that DRIT's authors crawled and cropped.

    Their sides are kept: trainA and testA are cats, trainB and testB dogs. `sources`: cat2dog.zip or its unpacked
    folder instead of a download; the rest as in `coco`. Lee et al., ECCV 2018; no licence is stated.
    """

    def plan(collection: Collection) -> list[Picture]:
        files = collection.source(sources, Archive(url, CAT2DOG.checksum))
        letters = {"cat": "A", "dog": "B"}
        folders = {side + letters[kind]: f"{kind}/{side}" for kind in letters for side in SIDES}
        pictures = {folder: [] for folder in folders}
        for name in files.names:
            folder = PurePosixPath(name).parent.name
            if folder in folders and _is_picture(name):
                pictures[folder].append(files.picture(name, f"{folders[folder]}/{PurePosixPath(name).name}"))
        if empty := [folder for folder in folders if not pictures[folder]]:
            raise ValueError(f"{files.path} holds no pictures in {', '.join(empty)}: it is not cat2dog as published")
        return [picture for folder in folders for picture in pictures[folder]]

    return _make(Path(out), {"data": "cat2dog"}, ["cat", "dog"], plan, skip_bad)


def kaggle_cats_dogs(
    out: str | Path,
    *,
    test_fraction: float = 0.15,
    seed: int = 0,
    sources: Sequence[str | Path] = (),
    url: str = KAGGLE.url,
    skip_bad: bool = False,
) -> dict:
    """Cats and dogs of Kaggle's "Dogs vs. Cats", 12,500 each, in Microsoft's edition, which needs no account.

    `sources`: that archive (kagglecatsanddogs_5340.zip: PetImages/Cat, PetImages/Dog), Kaggle's train.zip
    (train/cat.0.jpg, …), or the unpacked folder of either; the rest as in `coco`. Some files of Microsoft's edition are
    known to be no pictures: they are reported and left out.
    """
    _check_fraction(test_fraction)
    settings = {"data": "kaggle-cats-dogs", "test_fraction": test_fraction, "seed": seed}

    def plan(collection: Collection) -> list[Picture]:
        files = collection.source(sources, Archive(url, KAGGLE.checksum))
        # The licence is a document of the archive: "MSR-LA - 3467.docx".
        licence = next((PurePosixPath(n).stem for n in files.names if PurePosixPath(n).name.startswith("MSR-LA")), "")
        names = {"cat": [], "dog": []}
        for name in files.names:
            path = PurePosixPath(name)
            kind = path.parent.name.lower() if path.parent.name in ("Cat", "Dog") else path.name.split(".")[0]
            if kind in names and _is_picture(name):
                names[kind].append(name)
        if empty := [kind for kind in names if not names[kind]]:
            raise ValueError(
                f"{files.path} holds no pictures of {' or '.join(empty)}: Microsoft's edition has PetImages/Cat and "
                "PetImages/Dog, Kaggle's train.zip has cat.0.jpg and so on (unpack dogs-vs-cats.zip to find it)"
            )
        pictures = []
        for kind in names:
            test = held_out({name: f"{seed}/{kind}/{PurePosixPath(name).stem}" for name in names[kind]}, test_fraction)
            for name in names[kind]:
                file = f"{kind}/{'test' if name in test else 'train'}/{PurePosixPath(name).name}"
                pictures.append(files.picture(name, file, licence=licence))
        return pictures

    return _make(Path(out), settings, ["cat", "dog"], plan, skip_bad, known_broken=True)


def _check_fraction(test_fraction: float) -> None:
    if not 0 < test_fraction < 1:
        raise ValueError(f"--test: a share between 0 and 1, not {test_fraction}")


# --- Making a set ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    """A picture to take: `fetch` writes it to a path; `size` is the width and height that it must have, if known."""

    file: str  # below the set's folder: zebra/train/000000000123.jpg
    source: str  # its address, or that of its archive, # and its name there
    fetch: Callable[[Path, threading.Event], Any]
    licence: str = ""
    size: tuple[int, int] | None = None


@dataclass
class Collection:
    """A set in the making: its folder and its record, which becomes dataset.json."""

    out: Path
    record: dict

    def save(self) -> None:
        write_json(self.out / "dataset.json", self.record)

    def fetched(self, archive: Archive) -> "Files":
        """The archive in `downloads`, fetched if need be. Without a published checksum, the first one counts."""
        known = self.record["archives"].get(archive.name, {}).get("sha256")
        path = self.out / "downloads" / archive.name
        try:
            fetch(archive.url, path, archive.checksum or known, show=True)
        except Unavailable as error:
            raise Unavailable(
                f"{error}\nThe same command goes on where this one stopped. A copy from elsewhere can be given with "
                "--from, another address with --url."
            ) from error
        try:
            files = Files(path, archive.url)
        except DamagedFile as error:
            path.unlink()  # a page that says "moved", say: not to be found again as the archive
            raise DamagedFile(f"what arrives from {archive.url} is not a whole zip archive ({error})") from error
        checked = f"as published: {archive.checksum}" if archive.checksum else "no checksum is published: the first one"
        self._note(archive.name, archive.url, sha256(path), checked)
        return files

    def given(self, files: "Files", archive: Archive) -> None:
        """Note a local copy of what `archive` is; one of another content is taken, and that is said."""
        if not files.path.is_file():
            return
        checked = "local copy"
        if archive.checksum and files.path.suffix == ".zip":
            algorithm, _, digest = archive.checksum.rpartition(":")
            same = pooch.file_hash(str(files.path), alg=algorithm or "sha256") == digest
            checked += f", {'as' if same else 'not the one'} published: {archive.checksum}"
            if not same:
                print(f"Note: {files.path} is not the published {archive.name}; going on with what it holds.")
        self._note(files.path.name, files.address, sha256(files.path), checked)

    def _note(self, name: str, url: str, digest: str, checked: str) -> None:
        self.record["archives"][name] = {"url": url, "sha256": digest, "checked": checked}
        self.save()

    def source(self, sources: Sequence[str | Path], archive: Archive) -> "Files":
        """The one local copy that was given, or else the archive, fetched."""
        if not sources:
            return self.fetched(archive)
        if len(sources) > 1:
            raise ValueError(f"--from: one archive or folder is needed, not {len(sources)}")
        files = Files(sources[0])
        self.given(files, archive)
        return files

    def count(self, kind: str, **counts: int) -> None:
        self.record["classes"].setdefault(kind, {}).update(counts)

    def leave_out(self, reasons: dict[str, str]) -> None:
        self.record["left_out"] |= reasons


def _make(
    out: Path,
    settings: dict,
    classes: list[str],
    plan: Callable[[Collection], list[Picture]],
    skip_bad: bool,
    known_broken: bool = False,
) -> dict:
    """Find, continue or make the set in `out`; returns its record."""
    with _locked(out):
        for folder in (out, *(out / kind for kind in classes)):
            for left in folder.glob(f"{TEMPORARY}*"):  # by a process that was killed
                left.unlink()
        rows, altered = _verified(out)
        record = _read_record(out, settings, empty=not (rows or altered))
        if record["finished"]:
            _check_strays(out, classes, rows.keys() | altered)
            if len(rows) == record["pictures"]:
                print(f"{out} is complete: {len(rows):,} pictures, all as they were fetched.")
                return record
        if altered:
            print(f"{len(altered):,} pictures are missing, altered or unfinished, and will be fetched again.")
        collection = Collection(out, record | {"finished": False, "left_out": {}, "classes": {}})
        collection.save()

        pictures = plan(collection)
        planned = {picture.file: picture for picture in pictures}
        if len(planned) < len(pictures):
            raise ValueError(f"{len(pictures) - len(planned)} pictures have the name of another one of their class")
        _check_strays(out, classes, planned.keys())
        rows = {file: row for file, row in rows.items() if file in planned}
        todo = [picture for picture in pictures if picture.file not in rows]
        if rows:
            print(f"{len(rows):,} of {len(pictures):,} pictures are there.")
        lost = _take(todo, out, rows)

        if lost:
            some = "".join(f"\n  {source}: {reason}" for source, (reason, _) in list(lost.items())[:20])
            some += f"\n  and {len(lost) - 20} more" if len(lost) > 20 else ""
            print(f"{len(lost)} of {len(pictures):,} pictures cannot be used:{some}")
            if not skip_bad and not all(known_broken and broken for _, broken in lost.values()):
                raise Unavailable(
                    f"{out}: {len(lost)} of {len(pictures):,} pictures are missing. The same command tries them again; "
                    "with --skip-bad the set is finished without them."
                )
            collection.leave_out({source: reason for source, (reason, _) in lost.items()})
        _remove_copies(out, rows, collection)
        _finish(collection, rows, classes)
        return collection.record


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout:
        raise OSError(f"{out} is being made by another process: wait for it, or choose another --out") from None


def _read_record(out: Path, settings: dict, empty: bool) -> dict:
    path = out / "dataset.json"
    if not path.exists():
        return {"settings": settings, "finished": False, "archives": {}}
    try:
        record = json.loads(path.read_bytes())
        there, _, _ = record["settings"], record["finished"], record["archives"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path} cannot be read ({error!r}): remove it, the pictures are checked again") from error
    if there != settings and not empty:  # else options that were refused: they may be mended
        names = there.keys() | settings.keys()
        changed = [f"{n}: {there.get(n)} → {settings.get(n)}" for n in sorted(names) if there.get(n) != settings.get(n)]
        raise ValueError(f"{out} holds a set made with other options ({'; '.join(changed)}): choose another --out")
    return record | {"settings": settings}


def _verified(out: Path) -> tuple[dict[str, dict], set[str]]:
    """The rows of the manifest, finished or not, whose pictures are as they were; and the files of all others."""
    rows = {}
    for path in (out / "manifest.csv", out / "manifest.csv.part"):
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                whole = (row for row in csv.DictReader(file) if None not in row.values())  # not a torn last line
                rows |= {row["file"]: row for row in whole}

    def same(row: dict) -> bool:
        path = out / row["file"]
        return path.is_file() and sha256(path) == row["sha256"]

    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        good = dict(zip(rows, pool.map(same, rows.values()), strict=True))
    return {file: row for file, row in rows.items() if good[file]}, {file for file in rows if not good[file]}


def _check_strays(out: Path, classes: list[str], files: Any) -> None:
    there = [path for kind in classes for path in (out / kind).rglob("*") if _is_picture(path.name)]
    if strays := sorted(path for path in there if path.relative_to(out).as_posix() not in files):
        raise ValueError(
            f"{len(strays)} pictures in {out} are not part of this set, such as {strays[0]}: move them away, or choose "
            "another --out"
        )


def _take(pictures: list[Picture], out: Path, rows: dict[str, dict]) -> dict[str, tuple[str, bool]]:
    """Fetch, decode and place pictures, adding their rows. Returns {source: (why not, whether the file is broken)}."""
    lost, in_a_row, stop = {}, 0, threading.Event()
    journal = out / "manifest.csv.part"
    _write_manifest(journal, rows)
    with (
        open(journal, "a", newline="", encoding="utf-8") as file,
        progress("pictures", len(pictures), unit="pictures") as advance,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        writer = csv.DictWriter(file, _COLUMNS)
        jobs = {pool.submit(_place, picture, out, stop): picture for picture in pictures}
        try:
            for job in as_completed(jobs):
                picture = jobs[job]
                try:
                    row = {"source": picture.source, "licence": picture.licence, "sha256": job.result()}
                    rows[picture.file] = {"file": picture.file} | row
                    writer.writerow(rows[picture.file])
                    file.flush()
                    in_a_row = 0
                except BadPicture as error:
                    lost[picture.source] = error.reason, True
                except Unavailable as error:
                    lost[picture.source] = str(error).removeprefix(f"{picture.source}: "), False
                    in_a_row += 1
                    if in_a_row == GIVE_UP:
                        raise Unavailable(
                            f"{GIVE_UP} pictures one after the other could not be fetched, the last one: {error}. Is "
                            "the network there? The same command goes on where this one stopped."
                        ) from error
                advance(1)
        except BaseException as error:
            stop.set()  # ends downloads under way; what they have is kept
            if isinstance(error, KeyboardInterrupt):
                print("stopping; a server that has fallen silent can hold this up for half a minute", file=sys.stderr)
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return lost


def _place(picture: Picture, out: Path, stop: threading.Event) -> str:
    """Take one picture; returns the SHA-256 of its file."""
    scratch = out / "downloads" / picture.file.replace("/", "-")
    scratch.parent.mkdir(exist_ok=True)
    scratch.unlink(missing_ok=True)
    try:
        picture.fetch(scratch, stop)
        load(scratch, 16)  # decodes all of it
        with Image.open(scratch) as image:
            if picture.size and image.size != picture.size:
                sizes = ["×".join(map(str, size)) for size in (image.size, picture.size)]
                raise BadPicture(scratch, f"its size is {sizes[0]}, not {sizes[1]}: another picture")
        digest = sha256(scratch)
        with atomic(out / picture.file) as temporary:
            os.replace(scratch, temporary)
        return digest
    finally:
        scratch.unlink(missing_ok=True)


def _remove_copies(out: Path, rows: dict[str, dict], collection: Collection) -> None:
    """Take pictures out that two classes have, since two domains must not share any; and of those that a class has
    several times all but the first, since none may be both trained with and held out."""
    same: dict[str, list[str]] = {}
    for file in sorted(rows):
        same.setdefault(rows[file]["sha256"], []).append(file)
    for files in same.values():
        kinds = sorted({file.split("/")[0] for file in files})
        why = f"the same picture is in {' and '.join(kinds)}" if len(kinds) > 1 else f"the same picture as {files[0]}"
        for file in files if len(kinds) > 1 else files[1:]:
            (out / file).unlink()
            collection.leave_out({rows.pop(file)["source"]: why})


def _finish(collection: Collection, rows: dict[str, dict], classes: list[str]) -> None:
    out, record = collection.out, collection.record
    sides = Counter(tuple(file.split("/")[:2]) for file in rows)
    for kind in classes:
        collection.count(kind, **{side: sides[kind, side] for side in SIDES})
        for side in SIDES:
            if not sides[kind, side]:
                raise ValueError(f"{out}: no pictures of {kind} are left to {side} with")
        paper = published.PICTURES.get(record["settings"]["data"], {}).get(kind)
        collection.count(kind, **{"all": sides[kind, "train"] + sides[kind, "test"], "paper": paper})
    _contact_sheet(out, rows, record)
    _write_manifest(out / "manifest.csv", rows)
    (out / "manifest.csv.part").unlink(missing_ok=True)
    record |= {"pictures": len(rows), "finished": True}
    collection.save()


def _write_manifest(path: Path, rows: dict[str, dict]) -> None:
    with atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows[file] for file in sorted(rows))


def _contact_sheet(out: Path, rows: dict[str, dict], record: dict) -> None:
    import matplotlib.pyplot as plt
    import torch

    from cdtlib import plots

    per_class = {kind: sorted(file for file in rows if file.startswith(f"{kind}/")) for kind in record["classes"]}
    n = min(SHEET, *(len(files) for files in per_class.values()))
    labelled = {}
    for kind, files in per_class.items():
        spread = [files[i * len(files) // n] for i in range(n)]
        count = record["classes"][kind]
        labelled[f"{kind}\n{count['train']:,} train\n{count['test']:,} test"] = torch.stack(
            [load(out / file, 128) for file in spread]
        )
    figure = plots.grid(labelled)
    with atomic(out / "contact-sheet.jpg") as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")
    plt.close(figure)


# --- Archives and folders --------------------------------------------------------------------------------


class Files:
    """The files of a folder, of a zip archive, or a single .json, by their names in it; nothing is unpacked.

    :param address: what stands in the manifest for it: where it was fetched, by default its name without a path
    :param names: with /, sorted; hidden ones and macOS's are left out
    :param single: whether it is a single .json

    Raises FileNotFoundError; DamagedFile if it is no whole zip; ValueError for names that lead out of the archive.
    """

    def __init__(self, path: str | Path, address: str | None = None):
        self.path = Path(path)
        self.address = address or self.path.resolve().name
        self.single = self.path.suffix == ".json" and self.path.is_file()
        self.zip: zipfile.ZipFile | None = None
        if not self.path.exists():
            raise FileNotFoundError(f"--from: {self.path} does not exist")
        if self.path.is_dir():
            names = [
                Path(parent, name).relative_to(self.path).as_posix()
                for parent, below in walk(self.path)
                for name in below
            ]
        elif self.single:
            names = [self.path.name]
        else:
            try:
                self.zip = zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise DamagedFile(f"{self.path} is not a zip archive, or not a whole one ({error})") from error
            names = [info.filename for info in self.zip.infolist() if not info.is_dir()]
            for name in names:
                parts = PurePosixPath(name.replace("\\", "/"))
                if parts.is_absolute() or ".." in parts.parts or ":" in "".join(parts.parts[:1]):
                    raise ValueError(f"{self.path} is refused: it has a file named {name!r}, which leads out of it")
        self.names = sorted(name for name in names if not _hidden(name))

    def only(self, name: str) -> str:
        """The one name that ends in `name`. Raises ValueError if there is none."""
        found = [full for full in self.names if PurePosixPath(full).name == name]
        if not found:
            raise ValueError(f"{self.path} holds no {name}")
        return found[0]

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A file to read from. Raises DamagedFile, there or while it is read, if the archive is damaged."""
        try:
            if self.zip:
                with self.zip.open(name) as file:
                    yield file
            else:
                with open(self.path if self.single else self.path / name, "rb") as file:
                    yield file
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DamagedFile(f"{self.path} is damaged at {name} ({error}): remove it and fetch it again") from error

    def picture(self, name: str, file: str, **about: Any) -> Picture:
        """The file of this name as a picture to take."""

        def copy(path: Path, stop: threading.Event) -> None:
            if self.zip and self.zip.getinfo(name).file_size > MAX_BYTES:
                raise BadPicture(path, f"more than {MAX_BYTES // 2**20} MB: not a photo")
            if not self.zip and not (self.path / name).exists():
                raise BadPicture(path, "broken link")
            size = self.zip.getinfo(name).file_size if self.zip else (self.path / name).stat().st_size
            with self.open(name) as source, full_disk_named(path, size), open(path, "wb") as target:
                shutil.copyfileobj(source, target)

        return Picture(file, f"{self.address}#{name}", copy, **about)


def _fetching(address: str) -> Callable[[Path, threading.Event], Any]:
    return lambda path, stop: fetch(address, path, stop=stop)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not _hidden(PurePosixPath(name).name)


# --- COCO's annotations ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Image:
    name: str
    size: tuple[int, int]  # width, height
    licence: str


@dataclass(slots=True)
class _Shown:
    """What a picture shows of one class."""

    area: float = 0.0  # pixels, the largest instance
    crowd_area: float = 0.0
    alone: bool = False  # whether there is an instance that is not a crowd
    crowd: bool = False


def _select(
    file: IO[bytes], name: str, subset: str, classes: list[str], min_area: float, crowd: str
) -> tuple[dict[str, list[_Image]], dict[str, dict[str, int]], dict[str, dict]]:
    """The images of each class that the rules of `coco` leave; how many each rule took; the licences by their id.

    The annotations, half a gigabyte of text, are read one by one, and the file once for each of its lists.
    """
    images: dict[int, _Image] = {}
    shown: dict[int, dict[int, _Shown]] = {}  # by category and image
    categories: dict[str, int] = {}
    licences: dict[str, dict] = {}
    try:
        for value in _items(file, "images"):
            if Path(value["file_name"]).name != value["file_name"] or not _is_picture(value["file_name"]):
                raise ValueError(f"{name} is refused: it names a picture {value['file_name']!r}")
            if (address := value.get("coco_url")) and f"/{subset}/" not in address:
                raise ValueError(f"{name} is not of {subset}, it names {address}: give its --subset, or another file")
            size = (value["width"], value["height"])
            images[value["id"]] = _Image(value["file_name"], size, str(value.get("license", "")))
        for value in _items(file, "annotations"):
            entry = shown.setdefault(value["category_id"], {}).setdefault(value["image_id"], _Shown())
            if value["iscrowd"]:
                entry.crowd, entry.crowd_area = True, max(entry.crowd_area, value["area"])
            else:
                entry.alone, entry.area = True, max(entry.area, value["area"])
        for value in _items(file, "categories"):
            categories[value["name"]] = value["id"]
        for value in _items(file, "licenses"):
            licences[str(value["id"])] = {"name": value.get("name"), "url": value.get("url")}
        _check_classes(classes, name, categories)
        wanted = {kind: shown.get(categories[kind], {}) for kind in classes}
        return *_filtered(images, wanted, min_area, crowd), licences
    except (KeyError, TypeError, ZeroDivisionError, AttributeError, ijson.JSONError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{name} is damaged, or not COCO's instances ({error!r})") from error


def _check_classes(classes: list[str], name: str, known: Iterable[str]) -> None:
    if unknown := [kind for kind in classes if kind not in known]:
        raise ValueError(f"--classes: {name} has no {unknown[0]!r}; it has {', '.join(sorted(known))}")


def _items(file: IO[bytes], key: str) -> Iterator[dict]:
    """The elements of a list in a JSON file, one by one."""
    file.seek(0)
    return ijson.items(file, f"{key}.item", use_float=True)


def _filtered(
    images: dict[int, _Image], shown: dict[str, dict[int, _Shown]], min_area: float, crowd: str
) -> tuple[dict[str, list[_Image]], dict[str, dict[str, int]]]:
    in_classes = Counter(image for of_class in shown.values() for image in of_class)
    chosen, counts = {}, {}
    for kind, of_class in shown.items():
        chosen[kind] = []
        count = counts[kind] = {"shown in": len(of_class), "another, too": 0, "crowd": 0, "too small": 0}
        for image, entry in sorted(of_class.items()):
            width, height = images[image].size
            area = max(entry.area, entry.crowd_area) if crowd == "keep" else entry.area
            if in_classes[image] > 1:
                count["another, too"] += 1
            elif (crowd == "drop" and entry.crowd) or (crowd == "ignore" and not entry.alone):
                count["crowd"] += 1
            elif area / (width * height) < min_area:
                count["too small"] += 1
            else:
                chosen[kind].append(images[image])
    return chosen, counts
