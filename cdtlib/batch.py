"""Notebooks as a batch: checked before they start, run with papermill, kept only when they succeeded.

A notebook of the project is `notebooks/NN_name.py` (jupytext py:percent) with one cell tagged `parameters`.
Executed for a profile and a pair it becomes `results/<profile>/notebooks/NN_name-a-b.ipynb`, with another seed than
0 `NN_name-a-b-seed1.ipynb`; a notebook whose parameters name no pair (the summary) becomes `NN_name.ipynb`.
`results/<profile>/status.json` and `status.md` tell when, where and with what each was run.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from filelock import FileLock

from cdtlib import machine, settings
from cdtlib.files import DamagedFile, make_folder, sha256, walk, write_json, write_text
from cdtlib.machine import ROOT, short

NOTEBOOKS = ROOT / "notebooks"


class NotebookError(RuntimeError):
    """A notebook failed; the message names the cell and the error."""


# ---------------------------------------------------------------------------------------------------------
# Notebooks and their parameters


def find(name: str | int) -> Path:
    """The source of the notebook with this number (3, "03"), name ("deepest_translation") or both.

    Raises ValueError, with the notebooks there are, if none has that name.
    """
    there = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    wanted = Path(str(name)).stem
    for path in there:
        number, _, title = path.stem.partition("_")
        if wanted in (path.stem, title, number, number.lstrip("0")):
            return path
    names = ", ".join(path.stem for path in there) or f"none in {NOTEBOOKS}"
    raise ValueError(f"There is no notebook {str(name)!r}. There are: {names}.")


def parameters(notebook: Path) -> dict[str, Any]:
    """The names and default values in the notebook's one cell tagged `parameters`.

    Raises ValueError if there is no such cell, more than one, or anything in it but `name = literal`.
    """
    cells = [
        cell
        for cell in jupytext.read(notebook).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise ValueError(
            f'{notebook.name} has {len(cells)} cells tagged "parameters" and must have one, '
            'which begins with: # %% tags=["parameters"]'
        )
    values = {}
    for statement in ast.parse(cells[0].source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    values[name] = ast.literal_eval(value)
                    continue
                except ValueError:
                    pass
        raise ValueError(
            f"{notebook.name}: the parameters cell may only hold `name = literal value`, "
            f"not `{ast.unparse(statement)}`."
        )
    return values


@dataclass(frozen=True)
class Job:
    """One notebook with the values of all its parameters, checked."""

    notebook: Path
    values: dict[str, Any]  # every parameter of the notebook
    results: Path  # the folder that holds one folder per profile

    def __str__(self) -> str:
        about = [self.notebook.stem, self.profile, *([" and ".join(self.pair)] if self.pair else [])]
        about += [f"seed {self.seed}"] if self.seed else []
        about += self.changes
        return f"[{self.number}] {' · '.join(about)}"

    @property
    def number(self) -> str:
        return self.notebook.stem[:2]

    @property
    def profile(self) -> str:
        return self.values["profile"]

    @property
    def pair(self) -> tuple[str, str] | None:
        return tuple(self.values["pair"]) if "pair" in self.values else None

    @property
    def seed(self) -> int:
        return self.values.get("seed", 0)

    @property
    def changes(self) -> list[str]:
        return self.values.get("changes", [])

    @property
    def settings(self) -> settings.Settings:
        """Raises ValueError for values that are refused."""
        return settings.load(self.profile, self.pair, self.seed, **settings.overrides(self.changes))

    @property
    def stem(self) -> str:
        """The name, without ending, of all that this job leaves."""
        return settings.stem(self.notebook.stem, self.pair or (), self.seed, self.changes)

    @property
    def folder(self) -> Path:
        return self.results / self.profile

    @property
    def executed(self) -> Path:
        return self.folder / "notebooks" / f"{self.stem}.ipynb"

    @property
    def failed(self) -> Path:
        return self.folder / "notebooks" / f"{self.stem}.failed.ipynb"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics" / f"{self.stem}.json"

    @property
    def record(self) -> Path:
        """Says that the job was run, and on what inputs. It lies with the trainings: without these, as in a fresh
        clone that comes with executed copies, the notebook is run."""
        return self.folder / "runs" / "notebooks" / f"{self.stem}.json"

    def inputs(self) -> str:
        """A hash of what decides what the notebook shows: its source and parameters, the library, the photos and
        weights in use by name, size and time of change; for a notebook without a pair also the numbers of the others.
        Versions of other libraries do not count."""
        parts = [self.notebook.read_bytes(), json.dumps(self.values, sort_keys=True).encode()]
        package = ROOT / "cdtlib"
        sources = [file for kind in ("py", "safetensors", "json") for file in package.rglob(f"*.{kind}")]
        if not self.pair:
            sources += self.metrics.parent.glob("[!.]*.json")
        parts += [f"{p.name} {sha256(p)}".encode() for p in sorted(sources)]
        parts += [_listing(place).encode() for place in self._from_outside()]
        if self._from_outside() and machine.skips_bad():
            parts.append(b"skip bad")
        return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    @property
    def draws(self) -> bool:
        """Whether its pictures are drawn."""
        return self.settings.data.source == "zoo"

    @property
    def weighs(self) -> bool:
        """Whether it uses networks whose weights do not come with the project."""
        used = (self.settings.backbone, self.settings.backbones.alexnet)
        return not self.draws or not all(name.startswith("embedded") for name in used)

    def _from_outside(self) -> list[str | Path]:
        """The weights and the folders of photos that the job uses, as far as they are given."""
        photos, weights = (os.environ.get(name) for name in ("CDT_PHOTOS", "CDT_WEIGHTS"))
        if not self.pair:
            return []
        folders = [Path(photos, name) for name in self.pair] if photos and not self.draws else []
        return ([weights] if weights and self.weighs else []) + folders

    def outcome(self) -> dict[str, str | None]:
        """What `record` holds: hashes of the inputs, the executed copy and the numbers (None if it wrote none)."""
        numbers = sha256(self.metrics) if self.metrics.exists() else None
        return {"inputs": self.inputs(), "executed": sha256(self.executed), "metrics": numbers}

    def finished(self) -> bool:
        """Whether this machine ran the job on these very inputs, and copy and numbers are still what it wrote."""
        try:
            return json.loads(self.record.read_text()) == self.outcome()
        except (OSError, ValueError):
            return False


def job(
    notebook: str | int,
    profile: str | None = None,
    pair: Sequence[str] | None = None,
    seed: int | None = None,
    changes: Sequence[str] | None = None,
    results: str | Path | None = None,
) -> Job:
    """A checked job. What is None has the value that the notebook gives it.

    `changes` to the profile's settings are as `cdtlib.settings.overrides` takes them. `results`: the folder for
    results; None for CDT_RESULTS or else the project's `results`.
    Raises ValueError for anything that the notebook or the settings do not accept, FileNotFoundError for photos that
    are not there, before anything is run.
    """
    source = find(notebook)
    defaults = parameters(source)
    if pair is None and profile is not None:
        pair = settings.PAIR
    given = {"profile": profile, "pair": pair and list(pair), "seed": seed, "changes": changes and list(changes)}
    given = {name: value for name, value in given.items() if value is not None}
    if "pair" not in defaults:
        given.pop("pair", None)  # so that one command line serves all notebooks
    for name, value in given.items():
        if name not in defaults:
            raise ValueError(f"{source.name} has no parameter {name!r}. It has: {', '.join(defaults)}.")
        if not _fits(value, defaults[name]):
            kind = type(defaults[name]).__name__
            raise ValueError(f"{source.name}: {name} must be of type {kind}, like {defaults[name]!r}, not {value!r}.")
    made = Job(source, defaults | given, Path(results or machine.results_root()).resolve())
    checked = made.settings
    if checked.data.source == "photos" and made.pair:
        from cdtlib.experiment import photo_folders  # seconds to import

        photo_folders(checked)
    return made


def _fits(value: Any, default: Any) -> bool:
    """Whether `value` has the type of `default`; a whole number fits where a fraction is expected."""
    if isinstance(default, float) and type(value) is int:
        return True
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and all(_fits(v, default[0]) for v in value if default)
    return default is None or type(value) is type(default)


def _listing(path: str | Path) -> str:
    """Names below `path`, sizes and times of change of all its files: a cheap stand-in for their contents."""
    if not Path(path).exists():
        return ""
    path = Path(path)
    files = [path] if path.is_file() else sorted(Path(parent, name) for parent, names in walk(path) for name in names)
    about = ((p.relative_to(path.parent), p.stat()) for p in files if p.is_file())
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in about)


# ---------------------------------------------------------------------------------------------------------
# Running


def run(job: Job, force: bool = False) -> bool:
    """Run the job unless it is finished (`force`: even then). Returns whether it was run.

    Progress goes to standard output, each line with the notebook's number. Raises NotebookError if a cell
    fails; an executed copy from before stays as it was, and the failed one lies beside it as `.failed.ipynb`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if not force and job.finished():
        print(f"{job}: up to date", flush=True)
        return False
    print(job, flush=True)
    inputs, commit = job.inputs(), machine.commit()  # as they are now, not as they are when it is finished
    make_folder(job.executed.parent)
    _status(job)  # a damaged one would be found only after the work
    notebook = jupytext.read(job.notebook)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    shown = _Prefixed(f"[{job.number}] ")
    defaults = parameters(job.notebook)
    changed = {name: value for name, value in job.values.items() if value != defaults[name]}
    headings = _headings(notebook, shift=bool(changed))
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cdt-") as temporary, _kernel(Path(temporary), job.results):
        source, target = Path(temporary, "source.ipynb"), Path(temporary, "executed.ipynb")
        nbformat.write(notebook, source)
        try:
            executed = papermill.execute_notebook(
                source,
                target,
                parameters=changed,
                cwd=ROOT,
                progress_bar=False,
                extra_arguments=["--log-level=CRITICAL"],  # the kernel warns of TCP and of its own end
                stdout_file=shown,
                stderr_file=shown,
                on_cell_start=lambda cell, cell_index: shown.heading(headings.get(cell_index)),
            )
        except (PapermillExecutionError, DeadKernelError) as error:
            shown.close()
            if target.exists():
                shutil.copyfile(target, job.failed)
            raise NotebookError(_failure(job, error)) from None
    shown.close()
    seconds = time.monotonic() - start

    write_text(job.executed, nbformat.writes(clean(executed)) + "\n")
    job.failed.unlink(missing_ok=True)
    note(job, seconds, commit)
    write_json(job.record, job.outcome() | {"inputs": inputs})
    print(f"{job}: finished in {duration(seconds)}", flush=True)
    return True


@contextmanager
def _kernel(folder: Path, results: Path) -> Iterator[None]:
    """The environment in which a notebook runs: the kernel `python3` is this very interpreter with this
    very project, whatever kernels, IPython profiles and start-up files the user has; progress comes in lines."""
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))

    def first(path: Path, name: str) -> str:
        return os.pathsep.join(filter(None, [str(path), os.environ.get(name)]))

    changed = {
        "JUPYTER_PATH": first(folder, "JUPYTER_PATH"),
        "PYTHONPATH": first(ROOT, "PYTHONPATH"),
        "IPYTHONDIR": str(folder / "ipython"),
        "CDT_RESULTS": str(results),
        "CDT_PROGRESS": "lines",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm in libraries, without widgets
        # Without these, glibc gives freed memory back after every step and asks for it again: a tenth of the time.
        "MALLOC_MMAP_THRESHOLD_": "1000000000",
        "MALLOC_TRIM_THRESHOLD_": "1000000000",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures go into the notebook
    }
    for name in ("CDT_PHOTOS", "CDT_WEIGHTS"):  # the kernel may run in another folder than the caller
        if os.environ.get(name):
            changed[name] = str(Path(os.environ[name]).resolve())
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _headings(notebook: nbformat.NotebookNode, shift: bool) -> dict[int, str]:
    """The heading under which each cell stands, by the cell's place in the executed notebook.

    `shift`: papermill puts a cell with the changed parameters after the one tagged `parameters`.
    """
    headings, heading, injected = {}, "", 0
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("#"):
                    heading = line.lstrip("#").strip()
        headings[index + injected] = heading
        if shift and "parameters" in cell.metadata.get("tags", []):
            injected = 1
    return headings


class _Prefixed:
    """A file that prints whole lines, each with a prefix, to standard output."""

    def __init__(self, prefix: str):
        self.prefix, self.rest, self.last = prefix, "", ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            print(f"{self.prefix}  {line}", flush=True)

    def heading(self, heading: str | None) -> None:
        if heading and heading != self.last:
            self.last = heading
            print(f"{self.prefix}{heading}", flush=True)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self.rest:
            self.write("\n")


def _failure(job: Job, error: Exception) -> str:
    """Which cell failed with what error, and where the notebook as far as it came can be seen."""
    if not hasattr(error, "ename"):
        what = "its kernel died, perhaps for want of memory"
    else:
        line = error.source.strip().splitlines()[0] if error.source.strip() else ""
        what = f"In [{error.exec_count}], which begins with `{line}`: {error.ename}: {error.evalue}"
    seen = f"\nThe notebook as far as it came: {short(job.failed)}" if job.failed.exists() else ""
    return f"{job.notebook.name} failed. {what}{seen}"


#: A line of a run's progress (`cdtlib.training.run`): of hours of training there are hundreds. Its last line stays.
_PROGRESS = re.compile(r"^.+ \d+/\d+ \d+% \S+ left.*\n", re.MULTILINE)


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The executed notebook without what differs between runs or machines: times, paths, random ids, progress."""
    kept = {"kernelspec", "language_info"}
    notebook.metadata = {name: value for name, value in notebook.metadata.items() if name in kept}
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        for name in ("papermill", "execution", "lines_to_next_cell"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)  # papermill leaves an empty list
        outputs = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = _PROGRESS.sub("", _without_paths(output.text))
                if not output.text:
                    continue
                if outputs and outputs[-1].output_type == "stream" and outputs[-1].name == output.name:
                    outputs[-1].text += output.text
                    continue
            elif "text/plain" in output.get("data", {}):
                output.data["text/plain"] = _without_paths(output.data["text/plain"])
            outputs.append(output)
        if cell.cell_type == "code":
            cell.outputs = outputs
    return notebook


def _without_paths(text: str) -> str:
    for path, name in ((sys.prefix, ".venv"), (str(ROOT), "."), (str(Path.home()), "~")):
        if len(path) > 1:
            text = text.replace(path, name)
    return text


# ---------------------------------------------------------------------------------------------------------
# Status


def _status(job: Job) -> dict[str, Any]:
    """What the profile's status.json holds. Raises DamagedFile."""
    path = job.folder / "status.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {"profile": job.profile, "notebooks": {}}
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged ({error}): mend it, or delete it to begin a new one") from error


def note(job: Job, seconds: float, commit: str) -> None:
    """Enter a finished job into the profile's status.json and status.md; others may do so at the same time."""
    path = job.folder / "status.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        status = _status(job)
        status["versions"] = machine.versions()
        status["notebooks"][job.stem] = {
            "seconds": round(seconds, 1),
            **_training(job),
            "finished": datetime.now(UTC).date().isoformat(),
            "device": machine.device(),
            "cpus": machine.cpus(),
            "commit": commit,
        }
        there = {p.stem for p in job.executed.parent.glob("*.ipynb")}
        status["notebooks"] = {stem: status["notebooks"][stem] for stem in sorted(status["notebooks"]) if stem in there}
        write_json(path, status)
        write_status(path)


def write_status(path: Path) -> None:
    """Write status.md beside a status.json, with what `benchmarks/benchmark.py --publish` found at its end."""
    costs = path.parent.parent / "benchmarks" / "benchmarks.md"
    page = status_page(json.loads(path.read_text()))
    write_text(path.with_suffix(".md"), page + ("\n" + costs.read_text() if costs.exists() else ""))


def _training(job: Job) -> dict[str, Any]:
    """The time of all trainings that the notebook rests on, whenever they took place (None if on none), and what part
    of it was spent on GPUs, by name."""
    try:
        runs = json.loads(job.metrics.read_text())["runs"]
    except (OSError, KeyError):
        runs = []
    gpus: dict[str, float] = {}
    for run in runs:
        if run["trained on"] not in ("CPU", None):
            gpus[run["trained on"]] = round(gpus.get(run["trained on"], 0.0) + run["training seconds"], 1)
    whole = round(sum(run["training seconds"] for run in runs), 1) if runs else None
    return {"training_seconds": whole} | ({"on_gpus": gpus} if gpus else {})


def status_page(status: dict[str, Any]) -> str:
    """The book's page on what was run when, where, for how long and with what, as Markdown."""

    def training(entry: dict[str, Any]) -> str:
        whole, on_gpus = entry["training_seconds"], entry.get("on_gpus", {})
        gpus = ", ".join(f"{duration(seconds)} on {gpu}" for gpu, seconds in on_gpus.items())
        if [whole] == [*on_gpus.values()]:  # all on one kind
            return gpus
        return duration(whole) + (f" ({gpus})" if gpus else "")

    def cores(number: int) -> str:
        return f"{number} core{'s' * (number > 1)}"

    rows = "\n".join(
        f"| {stem} | {duration(entry['seconds'])} | {training(entry)} "
        f"| {entry['finished']} | {entry['device']}, {cores(entry['cpus'])} | `{entry['commit']}` |"
        for stem, entry in status["notebooks"].items()
    )
    versions = "\n".join(f"| {name} | {value} |" for name, value in status["versions"].items())
    return f"""# Status: {status["profile"]}

What was run for this book (profile `{status["profile"]}`). A notebook finds the trainings that are already
there and trains those that are not: *time* is that of its last execution, *training* that of all trainings
it rests on, whenever they took place, with what part of it a GPU did. `+dirty` marks sources that differed from the
commit. `cdt run` writes this page.

| notebook | time | training | date | device | commit |
|---|--:|--:|---|---|---|
{rows}

| software (of the last execution) | version |
|---|---|
{versions}
"""


def duration(seconds: float | None) -> str:
    """`seconds` in the unit that suits: "48 s", "12 min 5 s", "2 h 40 min"; "–" for None."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
