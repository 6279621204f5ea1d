"""Fetching the paper's data sets, from a server that fails in all the ways that servers fail."""

import csv
import errno
import hashlib
import io
import json
import re
import shutil
import threading
import zipfile
from collections import defaultdict
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from cdtlib.cli import app
from cdtlib.data import download, zoo
from cdtlib.data import fetch as fetching
from cdtlib.data.download import Archive, Files
from cdtlib.data.fetch import Unavailable, fetch
from cdtlib.data.photos import split_of
from cdtlib.experiment import photo_domains
from cdtlib.files import DamagedFile

contact_sheet = download._contact_sheet


class Server(ThreadingHTTPServer):
    """Serves `files` (path → bytes). `faults` (path → list) are what goes wrong with the next requests for a path: a
    status, or "truncate", "stall", "alter", "another range". `requests` lists what was asked for: (path, the Range or
    None)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults = defaultdict(list)
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True
        self.validators = ("ETag",)
        self.done = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def paths(self):
        return [path for path, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        asked = self.headers.get("Range")
        server.requests.append((path, asked))
        fault = server.faults[path].pop(0) if server.faults[path] else None
        if fault is None and path not in server.files:
            fault = 404
        if isinstance(fault, int):
            self.send_response(fault)
            if fault == 503:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = server.files[path]
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        changed = formatdate(len(data), usegmt=True)
        start = 0
        if server.ranges and asked and self.headers.get("If-Range") in (etag, changed):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        start -= fault == "another range"
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if "ETag" in server.validators:
            self.send_header("ETag", etag)
        if "Last-Modified" in server.validators:
            self.send_header("Last-Modified", changed)
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in ("truncate", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                server.done.wait(30)
            self.close_connection = True
        else:
            self.wfile.write(bytes(len(body)) if fault == "alter" else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "none")
    monkeypatch.setattr(fetching, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(fetching, "TIMEOUT", (30, 30))
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(download, "_contact_sheet", lambda *arguments: None)  # takes half a second
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.done.set()
        server.shutdown()
        thread.join()


def cdt(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


# --- One file --------------------------------------------------------------------------------------------

DATA = bytes(range(256)) * 2048
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def served(server):
    server.files["a.zip"] = DATA
    return server


@pytest.mark.parametrize("known", [None, SHA256, "md5:" + hashlib.md5(DATA).hexdigest()])
def test_a_file_arrives_whole_and_is_found_again(served, tmp_path, known):
    for _ in range(2):
        assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip", known).read_bytes() == DATA
    assert served.requests == [("a.zip", None)]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("fault", ["truncate", "stall"])
@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
def test_what_has_arrived_is_not_fetched_again(served, tmp_path, monkeypatch, fault, validator):
    if fault == "stall":
        monkeypatch.setattr(fetching, "TIMEOUT", (30, 1))
    served.validators = (validator,)
    served.faults["a.zip"] = [fault, fault]
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip", SHA256).read_bytes() == DATA
    half = len(DATA) // 2
    assert [r for _, r in served.requests] == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_another_process_goes_on_with_what_has_arrived(served, tmp_path):
    served.faults["a.zip"] = ["truncate", 503, 503]
    with pytest.raises(Unavailable, match=r"a\.zip: the server answers 503"):
        fetch(f"{served.url}/a.zip", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
    served.requests.clear()
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip").read_bytes() == DATA
    assert served.requests == [("a.zip", f"bytes={len(DATA) // 2}-")]


def test_a_file_that_was_whole_but_not_in_its_place(served, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(DATA)
    (tmp_path / "a.zip.version").write_text(f'"{hashlib.md5(DATA).hexdigest()}"')
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip").read_bytes() == DATA
    assert served.requests == [("a.zip", f"bytes={len(DATA)}-")]


def test_another_range_than_was_asked_for_is_not_appended(served, tmp_path):
    served.faults["a.zip"] = ["truncate", "another range"]
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip").read_bytes() == DATA
    assert [asked for _, asked in served.requests] == [None, f"bytes={len(DATA) // 2}-", None]


def test_a_part_that_is_longer_than_the_file_is_not_taken_for_it(served, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(DATA + b"x")
    (tmp_path / "a.zip.version").write_text(f'"{hashlib.md5(DATA).hexdigest()}"')
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip").read_bytes() == DATA


def test_parts_of_two_versions_are_not_mixed(served, tmp_path):
    served.faults["a.zip"] = ["truncate", 404]
    with pytest.raises(Unavailable):
        fetch(f"{served.url}/a.zip", tmp_path / "a.zip")
    served.files["a.zip"] = new = DATA[::-1]
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip").read_bytes() == new


@pytest.mark.parametrize("validators", [(), ("ETag",)])
def test_a_server_that_cannot_resume_sends_all_again(served, tmp_path, validators):
    served.ranges, served.validators = False, validators
    served.faults["a.zip"] = ["truncate"]
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip").read_bytes() == DATA
    assert len(served.requests) == 2


def test_a_server_that_always_stops_at_one_place_is_given_up(served, tmp_path):
    served.ranges = False
    served.faults["a.zip"] = ["truncate"] * 10
    with pytest.raises(Unavailable, match=r"a\.zip"):
        fetch(f"{served.url}/a.zip", tmp_path / "a.zip")
    assert len(served.requests) == 1 + len(fetching.WAITS)
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("status, attempts", [(404, 1), (403, 1), (503, 3), (500, 3), (429, 3)])
def test_only_what_may_pass_is_tried_again(served, tmp_path, status, attempts):
    served.faults["a.zip"] = [status] * 5
    with pytest.raises(Unavailable, match=rf"{served.url}/a\.zip: the server answers {status}"):
        fetch(f"{served.url}/a.zip", tmp_path / "a.zip")
    assert len(served.requests) == attempts
    assert not list(tmp_path.iterdir())


def test_no_server(tmp_path, server):
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1/a\.zip: .*refused"):
        fetch("http://127.0.0.1:1/a.zip", tmp_path / "a.zip")
    with pytest.raises(Unavailable, match="nonsense"):
        fetch("nonsense", tmp_path / "a.zip")


def test_a_wrong_checksum_is_refused_after_a_second_look(served, tmp_path):
    served.faults["a.zip"] = ["alter"]
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip", SHA256).read_bytes() == DATA
    served.faults["b.zip"], served.files["b.zip"] = ["alter"] * 3, DATA
    with pytest.raises(DamagedFile, match=r"b\.zip: what arrives there is not the expected file"):
        fetch(f"{served.url}/b.zip", tmp_path / "b.zip", SHA256)
    assert served.paths().count("b.zip") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_file_that_is_there_with_a_wrong_checksum_is_replaced(served, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"old")
    assert fetch(f"{served.url}/a.zip", tmp_path / "a.zip", SHA256).read_bytes() == DATA


def test_a_full_disk_is_known_before_anything_is_written(served, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"No space left on device \(0\.524 MB needed, 0\.001 MB free\)"):
        fetch(f"{served.url}/a.zip", tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_stopping_keeps_what_has_arrived(served, tmp_path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Unavailable, match="stopped"):
        fetch(f"{served.url}/a.zip", tmp_path / "a.zip", stop=stop)
    part = (tmp_path / "a.zip.part").read_bytes()
    assert 0 < len(part) < len(DATA) and DATA.startswith(part)


def test_a_wrong_word_for_progress_is_not_taken_for_a_wrong_file(served, tmp_path, monkeypatch):
    monkeypatch.setenv("CDT_PROGRESS", "dots")
    with pytest.raises(ValueError, match="CDT_PROGRESS is bar, lines or none, not 'dots'"):
        fetch("http://nowhere.invalid/file", tmp_path / "file", show=True)


def test_progress_in_lines(served, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CDT_PROGRESS", "lines")
    monkeypatch.setattr(fetching, "PROGRESS_SECONDS", 0.0)
    fetch(f"{served.url}/a.zip", tmp_path / "a.zip", show=True)
    assert capsys.readouterr().err.splitlines()[-1] == "fetching a.zip 100%"


# --- Small sets in the true formats ----------------------------------------------------------------------


def jpeg(name: str, index: int, width: int = 48, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    zoo.draw(name, index, size=48)[0].resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def unpacked(members: dict[str, bytes], folder: Path) -> Path:
    for name, data in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def manifest(out: Path) -> list[dict]:
    with open(out / "manifest.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pictures(out: Path) -> list[str]:
    return sorted(p.relative_to(out).as_posix() for p in out.glob("*/t*/*.jpg"))


def record(out: Path) -> dict:
    return json.loads((out / "dataset.json").read_bytes())


# Images 1–8 show zebras, 9–14 giraffes, 15 both, 16 a bear.
KINDS = {"zebra": (24, range(1, 9)), "giraffe": (25, range(9, 15)), "bear": (23, [16])}
IMAGES = {f"{i:012}.jpg": jpeg("zebra" if i < 9 else "giraffe", i) for i in range(1, 17)}


def annotations(**changes) -> dict:
    boxes = [(i, category) for category, images in KINDS.values() for i in images] + [(15, 24), (15, 25)]
    whole = {
        "info": {"description": "COCO 2017 Dataset", "url": "http://cocodataset.org"},
        "licenses": [
            {"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "By-NC-SA"},
            {"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "By"},
        ],
        "images": [
            {
                "license": 4 if i % 2 else 1, "file_name": f"{i:012}.jpg", "height": 40, "width": 48, "id": i,
                "coco_url": f"http://images.cocodataset.org/train2017/{i:012}.jpg",
            }
            for i in range(1, 17)
        ],
        "annotations": [
            {
                "segmentation": [[1.5, 2.25, 3, 4]], "area": 480.5, "iscrowd": 0, "image_id": image,
                "bbox": [0.0, 1.5, 20, 24], "category_id": category, "id": n,
            }
            for n, (image, category) in enumerate(boxes)
        ],
        "categories": [{"supercategory": "animal", "id": n, "name": kind} for kind, (n, _) in KINDS.items()],
    }  # fmt: skip
    return whole | changes


def archive(whole: dict) -> bytes:
    other = json.dumps({"images": [], "annotations": []}).encode()
    return packed(
        {
            "annotations/captions_train2017.json": other,
            "annotations/instances_val2017.json": other,
            "annotations/instances_train2017.json": json.dumps(whole).encode(),
        }
    )


@pytest.fixture
def coco(server, monkeypatch):
    data = archive(annotations())
    server.files["annotations/annotations_trainval2017.zip"] = data
    server.files |= {f"train2017/{name}": picture for name, picture in IMAGES.items()}
    published = Archive(download.COCO_ANNOTATIONS.url, "md5:" + hashlib.md5(data).hexdigest())
    monkeypatch.setattr(download, "COCO_ANNOTATIONS", published)
    return server


def cdt_coco(server, out, *options):
    return cdt("data", "coco", "--classes", "zebra", "giraffe", "--out", out, "--url", server.url, *options)


def test_coco_fetches_the_wanted_pictures_and_no_others(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_contact_sheet", contact_sheet)
    out = tmp_path / "coco"
    done = cdt_coco(coco, out)
    assert done.exit_code == 0, done.output
    wanted = [f"train2017/{i:012}.jpg" for i in range(1, 15)]
    assert sorted(coco.paths()) == ["annotations/annotations_trainval2017.zip", *wanted]

    rows = manifest(out)
    assert [row["file"] for row in rows] == pictures(out) and len(rows) == 14
    for row in rows:
        name = Path(row["file"]).name
        assert (out / row["file"]).read_bytes() == IMAGES[name]
        assert row["sha256"] == hashlib.sha256(IMAGES[name]).hexdigest()
        assert row["source"] == f"{coco.url}/train2017/{name}"
        assert row["licence"] == ("4" if int(name[:-4]) % 2 else "1")
        assert row["file"].startswith("zebra/" if int(name[:-4]) < 9 else "giraffe/")
    about = record(out)
    assert about["finished"] and about["licences"]["4"]["url"] == "http://creativecommons.org/licenses/by/2.0/"
    assert about["archives"]["annotations_trainval2017.zip"]["checked"].startswith("as published: md5:")
    zebra = about["classes"]["zebra"]
    assert {k: zebra[k] for k in ("shown in", "another, too", "all", "paper")} == {
        "shown in": 9, "another, too": 1, "all": 8, "paper": 1917,
    }  # fmt: skip
    assert "1917" in done.output and "2547" in done.output
    with Image.open(out / "contact-sheet.jpg") as sheet:
        assert sheet.width > 3 * sheet.height > 300  # two rows of six
    assert not list((out / "downloads").glob("*.jpg*"))


def test_the_folders_are_domains(coco, tmp_path):
    assert cdt_coco(coco, tmp_path).exit_code == 0
    domains = photo_domains(tmp_path / "zebra", tmp_path / "giraffe", 32)
    for side, kind, n in (("a", "zebra", 8), ("b", "giraffe", 6)):
        assert domains[side]["train"].name == kind
        assert len(domains[side]["train"]) + len(domains[side]["test"]) == n
        assert split_of(tmp_path / kind)["test"] == sorted((tmp_path / kind / "test").iterdir())


def test_a_finished_set_is_found_without_a_request(coco, tmp_path):
    assert cdt_coco(coco, tmp_path).exit_code == 0
    shutil.rmtree(tmp_path / "downloads")
    coco.requests.clear()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*") if p.is_file()}
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 0 and "is complete: 14 pictures" in done.output
    assert not coco.requests
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*") if p.is_file()} == before


def test_altered_and_lost_pictures_are_fetched_again(coco, tmp_path):
    assert cdt_coco(coco, tmp_path).exit_code == 0
    first, second = (tmp_path / file for file in pictures(tmp_path)[:2])
    whole, rows = pictures(tmp_path), manifest(tmp_path)
    first.write_bytes(IMAGES["000000000016.jpg"])  # a good picture, but another one
    second.unlink()
    coco.requests.clear()
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 0 and "2 pictures are missing, altered or unfinished" in done.output
    assert sorted(coco.paths()) == sorted(f"train2017/{p.name}" for p in (first, second))
    assert pictures(tmp_path) == whole and manifest(tmp_path) == rows
    assert first.read_bytes() == IMAGES[first.name]


def test_an_interrupted_set_goes_on(coco, tmp_path, monkeypatch):
    place, placed = download._place, []

    def interrupted(picture, *arguments):
        if len(placed) == 5:
            raise KeyboardInterrupt
        placed.append(picture.file)
        return place(picture, *arguments)

    monkeypatch.setattr(download, "_place", interrupted)
    monkeypatch.setattr(download, "WORKERS", 1)
    assert cdt_coco(coco, tmp_path).exit_code == 130
    assert not record(tmp_path)["finished"] and not (tmp_path / "manifest.csv").exists()
    noted = [row.split(",")[0] for row in (tmp_path / "manifest.csv.part").read_text().splitlines()[1:]]
    assert noted and set(noted) <= set(placed)
    with open(tmp_path / "manifest.csv.part", "a") as journal:
        journal.write("zebra/train/000000000099.jpg,torn")  # as a power cut leaves it
    (tmp_path / "zebra" / ".tmp-0123.jpg").write_bytes(b"half a picture")
    stranger = tmp_path / "mine" / ".tmp-notes.txt"
    stranger.parent.mkdir()
    stranger.touch()
    for command in (
        ("train", tmp_path / "zebra", tmp_path / "giraffe"),
        ("run", "01", "--profile", "photos", "--pair", "zebra", "giraffe", "--photos", tmp_path),
    ):
        refused = cdt(*command)
        assert refused.exit_code == 2 and "is not complete: finish its data set first" in refused.stderr

    monkeypatch.setattr(download, "_place", place)
    coco.requests.clear()
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 0 and f"{len(noted)} of 14 pictures are there" in done.output
    names = {Path(file).name for file in noted}
    assert sorted(coco.paths()) == [f"train2017/{i:012}.jpg" for i in range(1, 15) if f"{i:012}.jpg" not in names]
    assert len(manifest(tmp_path)) == 14 and not (tmp_path / "manifest.csv.part").exists()
    assert list(tmp_path.rglob(".tmp-*")) == [stranger]


def test_a_picture_that_cannot_be_had_is_named_and_tried_again(coco, tmp_path):
    missing, broken, other = "000000000003.jpg", "000000000010.jpg", "000000000012.jpg"
    coco.files[f"train2017/{broken}"] = IMAGES[broken][:-200]
    coco.files[f"train2017/{other}"] = jpeg("giraffe", 1, 40, 48)
    del coco.files[f"train2017/{missing}"]
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 1 and "3 of 14 pictures are missing" in done.stderr
    assert f"train2017/{missing}: the server answers 404" in done.output
    assert f"train2017/{other}: its size is 40×48, not 48×40" in done.output
    assert not (tmp_path / "manifest.csv").exists()
    assert not {missing, broken, other} & {Path(file).name for file in pictures(tmp_path)}

    coco.files |= {f"train2017/{name}": IMAGES[name] for name in (broken, other)}
    coco.requests.clear()
    done = cdt_coco(coco, tmp_path, "--skip-bad")
    assert done.exit_code == 0, done.output
    assert sorted(coco.paths()) == [f"train2017/{name}" for name in (missing, broken, other)]
    assert list(record(tmp_path)["left_out"]) == [f"{coco.url}/train2017/{missing}"]
    assert len(manifest(tmp_path)) == 13


def test_without_a_network_it_stops_early(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "GIVE_UP", 3)
    monkeypatch.setattr(download, "WORKERS", 1)
    coco.files = {name: data for name, data in coco.files.items() if name.endswith(".zip")}
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 1 and "3 pictures one after the other could not be fetched" in done.stderr


def test_coco_with_a_wrong_checksum(coco, tmp_path):
    coco.files["annotations/annotations_trainval2017.zip"] += b"x"
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 2 and "not the expected file (md5:" in done.stderr
    assert not pictures(tmp_path)


@pytest.mark.parametrize(
    "form", ["zips", "folder of zips", "json and folder", "one folder", "linked folders", "annotations only"]
)
def test_coco_from_local_files(coco, tmp_path, form):
    given = tmp_path / "given"
    if form == "one folder":
        unpacked({f"train2017/{name}": data for name, data in IMAGES.items()}, given)
        unpacked({"annotations/instances_train2017.json": json.dumps(annotations()).encode()}, given)
        unpacked({f"a/{name}": b"a thumbnail" for name in IMAGES}, given)
        unpacked({f"zz/{name}": b"a thumbnail" for name in IMAGES}, given)
        sources = [given]
    elif form == "linked folders":
        unpacked(IMAGES, tmp_path / "disk" / "pictures")
        unpacked({"instances_train2017.json": json.dumps(annotations()).encode()}, tmp_path / "disk" / "annotations")
        given.mkdir()
        (given / "train2017").symlink_to(tmp_path / "disk" / "pictures")
        (given / "annotations").symlink_to(tmp_path / "disk" / "annotations")
        (given / "annotations" / "up").symlink_to(given)
        sources = [given]
    elif form == "json and folder":
        unpacked({"my.json": json.dumps(annotations()).encode()}, given)
        sources = [given / "my.json", unpacked(IMAGES, tmp_path / "pictures")]
    else:
        unpacked({"annotations_trainval2017.zip": archive(annotations())}, given)
        unpacked({"train2017.zip": packed({f"train2017/{name}": data for name, data in IMAGES.items()})}, given)
        sources = [given / "annotations_trainval2017.zip", given / "train2017.zip"]
        sources = [given] if form == "folder of zips" else sources[:1] if form == "annotations only" else sources
    options = [part for source in sources for part in ("--from", source)]
    done = cdt_coco(coco, tmp_path / "local", *options)
    assert done.exit_code == 0, done.output
    assert len(coco.requests) == (14 if form == "annotations only" else 0)
    assert cdt_coco(coco, tmp_path / "fetched").exit_code == 0
    assert pictures(tmp_path / "local") == pictures(tmp_path / "fetched")
    keys = ("file", "licence", "sha256")
    local, fetched = ([[row[k] for k in keys] for row in manifest(tmp_path / o)] for o in ("local", "fetched"))
    assert local == fetched
    if form == "zips":
        assert manifest(tmp_path / "local")[0]["source"].startswith("train2017.zip#train2017/0000")


def test_what_is_given_must_hold_something(coco, tmp_path):
    nothing = unpacked({"notes.txt": b"moved to the other disk"}, tmp_path / "nothing")
    done = cdt_coco(coco, tmp_path / "out", "--from", nothing)
    assert done.exit_code == 2 and "nothing holds neither instances_train2017.json nor pictures" in done.stderr
    assert not coco.requests


def test_a_wrong_class_is_refused_before_anything_is_fetched(coco, tmp_path):
    done = cdt("data", "coco", "--out", tmp_path, "--url", coco.url, "--classes", "zebra,giraffe")
    assert done.exit_code == 2 and "COCO has no 'zebra,giraffe'; it has airplane, apple" in done.stderr
    assert not coco.requests


def test_local_pictures_must_be_all_there(coco, tmp_path):
    few = unpacked({name: data for name, data in IMAGES.items() if name != "000000000004.jpg"}, tmp_path / "few")
    done = cdt_coco(coco, tmp_path / "out", "--from", few)
    assert done.exit_code == 2 and "1 of the pictures are not in" in done.stderr and "000000000004" in done.stderr
    assert cdt_coco(coco, tmp_path / "out", "--from", few, "--skip-bad").exit_code == 0
    assert record(tmp_path / "out")["left_out"] == {"train2017/000000000004.jpg": "not among the pictures given"}


# --- COCO's rules ----------------------------------------------------------------------------------------


def chosen(classes=("zebra", "giraffe"), min_area=0.0, crowd="keep", **changes):
    file = io.BytesIO(json.dumps(annotations(**changes)).encode())
    images, counts, _ = download._select(file, "instances_train2017.json", "train2017", list(classes), min_area, crowd)
    return {kind: [int(image.name[:-4]) for image in images[kind]] for kind in images}, counts


def test_a_picture_of_two_wanted_classes_is_of_neither():
    assert chosen()[0] == {"zebra": list(range(1, 9)), "giraffe": list(range(9, 15))}
    assert chosen(["zebra"])[0] == {"zebra": [*range(1, 9), 15]}


def box(image, area, crowd=0):
    return {"image_id": image, "category_id": 24, "area": area, "iscrowd": crowd}


def test_the_largest_instance_counts():
    boxes = [box(1, 192), box(1, 5), box(2, 191), box(2, 191), box(3, 1920)]  # of 48 × 40 = 1920
    images, counts = chosen(["zebra"], min_area=0.1, annotations=boxes)
    assert images == {"zebra": [1, 3]}
    assert counts["zebra"] == {"shown in": 3, "another, too": 0, "crowd": 0, "too small": 1}


@pytest.mark.parametrize(
    "crowd, left, out", [("keep", [1, 2, 3], 0), ("ignore", [1, 3], 1), ("drop", [1], 2)]
)  # 1: one zebra; 2: a crowd; 3: a crowd and one zebra
def test_crowds(crowd, left, out):
    images, counts = chosen(["zebra"], crowd=crowd, annotations=[box(1, 9), box(2, 9, 1), box(3, 9, 1), box(3, 9)])
    assert images == {"zebra": left} and counts["zebra"]["crowd"] == out


@pytest.mark.parametrize("crowd, left", [("keep", [1]), ("ignore", [])])
def test_the_area_of_a_crowd_counts_only_where_crowds_do(crowd, left):
    assert chosen(["zebra"], 0.1, crowd, annotations=[box(1, 9), box(1, 900, 1)])[0] == {"zebra": left}


def test_the_filter_moves_no_picture_to_the_other_side(coco, tmp_path):
    small = [a | {"area": 1.0} if a["image_id"] in (1, 2, 9) else a for a in annotations()["annotations"]]
    given = unpacked({"instances_train2017.json": json.dumps(annotations(annotations=small)).encode()}, tmp_path / "g")
    options = ("--from", given / "instances_train2017.json", "--test", "0.4")
    for name, more in (("all", []), ("few", ["--min-area", "0.01"]), ("seed", ["--seed", "1"])):
        assert cdt_coco(coco, tmp_path / name, *options, *more).exit_code == 0
    files = {name: set(pictures(tmp_path / name)) for name in ("all", "few", "seed")}
    assert files["few"] < files["all"] and len(files["few"]) == 11
    assert files["seed"] != files["all"]


@pytest.mark.parametrize(
    "options, named",
    [
        (["lion"], "COCO has no 'lion'; it has airplane, apple"),
        (["zebra", "cat"], "instances_train2017.json has no 'cat'; it has bear, giraffe, zebra"),
        (["zebra", "bear"], "bear: 1 pictures are left (shown in: 1, another, too: 0"),
        (["zebra", "--crowd", "some"], "--crowd: one of keep, ignore, drop"),
        (["zebra", "--min-area", "5"], "--min-area"),
        (["zebra", "--test", "1"], "--test"),
        (["zebra", "--subset", "test2017"], "--subset"),
        (["zebra", "--from", "nowhere.zip"], "nowhere.zip does not exist"),
    ],
)
def test_coco_refuses_by_name(coco, tmp_path, options, named):
    done = cdt("data", "coco", "--out", tmp_path, "--url", coco.url, "--classes", *options)
    assert done.exit_code == 2 and named in done.stderr
    assert not pictures(tmp_path)


@pytest.mark.parametrize("name", ["../../0.jpg", "/0.jpg", "..", "0.sh"])
def test_names_that_lead_elsewhere_are_refused(name):
    image = annotations()["images"][0] | {"file_name": name}
    with pytest.raises(ValueError, match=rf"names a picture '{re.escape(name)}'"):
        chosen(images=[image])


@pytest.mark.parametrize("cut", [10, 500, 2000])
def test_cut_annotations_are_damaged(cut):
    with pytest.raises(DamagedFile, match="x.json is damaged"):
        file = io.BytesIO(json.dumps(annotations()).encode()[:cut])
        download._select(file, "x.json", "train2017", ["zebra"], 0.0, "keep")


def test_annotations_of_another_subset_are_refused(coco, tmp_path):
    other = json.dumps(annotations()).replace("/train2017/", "/val2017/")
    (tmp_path / "renamed.json").write_text(other)
    refused = cdt_coco(coco, tmp_path / "out", "--from", tmp_path / "renamed.json")
    assert refused.exit_code == 2 and "renamed.json is not of train2017, it names http" in refused.stderr


# --- cat2dog and Kaggle ----------------------------------------------------------------------------------

CAT2DOG = {
    f"cat2dog/{folder}/{i}.jpg": jpeg("elephant" if folder.endswith("A") else "zebra", 10 * (folder < "train") + i)
    for folder in ("trainA", "trainB", "testA", "testB")
    for i in range(3)
}


@pytest.mark.parametrize("form", ["url", "zip", "folder", "folder above"])
def test_cat2dog_keeps_its_sides(server, tmp_path, form):
    server.files["cat2dog.zip"] = packed(CAT2DOG | {"__MACOSX/cat2dog/trainA/._0.jpg": b"x"})
    out = tmp_path / "out"
    if form == "url":
        options = ["--url", f"{server.url}/cat2dog.zip"]
    elif form == "zip":
        options = ["--from", unpacked({"cat2dog.zip": server.files["cat2dog.zip"]}, tmp_path / "g") / "cat2dog.zip"]
    else:
        options = ["--from", unpacked(CAT2DOG, tmp_path / "g") / ("cat2dog" if form == "folder" else "")]
    done = cdt("data", "cat2dog", "--out", out, *options)
    assert done.exit_code == 0, done.output
    sides = [f"{kind}/{side}/{i}.jpg" for kind in ("cat", "dog") for side in ("test", "train") for i in range(3)]
    assert pictures(out) == sides
    for file in sides:
        kind, side, name = file.split("/")
        letter = "A" if kind == "cat" else "B"
        assert (out / file).read_bytes() == CAT2DOG[f"cat2dog/{side}{letter}/{name}"]
    assert "871" in done.output and "1364" in done.output
    photo_domains(out / "cat", out / "dog", 32)


def test_an_archive_without_a_published_checksum_must_stay_as_it_was(server, tmp_path):
    server.files["cat2dog.zip"] = packed(CAT2DOG)
    command = ("data", "cat2dog", "--out", tmp_path, "--url", f"{server.url}/cat2dog.zip")
    assert cdt(*command).exit_code == 0
    digest = hashlib.sha256(server.files["cat2dog.zip"]).hexdigest()
    noted = record(tmp_path)["archives"]["cat2dog.zip"]
    assert noted["sha256"] == digest and noted["checked"].startswith("no checksum is published")
    (tmp_path / "cat/train/0.jpg").unlink()
    (tmp_path / "downloads/cat2dog.zip").unlink()
    server.files["cat2dog.zip"] += b" "
    done = cdt(*command)
    assert done.exit_code == 2 and f"not the expected file ({digest})" in done.stderr


def test_a_page_in_place_of_the_archive_is_not_kept(server, tmp_path):
    server.files["cat2dog.zip"] = b"<html>We have moved</html>"
    command = ("data", "cat2dog", "--out", tmp_path, "--url", f"{server.url}/cat2dog.zip")
    done = cdt(*command)
    assert done.exit_code == 2 and "is not a whole zip archive" in done.stderr
    server.files["cat2dog.zip"] = packed(CAT2DOG)
    assert cdt(*command).exit_code == 0


def test_a_missing_archive_leads_to_other_ways(server, tmp_path):
    done = cdt("data", "cat2dog", "--out", tmp_path, "--url", f"{server.url}/cat2dog.zip")
    assert done.exit_code == 1 and "404" in done.stderr and "--from" in done.stderr


PETS = {
    f"PetImages/{folder}/{i}.jpg": jpeg(kind, i)
    for folder, kind in (("Cat", "elephant"), ("Dog", "zebra"))
    for i in range(10)
}
BROKEN = {
    "PetImages/Cat/666.jpg": b"",
    "PetImages/Dog/11702.jpg": PETS["PetImages/Dog/1.jpg"][:300],
}
MICROSOFT = PETS | BROKEN | {"PetImages/Cat/Thumbs.db": b"x", "MSR-LA - 3467.docx": b"x", "readme[1].txt": b"x"}


def test_kaggle_reports_and_leaves_out_its_broken_files(server, tmp_path, monkeypatch):
    server.files["pets.zip"] = packed(MICROSOFT)
    checksum = hashlib.sha256(server.files["pets.zip"]).hexdigest()
    monkeypatch.setattr(download, "KAGGLE", Archive(download.KAGGLE.url, checksum))
    done = cdt("data", "kaggle-cats-dogs", "--out", tmp_path, "--url", f"{server.url}/pets.zip")
    assert done.exit_code == 0, done.output
    assert "2 of 22 pictures cannot be used" in done.output and "PetImages/Cat/666.jpg: empty file" in done.output
    assert set(record(tmp_path)["left_out"]) == {f"{server.url}/pets.zip#{name}" for name in BROKEN}
    rows = manifest(tmp_path)
    assert len(rows) == 20 and {row["licence"] for row in rows} == {"MSR-LA - 3467"}
    photo_domains(tmp_path / "cat", tmp_path / "dog", 32)
    server.requests.clear()
    assert "is complete" in cdt("data", "kaggle-cats-dogs", "--out", tmp_path).output


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_kaggles_own_archive(server, tmp_path, form):
    members = {name.lower().replace("petimages/", "train/").replace("t/", "t."): data for name, data in PETS.items()}
    members = {name.replace("dog/", "dog."): data for name, data in members.items()}
    assert "train/cat.0.jpg" in members and "train/dog.9.jpg" in members
    given = unpacked({"train.zip": packed(members)}, tmp_path) / "train.zip"
    given = given if form == "zip" else unpacked(members, tmp_path / "g") / "train"
    done = cdt("data", "kaggle-cats-dogs", "--out", tmp_path / "out", "--from", given)
    assert done.exit_code == 0, done.output
    names = {Path(file).name for file in pictures(tmp_path / "out")}
    assert names == {Path(name).name for name in members}


def test_a_picture_in_both_classes_belongs_to_neither(server, tmp_path):
    both = {"PetImages/Cat/77.jpg": PETS["PetImages/Dog/3.jpg"]}
    out = tmp_path / "out"
    done = cdt("data", "kaggle-cats-dogs", "--out", out, "--from", unpacked(PETS | both, tmp_path / "g"))
    assert done.exit_code == 0, done.output
    assert len(manifest(out)) == len(pictures(out)) == 19
    assert set(record(out)["left_out"].values()) == {"the same picture is in cat and dog"}
    photo_domains(out / "cat", out / "dog", 32)


def test_a_side_that_loses_all_its_pictures_is_refused(server, tmp_path):
    dogs = {f"cat2dog/testA/{i}.jpg": CAT2DOG[f"cat2dog/testB/{i}.jpg"] for i in range(3)}
    out = tmp_path / "out"
    done = cdt("data", "cat2dog", "--out", out, "--from", unpacked(CAT2DOG | dogs, tmp_path / "g"))
    assert done.exit_code == 2 and "no pictures of cat are left to test with" in done.stderr
    assert not record(out)["finished"]


def test_names_and_the_seed_decide_what_is_held_out(server, tmp_path):
    done = cdt(
        "data", "kaggle-cats-dogs", "--from", unpacked(PETS, tmp_path / "g"), "--out", tmp_path / "out",
        "--test", "0.4", "--seed", "3",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for file in pictures(tmp_path / "out"):
        kind, side, name = file.split("/")
        share = int(hashlib.sha256(f"3/{kind}/{name[:-4]}".encode()).hexdigest(), 16) / 16**64
        assert (side == "test") == (share < 0.4)


def test_of_equal_pictures_of_a_class_one_is_taken(server, tmp_path):
    again = {f"PetImages/Cat/{name}.jpg": PETS["PetImages/Cat/3.jpg"] for name in (77, 78)}
    out = tmp_path / "out"
    command = ("data", "kaggle-cats-dogs", "--out", out, "--from", unpacked(PETS | again, tmp_path / "g"))
    assert cdt(*command).exit_code == 0
    rows = manifest(out)
    assert len(rows) == len({row["sha256"] for row in rows}) == len(pictures(out)) == 20
    (kept,) = (row["file"] for row in rows if row["sha256"] == hashlib.sha256(PETS["PetImages/Cat/3.jpg"]).hexdigest())
    assert list(record(out)["left_out"].values()) == [f"the same picture as {kept}"] * 2
    assert "is complete: 20 pictures" in cdt(*command).output


# --- What is refused -------------------------------------------------------------------------------------


def test_a_nameless_member_of_an_archive_is_nothing(tmp_path):
    unpacked({"odd.zip": packed(CAT2DOG | {".": b"x"})}, tmp_path)
    assert set(CAT2DOG) <= set(download.Files(tmp_path / "odd.zip").names)


@pytest.mark.parametrize("name", ["../trainA/0.jpg", "/trainA/0.jpg", "a/../../0.jpg", "C:\\trainA\\0.jpg"])
def test_archives_that_lead_out_of_themselves_are_refused(server, tmp_path, name):
    given = unpacked({"evil.zip": packed(CAT2DOG | {name: b"x"})}, tmp_path) / "evil.zip"
    done = cdt("data", "cat2dog", "--out", tmp_path / "out", "--from", given)
    assert done.exit_code == 2 and "leads out of it" in done.stderr
    assert not pictures(tmp_path / "out")


def test_damaged_archives_are_named(server, tmp_path):
    whole = packed(CAT2DOG)
    (tmp_path / "cut.zip").write_bytes(whole[:-100])
    done = cdt("data", "cat2dog", "--out", tmp_path / "out", "--from", tmp_path / "cut.zip")
    assert done.exit_code == 2 and "cut.zip is not a zip archive, or not a whole one" in done.stderr
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        at = file.getinfo("cat2dog/trainB/1.jpg").header_offset + 200
    (tmp_path / "bad.zip").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    done = cdt("data", "cat2dog", "--out", tmp_path / "out", "--from", tmp_path / "bad.zip")
    assert done.exit_code == 2 and "bad.zip is damaged at cat2dog/trainB/1.jpg" in done.stderr


def test_a_set_with_other_options_needs_another_folder(coco, tmp_path):
    assert cdt_coco(coco, tmp_path).exit_code == 0
    before = pictures(tmp_path)
    done = cdt_coco(coco, tmp_path, "--seed", "1")
    assert done.exit_code == 2 and "seed: 0 → 1" in done.stderr
    assert pictures(tmp_path) == before


def test_options_that_were_refused_can_be_mended(coco, tmp_path):
    assert cdt("data", "coco", "--classes", "zebr", "--out", tmp_path, "--url", coco.url).exit_code == 2
    assert cdt_coco(coco, tmp_path).exit_code == 0
    assert record(tmp_path)["settings"]["classes"] == ["zebra", "giraffe"]


def test_pictures_of_something_else_are_not_taken_in(coco, tmp_path):
    unpacked({"zebra/train/mine.jpg": IMAGES["000000000001.jpg"]}, tmp_path)
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 2 and "mine.jpg" in done.stderr
    (tmp_path / "zebra/train/mine.jpg").unlink()
    assert cdt_coco(coco, tmp_path).exit_code == 0
    unpacked({"zebra/test/mine.jpg": IMAGES["000000000001.jpg"]}, tmp_path)  # nor into a finished set
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 2 and "mine.jpg" in done.stderr


def test_two_processes_do_not_make_one_set(coco, tmp_path):
    with FileLock(tmp_path / ".lock"):
        done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 1 and "made by another process" in done.stderr
    assert not coco.requests


def test_a_damaged_record_is_named(coco, tmp_path):
    (tmp_path / "dataset.json").write_text('{"settings": ')
    done = cdt_coco(coco, tmp_path)
    assert done.exit_code == 2 and "dataset.json cannot be read" in done.stderr


def test_files_of_a_folder_leave_hidden_ones_out(tmp_path):
    unpacked({"a/b.jpg": b"", ".hidden/c.jpg": b"", "a/.d.jpg": b"", "e.txt": b""}, tmp_path)
    assert Files(tmp_path).names == ["a/b.jpg", "e.txt"]


def test_other_archives_in_a_folder_that_is_given_do_not_matter(coco, tmp_path):
    given = unpacked(
        {"ANNOTATIONS_trainval2017.zip": archive(annotations()), "test2017.zip": b"unfinished"}, tmp_path / "g"
    )
    unpacked({"TRAIN2017.ZIP": packed({f"train2017/{name}": data for name, data in IMAGES.items()})}, given)
    assert cdt_coco(coco, tmp_path / "out", "--from", given).exit_code == 0 and not coco.requests


def test_a_broken_link_among_local_pictures_can_be_skipped(coco, tmp_path):
    given = unpacked({name: data for name, data in IMAGES.items() if name != "000000000004.jpg"}, tmp_path / "given")
    (given / "000000000004.jpg").symlink_to("nowhere")
    done = cdt_coco(coco, tmp_path / "out", "--from", given)
    assert done.exit_code == 1 and "broken link" in done.stdout
    assert cdt_coco(coco, tmp_path / "out", "--from", given, "--skip-bad").exit_code == 0


def test_a_disk_that_is_full_of_copies_is_named(coco, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    given = unpacked(IMAGES, tmp_path / "given")
    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    done = cdt_coco(coco, tmp_path / "out", "--from", given)
    assert done.exit_code == 1 and "out/downloads/" in done.stderr and "free" in done.stderr


def test_pictures_are_fetched_side_by_side(coco, tmp_path, monkeypatch):
    arrived = threading.Barrier(4, timeout=20)  # passes only when four are asked for at a time
    original = Handler.do_GET

    def together(handler):
        if "train2017/" in handler.path and handler.path[-6:-4] in ("01", "02", "03", "04"):
            arrived.wait()
        original(handler)

    monkeypatch.setattr(Handler, "do_GET", together)
    assert cdt_coco(coco, tmp_path).exit_code == 0
    assert not arrived.broken
