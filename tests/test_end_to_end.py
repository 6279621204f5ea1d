"""The whole job as a user runs it, at the profile smoke, in a copy of the project: batch, book, browser."""

import ast
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from cdtlib.machine import ROOT

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A browser that asks for nothing but the pages it is given
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Project:
    """A copy of the project, whose commands run with the interpreter of these tests."""

    def __init__(self, root: Path):
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".*", "_build", "__pycache__", "results", "photos"))
        for published in ("demo", "photos", "photos-gpu"):  # of which the book shows pictures
            folder = Path("results") / published
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("runs", "features"))
        self.root = root
        self.results = root / "results" / "smoke"
        # Nor what an outer `make test` hands on: an inner make would print the folders it enters and leaves.
        left_out = ("CDT_", "MAKE", "MFLAGS", "MPLBACKEND")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
        self.environment |= {"PYTHONPATH": str(root)}

    def start(self, *command, **options) -> subprocess.Popen:
        return subprocess.Popen(command, cwd=self.root, env=self.environment, text=True, **options)

    def reproduce(self, **options) -> subprocess.Popen:
        """`make reproduce PROFILE=smoke`, with the environment that is there instead of .venv."""
        return self.start("make", "reproduce", "PROFILE=smoke", f"PY={sys.executable}", "READY=", **options)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project after the batch was killed in its midst and the same command given again."""
    project = Project(tmp_path_factory.mktemp("copy") / "a project")
    batch = project.reproduce(start_new_session=True)
    while batch.poll() is None and not list(project.results.glob("runs/notebooks/*.json")):
        time.sleep(0.2)
    time.sleep(3)  # into the second notebook
    assert batch.poll() is None, "the batch ended after its first notebook"
    os.killpg(batch.pid, signal.SIGKILL)
    batch.wait()
    assert project.reproduce().wait() == 0
    return project


def test_every_notebook_was_executed_and_wrote_its_numbers(project):
    sources = {path.stem for path in (project.root / "notebooks").glob("[0-9][0-9]_*.py")}
    executed = {path: nbformat.read(path, as_version=4) for path in project.results.glob("notebooks/*.ipynb")}
    assert {path.stem.partition("-")[0] for path in executed} == sources
    for path, notebook in executed.items():
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"], path.name
        assert str(project.root) not in path.read_text(), f"{path.name} holds a path of this machine"
        assert path.stat().st_size < 2e6, f"{path.name} is larger than 2 MB"
        if "-" in path.stem:
            numbers = json.loads((project.results / "metrics" / f"{path.stem}.json").read_text())
            assert numbers["profile"] == "smoke"
    status = json.loads((project.results / "status.json").read_text())
    assert status["notebooks"].keys() == {path.stem for path in executed}


def test_a_second_batch_finds_everything_finished(project):
    written = {path: path.stat().st_mtime_ns for path in project.results.rglob("*.ipynb")}
    again = project.reproduce(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert output.count(": up to date") == len(written), output
    assert output.rstrip().endswith("Open _build/html/index.html in a browser."), output
    assert {path: path.stat().st_mtime_ns for path in project.results.rglob("*.ipynb")} == written
    for notebooks in ("05", "05,06"):  # in another company, too
        options = ["--cores", "1", "--config", "profile=smoke", f"notebooks={notebooks}"]
        again = project.start(sys.executable, "-m", "snakemake", *options, stderr=subprocess.PIPE)
        _, output = again.communicate()
        assert again.returncode == 0 and output.count(": up to date") == len(notebooks.split(",")), output
    assert {path: path.stat().st_mtime_ns for path in project.results.rglob("*.ipynb")} == written


def order(root):
    """What a notebook waits for, by their numbers, as the Snakefile says."""
    rules = (root / "Snakefile").read_text()
    return ast.literal_eval(re.search(r"^AFTER = (\{.*?\})$", rules, re.MULTILINE | re.DOTALL)[1])


def test_a_training_that_several_notebooks_need_has_one_that_comes_first(project):
    """So that no job of a cluster waits for the training of another; 03 and 04 may, for the inverters of 02, and 06 and
    08 for those of level 2, to which no profile that is meant for a cluster goes on."""
    after, before = order(project.root), {"01": set()}
    for number in sorted(after):
        before[number] = {n for direct in after[number] for n in (direct, *before[direct])}
    users = {}
    for file in (project.results / "metrics").glob("[0-9]*.json"):
        for run in json.loads(file.read_text())["runs"]:
            users.setdefault(run["run"], set()).add(file.name[:2])
    shared = {run: numbers for run, numbers in users.items() if len(numbers) > 1}
    assert {"02", "03", "04", "05", "08", "09"} <= set.union(*shared.values())
    for run, numbers in shared.items():
        if numbers == {"06", "08"}:
            assert "-level2-" in run
            continue
        together = numbers - {"03", "04"} if run.startswith("inverter") else numbers
        assert any(together - {one} <= {n for n in before if one in before[n]} for one in together), (run, numbers)


def test_on_a_cluster_every_notebook_is_a_job_after_those_that_it_needs(project, tmp_path):
    """The Slurm profile's graph, dry: notebooks of two pairs and seeds, the summary last, and what each asks for."""
    for animal in ("zebra", "giraffe", "teddy bear"):
        (tmp_path / "photos" / animal).mkdir(parents=True)
        for i in range(100):  # of which enough are held out
            (tmp_path / "photos" / animal / f"{i}.jpg").touch()
    hints = (project.root / "notebooks" / "slurm" / "config.yaml").read_text()
    assert hints.count("\n  # slurm_") == 2
    (tmp_path / "slurm").mkdir()  # with what is offered there as a comment
    (tmp_path / "slurm" / "config.yaml").write_text(
        hints.replace("\n  # slurm_", "\n  slurm_").replace('"..."', "animals")
    )
    options = ["--workflow-profile", str(tmp_path / "slurm"), "-n", "-p", "--config", "profile=paper"]
    options += ["pairs=zebra-giraffe,zebra-teddy bear", "seeds=0,7"]
    where = {"CDT_RESULTS": str(tmp_path), "CDT_PHOTOS": str(tmp_path / "photos")}
    project.environment |= where  # where nothing is finished
    plan = project.start(sys.executable, "-m", "snakemake", *options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for name in where:
        del project.environment[name]
    output, _ = plan.communicate()
    assert plan.returncode == 0, output
    _, *parts = re.split(r"^rule (\w+):$", output, flags=re.MULTILINE)
    jobs = dict(zip(parts[::2], parts[1::2], strict=True))
    stems = sorted(path.stem for path in (project.root / "notebooks").glob("[0-9][0-9]_*.py"))
    pairs = {"zebra_giraffe": "zebra-giraffe", "zebra_teddy_bear": "zebra-teddy bear"}
    pairs |= {f"{name}_seed7": f"{pair}-seed7" for name, pair in pairs.items()}
    wanted = {f"{stem}_{pair}" for stem in stems if stem != "12_summary" for pair in pairs} | {"12_summary", "all"}
    assert jobs.keys() == wanted
    after = order(project.root)
    for stem, pair in itertools.product(stems[:-1], pairs):
        job = jobs[f"{stem}_{pair}"]
        waits = set(re.findall(r"/notebooks/([^/]+)\.json", job.partition("output:")[0]))
        assert waits == {f"{s}-{pairs[pair]}" for s in stems if s[:2] in after.get(stem[:2], [])}, stem
        assert "mem_mb=128000, " in job and "gpu=1" in job, stem
        assert f"runtime={120 if stem.startswith('01') else 2880}" in job, stem
        assert f"{stem}-{pairs[pair]}.json" in jobs["12_summary"]
        assert f"--seed {7 if 'seed7' in pair else 0}" in job
        assert "slurm_account=animals" in job and "slurm_partition=animals" in job and "cpus_per_task=4" in job
    assert "mem_mb=4000, " in jobs["12_summary"] and "gpu=0" in jobs["12_summary"]
    assert "--pair zebra 'teddy bear'" in jobs["04_cascade_zebra_teddy_bear"]
    assert "OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} " in jobs["04_cascade_zebra_giraffe"]


@pytest.mark.parametrize(
    "given, complaint", [("seed=1", "--config has no 'seed'"), ("seeds=0,x", "seeds must be whole numbers")]
)
def test_the_batch_refuses_what_it_does_not_know(project, given, complaint):
    options = ["-n", "--config", "profile=smoke", given]
    plan = project.start(sys.executable, "-m", "snakemake", *options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = plan.communicate()
    assert plan.returncode != 0 and complaint in output, output


def test_to_see_what_would_run_changes_nothing(project):
    record = project.results / "runs" / "notebooks" / "01_data_and_backbone-zebra-giraffe.json"
    losses = project.root / "cdtlib" / "losses.py"
    source, was = losses.read_text(), record.read_text()

    def plan() -> str:
        command = (sys.executable, "-m", "snakemake", "-n", "--config", "profile=smoke", "notebooks=01")
        return project.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).communicate()[0]

    losses.write_text(f"{source}\n# a trial\n")
    assert "rule 01_data_and_backbone_zebra_giraffe" in plan()
    assert record.read_text() == was
    losses.write_text(source)
    assert "rule 01" not in plan()


def test_two_notebooks_at_once_train_no_run_twice(project, tmp_path):
    command = (sys.executable, "-m", "cdtlib.cli", "run", "--profile", "smoke", "--results", str(tmp_path))
    both = [project.start(*command, number) for number in ("03", "05")]
    assert [run.wait() for run in both] == [0, 0]
    files = [json.loads(file.read_text()) for file in (tmp_path / "smoke" / "metrics").glob("*.json")]
    trained = [{run["run"] for run in file["runs"] if not run["reused"]} for file in files]
    used = [{run["run"] for run in file["runs"]} for file in files]
    assert not trained[0] & trained[1] and trained[0] | trained[1] == used[0] | used[1]
    assert any("level5" in run for run in used[0] & used[1])  # they do share some


def test_the_benchmark_enters_its_numbers_into_the_status_page(project):
    options = "--profile smoke --steps 3 --repeats 1 --pictures 4 --grow 8 --memory 4 --processes 1 2 --publish".split()
    assert project.start(sys.executable, "benchmarks/benchmark.py", *options).wait() == 0
    found = json.loads((project.root / "results" / "benchmarks" / "smoke.json").read_text())["found"]
    assert [entry["batch"] for entry in found["Translating, the backbone's forward pass included"]] == [1, 32]
    for entry in found["Training"]:
        assert entry["seconds"] > 0 and entry["TFLOP"] > 0 and entry["of the peak"] > 0
    page = (project.results / "status.md").read_text()
    assert page.startswith("# Status") and "## What it costs" in page and "| translator-a-b-level3 | 2 |" in page


def test_plain_papermill_runs_a_converted_notebook(project, tmp_path):
    converted, executed = tmp_path / "01.ipynb", tmp_path / "01-executed.ipynb"
    convert = project.start(
        sys.executable, "-m", "jupytext", "--to", "ipynb", "notebooks/01_data_and_backbone.py", "-o", str(converted)
    )
    assert convert.wait() == 0
    options = ["-p", "profile", "smoke", "--cwd", ".", "--no-progress-bar"]
    run = project.start(sys.executable, "-m", "papermill", str(converted), str(executed), *options)
    assert run.wait() == 0
    assert "error" not in [o.output_type for c in nbformat.read(executed, 4).cells for o in c.get("outputs", [])]


def is_local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))


def test_every_page_of_the_book_in_a_browser(project):
    """No failed request, none that leaves the book, no console error, every image loaded, no page too wide."""
    browser_path = os.environ.get("CDT_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        message = f"no browser: install chromium, or name one in CDT_BROWSER (looked for {', '.join(BROWSERS)})"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    html = project.root / "_build" / "html"
    pages = [page for page in sorted(html.rglob("*.html")) if "_static" not in page.parts]
    assert len(pages) > len(list(project.results.glob("notebooks/*.ipynb")))
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=BROWSER_OPTIONS, timeout=300_000)
        for width in (1400, 390):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.set_default_timeout(300_000)
            where = ""

            def fault(text):
                faults.append(f"{where} at {width} px: {text}")  # noqa: B023, read while the page loads

            tab.on("requestfailed", lambda request: fault(f"failed request: {request.url}"))
            tab.on("request", lambda request: is_local(request.url) or fault(f"asks for {request.url}"))
            tab.on("pageerror", lambda error: fault(f"error: {error}"))
            tab.on("console", lambda message: message.type == "error" and fault(f"console: {message.text}"))
            for page in pages:
                where = str(page.relative_to(html))
                tab.goto(page.as_uri())
                tab.wait_for_load_state("networkidle")
                missing = tab.evaluate(
                    "Array.from(document.images).filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
                )
                for source in missing:
                    fault(f"image not loaded: {source}")
                if (wide := tab.evaluate("document.documentElement.scrollWidth")) > width:
                    fault(f"the page is {wide} px wide")
        browser.close()
    assert not faults, "\n".join(faults)
