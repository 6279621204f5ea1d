"""Notebooks are checked before they start, run in this interpreter, and kept only when they succeeded."""

import json
import os
import re
import subprocess
import sys

import jupytext
import nbformat
import pytest
import yaml
from typer.testing import CliRunner

from cdtlib import batch, book, cli, machine
from cdtlib.files import DamagedFile

HEADER = '# %% tags=["parameters"]\nprofile = "demo"\npair = ["zebra", "giraffe"]\nseed = 0\nchanges = []\n'
GOOD = (
    HEADER
    + """
# %% [markdown]
# ## Training

# %%
import os, sys
import cdtlib
print(profile, pair, seed, os.environ["CDT_RESULTS"], cdtlib.__file__)
print("step 1")
sys.executable
"""
)


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """A folder of toy notebooks that stands in for the project's: 03 is good, 04 fails, 12 has no pair."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "03_good.py").write_text(GOOD)
    (folder / "04_bad.py").write_text(HEADER + "\n# %%\nprint('before')\n\n# %%\nlimit = 0\n1 / limit\n")
    (folder / "12_summary.py").write_text('# %% tags=["parameters"]\nprofile = "demo"\n')
    monkeypatch.setattr(batch, "NOTEBOOKS", folder)
    return folder


# Finding and checking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["3", "03", "good", "03_good", "03_good.py", 3])
def test_a_notebook_has_many_names(notebooks, name):
    assert batch.find(name).name == "03_good.py"


def test_an_unknown_notebook_is_refused_with_those_there_are(notebooks):
    with pytest.raises(ValueError, match="no notebook 'better'.*03_good, 04_bad, 12_summary"):
        batch.find("better")


def test_parameters_are_read_from_the_source(notebooks):
    assert batch.parameters(batch.find(3)) == {
        "profile": "demo", "pair": ["zebra", "giraffe"], "seed": 0, "changes": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("# %%\nseed = 0\n", "has 0 cells tagged"),
        (HEADER + "\n" + HEADER, "has 2 cells tagged"),
        (HEADER + "size = 2 * 32\n", "not `size = 2 \\* 32`"),
        (HEADER + "import os\n", "not `import os`"),
        (HEADER + "a = b = 1\n", "not `a = b = 1`"),
    ],
)
def test_a_wrong_parameters_cell_is_refused(notebooks, source, message):
    path = notebooks / "05_wrong.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=f"05_wrong.py.*{message}"):
        batch.parameters(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "huge"}, "huge.*demo"),
        ({"pair": ["zebra"]}, "pair"),
        ({"pair": ["zebra", "zebra"]}, "zebra"),
        ({"pair": ["zebra", "unicorn"]}, "unicorn"),
        ({"pair": "zebra"}, "pair"),
        ({"seed": -1}, "seed"),
        ({"seed": "1"}, "seed must be of type int, like 0, not '1'"),
        ({"seed": True}, "seed must be of type int"),
        ({"changes": ["epochs=3"]}, "unknown setting 'epochs'; there are profile"),
        ({"changes": ["translation.5.epochs"]}, "NAME=VALUE, such as translation.5.epochs=20, not 'translation.5.ep"),
        ({"changes": [3]}, "NAME=VALUE"),
        ({"changes": ["seed=3"]}, "seed: it is given by itself"),
    ],
)
def test_wrong_parameters_are_refused_by_name(notebooks, arguments, message):
    with pytest.raises(ValueError, match=message):
        batch.job(3, **arguments)


def test_names_of_what_a_job_leaves(notebooks, results):
    job = batch.job("good", "smoke", ["giraffe", "zebra"])
    assert job.executed == results / "smoke" / "notebooks" / "03_good-giraffe-zebra.ipynb"
    assert batch.job("summary", "smoke", ["giraffe", "zebra"]).executed.name == "12_summary.ipynb"
    changes = ["translation.5.epochs=2", "data.test=8"]
    changed = batch.job("good", "smoke", seed=2, changes=changes)
    assert changed.stem == "03_good-zebra-giraffe-seed2-data.test=8-translation.5.epochs=2"
    assert changed.settings.data.test == 8 and changed.settings.translation[5].epochs == 2
    assert str(changed).endswith("seed 2 · translation.5.epochs=2 · data.test=8")
    long = batch.job("good", "smoke", changes=[f"translation.{i}.lambda_identity=10.25" for i in (5, 4, 3, 2)])
    assert re.fullmatch("03_good-zebra-giraffe-changed-[0-9a-f]{12}", long.stem)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "99"], "no notebook '99'"),
        (["run", "03", "--profile", "huge"], "huge"),
        (["run", "03", "--set", "epochs=3"], "unknown setting 'epochs'"),
        (["run", "12", "--set", "data.size=64"], "12_summary.py has no parameter 'changes'"),
        (["run", "03", "--photos", "nowhere"], "--photos: nowhere does not exist"),
        (["run", "03", "--photos", "."], "--photos: profile demo draws its pictures"),
        (
            ["run", "03", "--profile", "smoke", "--weights", "."],
            "--weights: the networks of profile smoke",
        ),
        (["run", "03", "--profile", "photos"], "set CDT_PHOTOS (or --photos)"),
        (["run", "03", "--profile", "photos", "--photos", "."], "no folder 'zebra' of photos"),
        (["book", "--profile", "huge"], "results/huge/notebooks holds no executed notebook"),
    ],
)
def test_the_command_line_refuses_with_a_message_and_no_traceback(notebooks, arguments, message, monkeypatch):
    monkeypatch.setenv("CDT_PHOTOS", "")
    monkeypatch.delenv("CDT_RESULTS")
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_a_fault_in_a_library_keeps_its_traceback(notebooks, monkeypatch):
    monkeypatch.setattr(batch, "run", lambda job, force: json.loads("{"))  # a ValueError that nobody foresaw
    assert isinstance(CliRunner().invoke(cli.app, ["run", "03"]).exception, json.JSONDecodeError)


# Running -------------------------------------------------------------------------------------------------


def test_an_executed_copy_keeps_of_a_trainings_progress_the_end_alone():
    ends = "inverter-cat: found finished (9 steps, 0:01)\ntranslator: 20 steps in 1:02:10\n"
    lines = "translator-teddy bear 7/20 35% 1:02:10 left\ntranslator 19/20 95% 0:03 left critic=-1.2e+03 cycle=0.1\n"
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text=text) for text in (lines, ends[:45], lines, ends[45:])
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()", outputs=outputs)])
    assert [output.text for output in batch.clean(notebook).cells[0].outputs] == [ends]


def test_a_run_notebook_is_kept_clean_and_not_run_twice(notebooks, results, capsys):
    job = batch.job(3, "smoke", seed=5)
    assert batch.run(job)
    shown = capsys.readouterr().out
    assert "[03] Training\n" in shown
    assert "[03]   step 1\n" in shown

    executed = nbformat.read(job.executed, as_version=4)
    nbformat.validate(executed)
    cells = {tag: cell for cell in executed.cells for tag in cell.metadata.get("tags", [])}
    assert cells["injected-parameters"].source.splitlines()[1:] == ['profile = "smoke"', "seed = 5"]
    text = job.executed.read_text()
    assert "smoke ['zebra', 'giraffe'] 5" in text
    assert str(machine.ROOT) not in text  # no path of this machine
    assert '"papermill"' not in text
    (output,) = [o for cell in executed.cells for o in cell.get("outputs", []) if o.output_type == "execute_result"]
    assert output.data["text/plain"].startswith("'.venv/") or sys.prefix == sys.base_prefix  # this very interpreter

    status = json.loads((results / "smoke" / "status.json").read_text())
    assert status["notebooks"]["03_good-zebra-giraffe-seed5"]["seconds"] > 0
    assert {"python", "torch", "numpy"} <= status["versions"].keys()
    assert "| 03_good-zebra-giraffe-seed5 |" in (results / "smoke" / "status.md").read_text()

    assert job.finished()
    assert not batch.run(job)
    assert "up to date" in capsys.readouterr().out
    before = job.executed.read_bytes()
    assert batch.run(job, force=True)
    assert job.executed.read_bytes() == before  # nothing in it but what the notebook computes

    job.metrics.parent.mkdir(exist_ok=True)
    job.metrics.write_text("{}")  # numbers from elsewhere
    assert not job.finished()
    job.metrics.unlink()
    assert job.finished()
    job.executed.write_text("{}")  # a copy from elsewhere
    assert not job.finished()
    assert not batch.job(3, "smoke", seed=6).finished()


def test_what_cannot_be_noted_at_the_end_is_refused_at_the_start(notebooks, results, tmp_path, monkeypatch):
    job = batch.job(3, "smoke")
    status = job.folder / "status.json"
    job.folder.mkdir(parents=True)
    status.write_text("<<<<<<< HEAD")
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(DamagedFile, match="status.json is damaged .* delete it"):
        batch.run(job)
    assert status.read_text() == "<<<<<<< HEAD"
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="cannot write into this folder"):
        batch.run(batch.job(3, "smoke", results=tmp_path / "file"))


def test_another_seed_leaves_the_first_ones_results(notebooks, results):
    first, other = (batch.job(3, "smoke", seed=seed) for seed in (0, 1))
    assert (first.stem, other.stem) == ("03_good-zebra-giraffe", "03_good-zebra-giraffe-seed1")
    assert (str(first), str(other)) == tuple(f"[03] 03_good · smoke · zebra and giraffe{s}" for s in ("", " · seed 1"))
    assert first.folder == other.folder and first.record != other.record
    assert batch.run(first) and batch.run(other)
    assert first.finished() and other.finished()
    status = json.loads((results / "smoke" / "status.json").read_text())
    assert list(status["notebooks"]) == [first.stem, other.stem]


def test_a_changed_source_is_run_again(notebooks, results):
    job = batch.job(3, "smoke")
    inputs = job.inputs()
    job.notebook.write_text(GOOD + "# a remark\n")
    assert job.inputs() != inputs


def test_the_library_and_the_parameters_are_inputs_too(notebooks, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "ROOT", tmp_path)
    seen = set()
    (tmp_path / "cdtlib" / "rivals").mkdir(parents=True)
    for file, text in (("losses.py", "1"), ("losses.py", "2"), ("rivals/munit.py", ""), ("embedded.safetensors", "")):
        (tmp_path / "cdtlib" / file).write_text(text)
        seen.add(batch.job(3, "smoke").inputs())
    assert len(seen | {batch.job(3, "smoke", seed=1).inputs()}) == 5


def test_where_a_notebook_runs_and_what_its_record_is_of(notebooks, tmp_path, monkeypatch):
    """Sources that change while it runs are not what it was run with."""
    job, seen = batch.job(3, "smoke", results=tmp_path / "there"), []

    def execute(source, *_, **__):
        seen.extend(os.environ[name] for name in ("CDT_RESULTS", "CDT_PHOTOS"))
        if len(seen) == 2:
            job.notebook.write_text(GOOD + "# a later thought\n")
        return nbformat.read(source, as_version=4)

    monkeypatch.setattr("papermill.execute_notebook", execute)
    monkeypatch.setenv("CDT_PHOTOS", "photos")
    monkeypatch.chdir(tmp_path)
    job.failed.parent.mkdir(parents=True)
    job.failed.touch()
    before = dict(os.environ)
    assert batch.run(job) and not job.finished() and not job.failed.exists()
    assert seen == [str(tmp_path / "there"), str(tmp_path / "photos")] and dict(os.environ) == before
    assert batch.run(job) and job.finished()


def test_a_notebook_without_a_pair_depends_on_the_numbers_of_the_others(notebooks, results):
    summary, other = batch.job(12, "smoke"), batch.job(3, "smoke")
    before = summary.inputs(), other.inputs()
    (results / "smoke" / "metrics").mkdir(parents=True)
    (results / "smoke" / "metrics" / "03_good-zebra-giraffe.json").write_text('{"metrics": []}')
    assert summary.inputs() != before[0]
    assert other.inputs() == before[1]


def test_other_photos_are_other_inputs(notebooks, tmp_path, monkeypatch):
    drawn = batch.job(3, "smoke").inputs()
    for folder in ("zebra/train", "zebra/test", "giraffe/train", "giraffe/test"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(6):
            (tmp_path / folder / f"{i}.jpg").write_bytes(b"")
    monkeypatch.setenv("CDT_PHOTOS", str(tmp_path))
    monkeypatch.setenv("CDT_WEIGHTS", str(tmp_path))
    assert batch.job(3, "smoke").inputs() == drawn  # which has neither
    other = batch.job(3, "smoke", changes=["backbone=vgg19"])
    assert other.draws and other._from_outside() == [str(tmp_path)]  # the weights alone
    job = batch.job(3, "photos")
    monkeypatch.delenv("CDT_WEIGHTS")
    monkeypatch.chdir(tmp_path)
    downloaded = job.inputs()
    (tmp_path / "results of the run").touch()
    assert job.inputs() == downloaded
    monkeypatch.setenv("CDT_WEIGHTS", str(tmp_path))
    before = job.inputs()
    (tmp_path / "zebra" / "train" / "7.jpg").write_bytes(b"")
    with_one_more = job.inputs()
    assert with_one_more != before
    (tmp_path / "zebra" / "train" / "7.jpg").rename(tmp_path / "zebra" / "test" / "7.jpg")
    assert job.inputs() not in (before, with_one_more)
    (tmp_path / "zebra" / "test" / "7.jpg").unlink()
    assert job.inputs() == before
    changed = tmp_path / "zebra" / "train" / "1.jpg"
    os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))  # another picture, just as large
    assert job.inputs() != before
    before = job.inputs()
    monkeypatch.setenv("CDT_SKIP_BAD", "0")
    assert job.inputs() == before
    monkeypatch.setenv("CDT_SKIP_BAD", "1")
    assert job.inputs() != before
    monkeypatch.delenv("CDT_SKIP_BAD")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "zebra" / "train" / "more").symlink_to(tmp_path / "elsewhere")
    assert job.inputs() == before
    (tmp_path / "elsewhere" / "8.jpg").write_bytes(b"")
    assert job.inputs() not in (before, with_one_more)
    (tmp_path / "elsewhere" / "8.jpg").unlink()
    (tmp_path / "vgg19.pth").write_bytes(b"")
    assert job.inputs() not in (before, with_one_more)


def test_a_failed_notebook_names_cell_and_error_and_leaves_the_old_copy(notebooks, results, capsys):
    job = batch.job(4, "smoke")
    job.executed.parent.mkdir(parents=True)
    job.executed.write_text("the copy from before")
    with pytest.raises(batch.NotebookError, match=r"04_bad.py.*`limit = 0`: ZeroDivisionError: division by zero"):
        batch.run(job)
    assert "[04]   before\n" in capsys.readouterr().out
    assert job.executed.read_text() == "the copy from before"
    assert "ZeroDivisionError" in job.failed.read_text()
    assert not job.finished()
    assert not (results / "smoke" / "status.json").exists()


# What it was made with -----------------------------------------------------------------------------------


def test_commit_and_dirt(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    assert machine.commit(tmp_path) == "unknown"
    git("init", "-q")
    (tmp_path / "cdtlib").mkdir()
    (tmp_path / "cdtlib" / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = machine.commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.json").write_text("{}")
    assert machine.commit(tmp_path) == clean  # results do not decide results
    (tmp_path / "cdtlib" / "a.py").write_text("2")
    assert machine.commit(tmp_path) == clean + "+dirty"
    assert machine.commit(tmp_path / "cdtlib") == "unknown"  # inside someone else's clone


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.4, "0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (9000, "2 h 30 min")]
)
def test_durations(seconds, text):
    assert batch.duration(seconds) == text


@pytest.mark.parametrize(
    ("others", "text"),
    [([("CPU", 60.0)], "1 min 8 s (8 s on NVIDIA H200)"), ([], "8 s on NVIDIA H200")],
    ids=["a part", "all"],
)
def test_the_status_says_what_a_gpu_trained(others, text, notebooks, results):
    job = batch.job(3, "smoke")
    runs = [*others, ("NVIDIA H200", 5.0), ("NVIDIA H200", 3.0)]
    metrics = {"runs": [{"trained on": device, "training seconds": seconds} for device, seconds in runs]}
    (job.folder / "metrics").mkdir(parents=True)
    (job.folder / "metrics" / f"{job.stem}.json").write_text(json.dumps(metrics))
    job.executed.parent.mkdir()
    job.executed.touch()
    batch.note(job, 1.0, "0123456789ab")
    assert f"| 1 s | {text} |" in (job.folder / "status.md").read_text()


# The book's contents -------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A project with a book and two notebooks executed for the profile demo, one for smoke."""
    files = ["book/intro.md", "book/method.md", "results/smoke/status.md"]
    files += [f"results/demo/status.{ending}" for ending in ("md", "json", "json.lock")]
    files += [f"results/demo/notebooks/{name}-zebra-giraffe.ipynb" for name in ("01_data", "02_inversion")]
    for name in ("01_data-zebra-giraffe", "01_data-zebra-elephant", "02_inversion-zebra-giraffe.failed", "12_summary"):
        files.append(f"results/smoke/notebooks/{name}.ipynb")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"cells": []}) if name.endswith(".ipynb") else "")
    end = [{"file": "results/demo/notebooks/12_summary"}, {"file": "results/demo/status", "title": "Device"}]
    chapters = [f"results/demo/notebooks/{name}-zebra-giraffe" for name in ("01_data", "02_inversion", "03_deepest")]
    parts = [
        {"caption": "Method", "chapters": [{"file": "book/method"}]},
        {"caption": "Zoo", "chapters": [{"file": name} for name in chapters]},
        {"caption": "Photos", "chapters": [{"file": "results/photos/notebooks/01_data-zebra-horse"}]},
        {"caption": "End", "chapters": end},
    ]
    toc = {"format": "jb-book", "root": "book/intro", "parts": parts}
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    return tmp_path


def pages(toc):
    return [page["file"] for part in toc["parts"] for page in part["chapters"]]


def test_the_book_of_demo_leaves_out_what_was_not_run(tree):
    toc, missing = book.contents("demo", tree)
    assert pages(toc) == [
        "book/method",
        "results/demo/notebooks/01_data-zebra-giraffe",
        "results/demo/notebooks/02_inversion-zebra-giraffe",
        "results/demo/status",
    ]
    assert toc["parts"][-1]["chapters"] == [{"file": "results/demo/status", "title": "Device"}]
    assert missing == [
        "results/demo/notebooks/03_deepest-zebra-giraffe",
        "results/photos/notebooks/01_data-zebra-horse",
        "results/demo/notebooks/12_summary",
    ]


def test_the_book_of_another_profile_has_that_profiles_notebooks(tree):
    toc, missing = book.contents("smoke", tree)
    assert pages(toc) == [
        "book/method",
        "results/smoke/notebooks/01_data-zebra-elephant",
        "results/smoke/notebooks/01_data-zebra-giraffe",
        "results/smoke/notebooks/12_summary",
        "results/smoke/status",
    ]
    assert missing == ["results/smoke/notebooks/02_inversion-*", "results/smoke/notebooks/03_deepest-*"]
    assert [part["caption"] for part in toc["parts"]] == ["Method", "Zoo", "End"]


def executed(tmp_path, *extra, heading="# 01 · Data\n\nText"):
    """The source of an executed copy of a notebook whose source lies in `tmp_path`."""
    cells = [nbformat.v4.new_markdown_cell(heading), nbformat.v4.new_code_cell(HEADER.partition("\n")[2])]
    cells[1].metadata["tags"] = ["parameters"]
    code = nbformat.v4.new_code_cell("1 + 1")
    source = nbformat.v4.new_notebook(cells=[*cells, code])
    (tmp_path / "notebooks").mkdir(exist_ok=True)
    jupytext.write(source, tmp_path / "notebooks" / "01_data.py", fmt="py:percent")
    return nbformat.writes(nbformat.v4.new_notebook(cells=[*cells, *extra, code]))


def test_pages_of_notebooks_are_told_apart(tmp_path):
    seed = 'pair = ["polar bear", "seal"]\nseed = 1'
    given = nbformat.v4.new_code_cell(seed, metadata={"tags": ["injected-parameters"]})
    source = executed(tmp_path, given)
    page = json.loads(book.told_apart("results/photos/notebooks/01_data-polar bear-seal", source, tmp_path))
    assert page["cells"][0]["source"] == "# 01 · Data (photos, polar bear ↔ seal, seed 1)\n\nText"
    assert page["cells"][1]["metadata"]["tags"] == ["parameters", "remove-cell"]
    plain = executed(tmp_path)
    page = json.loads(book.told_apart("results/demo/notebooks/01_data-zebra-giraffe", plain, tmp_path))
    assert page["cells"][0]["source"] == "# 01 · Data\n\nText"
    assert page["cells"][1]["metadata"]["tags"] == ["parameters"]
    (tmp_path / "notebooks" / "01_data.py").write_text(HEADER + "\n# %%\n1 + 2\n")
    page = json.loads(book.told_apart("results/demo/notebooks/01_data-zebra-giraffe", plain, tmp_path))
    assert "Executed with an earlier version of `notebooks/01_data.py`." in page["cells"][0]["source"]
    (tmp_path / "results/demo/metrics").mkdir(parents=True)
    (tmp_path / "results/demo/metrics/01_data-zebra-giraffe.json").write_text('{"withdrawn": "A was trained wrongly."}')
    page = json.loads(book.told_apart("results/demo/notebooks/01_data-zebra-giraffe", plain, tmp_path))
    assert ":::{warning}\nA was trained wrongly.\n:::" in page["cells"][0]["source"]
    assert book.told_apart("book/intro", "# Text", tmp_path) == "# Text"


def test_contents_call_a_notebook_by_its_heading(tree):
    (tree / "results/demo/notebooks/01_data-zebra-giraffe.ipynb").write_text(executed(tree))
    toc, _ = book.contents("demo", tree)
    assert toc["parts"][1]["chapters"][0]["title"] == "01 · Data"
    assert "title" not in toc["parts"][1]["chapters"][1]


def test_a_book_of_results_that_lie_elsewhere_is_refused(tree, monkeypatch, tmp_path):
    monkeypatch.setenv("CDT_RESULTS", str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="the project's own results, not those in .*elsewhere: unset CDT_RESULTS"):
        book.build("demo", tree)
    refused = subprocess.run(["make", "own-results"], cwd=machine.ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "CDT_RESULTS is set" in refused.stderr
    monkeypatch.setenv("CDT_RESULTS", str(machine.ROOT / "results"))
    assert subprocess.run(["make", "own-results"], cwd=machine.ROOT).returncode == 0
