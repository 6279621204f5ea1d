"""A run: one training that is found if it is finished, resumed if it was interrupted, trained if it is new::

    with Run("translator-5-zebra-giraffe", settings, inputs={"a": features_a.fingerprint}, root=root) as run:
        g_b = Translator(...)                          # the same initial weights every time, see below
        optimizer = torch.optim.Adam(g_b.parameters())
        run.track(g_b=g_b, optimizer=optimizer)        # restores them if there is something to restore
        for step in run.steps(settings.steps):         # 0-based; starts after the last checkpoint
            ...                                        # the equations, in the paper's order
            run.log(critic=critic_loss, cycle=cycle_loss)

The run's folder is `root/<name>-<id>`; the id is a hash of name, settings and inputs: all that is asked for. The
code is no part of it: what an older version has trained is found, and done.json says which version that was. It holds::

    settings.json         name, settings and inputs, to read
    log.jsonl             a line every few steps: step, seconds, means of the values since the last line
    checkpoint-<step>.pt  everything tracked after <step> steps; only the last, and none in a finished run
    state.json            which checkpoint counts, with its SHA-256
    weights.safetensors   the weights of the tracked modules, once the run is finished, but for those that only its
                          training needs (`track_training`)
    done.json             steps, seconds, SHA-256 of the weights and what trained them; its presence is what "finished"
                          means

Random numbers. On entering the context (so before modules are built), at the start of every step, and after
the last step, the global generators of torch, numpy and python are seeded from the settings' `seed` (0 if
they have none), the run's id and the moment. A step therefore does the same after a resume as in an
undisturbed run, with no generator state to save, and what follows the run is the same whether it was trained
or found. It asks one thing of the loop: **what a step does may depend on the step's number, on tracked
objects and on the global generators, on nothing else**. Draw a batch's indices inside the step
(`torch.randint`); do not carry an iterator or a generator of your own from step to step, unless it has
`state_dict` and `load_state_dict` and is tracked. On the CPU, with the same number of threads, a resumed run
then ends bit-identical to an undisturbed one.

Several processes (`cdtlib.processes`). Under torchrun each of them enters the run and takes every step. Before
each step of a tracked optimizer its gradients are averaged over the processes, logged values are averaged for each
line, and the first process alone holds the lock, writes and shows progress: what is stored is as one process stores it,
and can be resumed by any number. A loop takes part by passing what it draws for a batch through `processes.share`.
"""

import hashlib
import io
import json
import math
import os
import platform
import random
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import safetensors.torch
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from cdtlib import files, machine, processes
from cdtlib.files import DamagedFile

#: Seconds of training between two checkpoints, unless CDT_CHECKPOINT_SECONDS or the caller says otherwise.
CHECKPOINT_SECONDS = 60.0

#: Seconds that a shared disk is given to show the other processes what the first one has written.
SEEN_SECONDS = 30.0

#: Seconds between two lines of progress where there is no terminal to draw a bar in.
PROGRESS_SECONDS = 10.0

_RESERVED = ("step", "seconds")  # columns of the log that are not logged values


class NonFiniteLoss(RuntimeError):
    """A logged value or a parameter is NaN or infinite; the last checkpoint, from before it, is kept."""


class Run:
    """One training with its settings, log, checkpoints and weights (see the module's text for the whole).

    :param name: what is trained, readable; the first part of the folder's name.
    :param settings: a dict or a pydantic model of plain values: everything that determines the result, the number of
        steps and the seed (under "seed") included. TypeError or ValueError for what JSON cannot hold.
    :param inputs: what the run is trained on, by name: ids of other runs, fingerprints of data.
    :param root: the folder that holds the runs.
    :param device: recorded (see `trained_on`), and offered as `run.device`.
    :param log_every: steps between two lines of the log; by default a 200th of all steps, but at least 10.
    :param checkpoint_seconds: seconds of training between checkpoints; 0 makes one at every step. The environment
        variable CDT_CHECKPOINT_SECONDS takes precedence. The last step always makes a checkpoint.

    Attributes: `id` (12 hexadecimal digits: what other runs name as their input), `folder`, `device`,
    `reused` (it was found finished, nothing is trained), `seconds` (of training, over all attempts: on a CPU those
    that its cores computed, so that what else the machine does counts as little as possible; on a GPU the clock's; of
    several processes, those of the first).

    The context holds a lock on the folder. A second process that asks for the same run waits, and then finds
    it finished.

    Environment: CDT_PROGRESS is `bar`, `lines` (one every 10 seconds) or `none`; without it, a bar in a
    terminal or notebook, else lines. papermill cannot be told from an interactive notebook, so a batch sets
    `lines`.

    Raises DamagedFile if a file of the run is truncated, altered or missing. Nothing is retrained silently.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any] | BaseModel,
        inputs: Mapping[str, str] | None = None,
        root: str | Path = "runs",
        device: str | torch.device = "cpu",
        log_every: int | None = None,
        checkpoint_seconds: float | None = None,
    ):
        if not name or name.startswith(".") or re.search(r"[/\\\0]", name):
            raise ValueError(f"a run's name is part of a folder's: {name!r} is empty, hidden or has a slash")
        if log_every is not None and log_every < 1:
            raise ValueError(f"log_every is a number of steps, at least 1, not {log_every}")
        self.name = name
        self.device = torch.device(device)
        self.reused = False
        self.seconds = 0.0

        settings = _plain(settings, "settings")
        self._record = {"name": name, "settings": settings, "inputs": _plain(inputs or {}, "inputs")}
        self._seed = settings.get("seed", 0)
        canonical = json.dumps(self._record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.id = hashlib.sha256(canonical.encode()).hexdigest()[:12]
        self.folder = Path(root) / f"{name}-{self.id}"

        self._log_every = log_every
        self._checkpoint_seconds = _checkpoint_seconds(checkpoint_seconds)
        self._lock = filelock.FileLock(f"{self.folder}.lock")
        self._progress = _Progress(name)
        self._tracked: dict[str, Any] = {}
        self._results: dict[str, nn.Module] = {}  # those of the tracked whose weights are kept
        self._done: dict | None = None  # the content of done.json
        self._state: dict | None = None  # the content of state.json
        self._checkpoint: dict | None = None  # the checkpoint's content, once read
        self._step: int | None = None  # the step in progress
        self._entered = False  # whether the context is open
        self._begun = False  # whether steps() was called
        self._sums: dict[str, Tensor | float] = {}  # of the values logged since the last line
        self._counts: dict[str, int] = {}
        self._checked = 0  # the number of steps whose logged values are known to be finite

    # ---- the context -------------------------------------------------------------------------------------

    def __enter__(self) -> "Run":
        # What is there of the run is for one process to find out, and for all to know.
        self._done, self._state = processes.first(self._open)
        try:
            self._check_shared()
        except BaseException:
            self._lock.release()
            raise
        self.reused = self._done is not None
        self.seconds = (self._done or self._state or {"seconds": 0.0})["seconds"]
        self._entered = True
        self._commit = "" if self.reused else machine.commit()  # now: at the end the sources may be others
        self._seed_all("init")
        return self

    def __exit__(self, *_) -> None:
        self._entered, self._step = False, None
        self._progress.close()
        self._lock.release()

    def _open(self) -> tuple[dict | None, dict | None]:
        """Take the lock; the contents of done.json and of state.json, as far as there is one that counts."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            self._progress.say(f"{self.name}: another process is training this run; waiting for it")
            self._lock.acquire(poll_interval=0.2)
        try:
            return self._find()
        except BaseException:
            self._lock.release()
            raise

    def _find(self) -> tuple[dict | None, dict | None]:
        """Find out what there is of the run, and sweep up what a killed process left behind."""
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.glob(f"{files.TEMPORARY}*"):
            leftover.unlink()

        if self._path("settings.json").exists():
            if self._read_json("settings.json", ()) != self._record:
                raise self._damaged("settings.json", "it is not what the run's id was computed from")
        else:
            files.write_json(self._path("settings.json"), self._record)

        if self._path("done.json").exists():
            done = self._read_json("done.json", ("steps", "seconds", "sha256", "log_sha256"))
            self._remove_checkpoints()
            return done, None
        if self._path("state.json").exists():
            return None, self._read_json("state.json", ("step", "checkpoint", "sha256", "seconds"))
        if self._path("weights.safetensors").exists():  # they are written between state.json and done.json
            raise self._damaged("done.json", "it is missing")
        return None, None

    def _check_shared(self) -> None:
        """Refuse a folder that some processes do not see: what the first one writes is for all to read."""
        if processes.world() == 1:
            return
        until = time.monotonic() + SEEN_SECONDS
        while not (seen := self._path("settings.json").exists()) and time.monotonic() < until:
            time.sleep(0.2)
        seen_by_all = processes.mean(torch.tensor(float(seen))) == 1

        def refuse() -> None:
            if not seen_by_all:
                raise ValueError(
                    f"{self.folder.parent}: some of the {processes.world()} processes do not see there what the first "
                    "one has written. Give all machines one results folder, on a disk that they share"
                )

        processes.first(refuse)

    # ---- what the training loop uses ---------------------------------------------------------------------

    def track(self, **objects: Any) -> None:
        """Name what the run trains: modules, optimizers, anything with `state_dict` and `load_state_dict`. The modules'
        weights are what a finished run keeps.

        Restores them at once: the modules' weights from a finished run (whose other objects are left alone),
        everything from the last checkpoint of an interrupted one. Device and dtype stay the objects' own.

        Raises DamagedFile (see the class); ValueError if what is stored does not fit the objects.
        """
        modules = {name: thing for name, thing in objects.items() if isinstance(thing, nn.Module)}
        self.track_training(**objects)
        self._results.update(modules)
        if self._done:
            weights = self._load_weights()
            for name in modules:
                own = [key for key in weights if key.startswith(f"{name}.")]
                self._restore(name, {key.removeprefix(f"{name}."): weights[key] for key in own})

    def keeps(self, *modules: nn.Module) -> bool:
        """Whether they were tracked, so that their weights are what a finished run keeps."""
        return {id(module) for module in modules} <= {id(module) for module in self._results.values()}

    def track_training(self, **objects: Any) -> None:
        """As `track`, for what nobody asks for once the run is finished: critics, say, or weights before averaging.

        It is in the checkpoints but not in the weights, and a finished run leaves it alone.
        """
        if self._begun:
            raise RuntimeError(f"run {self.name}: track() everything before steps() begins")
        for name, thing in objects.items():
            if not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
                raise TypeError(f"run {self.name}: {name!r}, a {type(thing).__name__}, has no state_dict")
            if name in self._tracked:
                raise ValueError(f"run {self.name}: {name!r} is tracked already")
            self._tracked[name] = thing
            if isinstance(thing, torch.optim.Optimizer):
                thing.register_step_post_hook(_changed)
                if processes.world() > 1:
                    thing.register_step_pre_hook(processes.average_gradients)
        if self._state:
            if self._checkpoint is None:
                self._checkpoint = self._load_checkpoint()
            for name in objects:
                if name not in self._checkpoint["tracked"]:
                    raise self._misfit(f"nothing named {name!r} is stored")
                self._restore(name, self._checkpoint["tracked"][name])

    def steps(self, total: int) -> Iterator[int]:
        """Yield the numbers of the steps still to do, of `total`; nothing if the run is finished.

        Seeds every step, writes the log and the checkpoints, shows progress, writes the weights at the end.

        Raises NonFiniteLoss; OSError if the disk is full; ValueError if the run was made with other steps. What stops
        the first of several processes raises FirstFailed in the others.
        """
        if not self._entered or self._begun:
            raise RuntimeError(f"run {self.name}: steps() works once, inside `with Run(...) as run:`")
        self._begun = True
        if total < 1:
            raise ValueError(f"run {self.name}: the number of steps is at least 1, not {total}")
        if self._done:
            if self._done["steps"] != total:
                raise self._misfit(f"it was finished with {self._done['steps']} steps, not {total}")
            self._progress.say(f"{self.name}: found finished ({total} steps, {_clock(self.seconds)})")
            self._seed_all("end")
            return
        if not self._tracked:
            raise RuntimeError(f"run {self.name}: nothing to train; track() the modules before steps()")

        start = self._checked = self._resume(total)
        log_every = self._log_every or max(10, total // 200)
        before, began, saved = self.seconds, self._spent(), time.perf_counter()
        self._align()
        self._progress.open(start, total)
        for step in range(start, total):
            self._seed_all(step)
            self._step = step
            yield step
            done = step + 1
            self.seconds = before + self._spent() - began
            line_due = done % log_every == 0 or done == total
            checkpoint_due = done == total or time.perf_counter() - saved >= self._checkpoint_seconds
            checkpoint_due = processes.same(checkpoint_due)  # clocks differ
            if line_due or checkpoint_due:
                self._average_values()
            values = self._write_line(done) if line_due else None
            if checkpoint_due:
                self._write_checkpoint(done)
                saved = time.perf_counter()
            self._progress.update(done, values)
        self._step = None
        self._progress.close()
        self._align()
        processes.first(lambda: self._finish(total))
        self.seconds = processes.same(self.seconds)
        self._progress.say(f"{self.name}: {total} steps in {_clock(self.seconds)}")
        self._seed_all("end")

    def log(self, **values: Tensor | float) -> None:
        """Note values of this step, one number each; a line of the log holds their means since the last line.

        Tensors stay on their device, unread, until a line or a checkpoint is due.
        """
        if self._step is None:
            raise RuntimeError(f"run {self.name}: log() belongs inside the loop over steps()")
        for name, value in values.items():
            if name in _RESERVED:
                raise ValueError(f"run {self.name}: {name!r} is a column of every log; choose another name")
            if isinstance(value, Tensor):
                if value.numel() != 1:
                    shape = tuple(value.shape)
                    raise ValueError(f"run {self.name}: {name!r} has shape {shape}; log one number")
                # In float64 the mean is exact enough to print.
                value = value.detach().reshape(()).to(torch.float64, copy=True)
            self._sums[name] = value + self._sums.get(name, 0.0)
            self._counts[name] = self._counts.get(name, 0) + 1

    @property
    def trained_on(self) -> str | None:
        """What a finished run was trained on: the names of GPUs, or "CPU", or several where it was resumed on another.

        None for a run that is not finished.
        """
        if not self._path("done.json").exists():
            return None
        devices = self._read_json("done.json", ("device",))["device"].split(" + ")
        return " + ".join(dict.fromkeys("CPU" if device.startswith("cpu") else device for device in devices))

    @property
    def trained_with(self) -> str | None:
        """The versions of this code and of torch that finished the run; None for one that is not finished."""
        if not self._path("done.json").exists():
            return None
        done = self._read_json("done.json", ("torch",))
        return f"{done.get('commit', 'unknown')}, torch {done['torch']}"

    def curve(self) -> pd.DataFrame:
        """The run's log so far: a row for each line; columns step, seconds and the logged values.

        Raises DamagedFile if a line cannot be read, or if the log is not the one that the run finished with.
        """
        path = self._path("log.jsonl")
        data = path.read_bytes() if path.exists() else b""
        if self._path("done.json").exists():
            if hashlib.sha256(data).hexdigest() != self._read_json("done.json", ("log_sha256",))["log_sha256"]:
                raise self._damaged("log.jsonl", "its content is not what the run wrote")
        else:
            # A process may be writing the last line, or have been killed while it did.
            data = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in data.splitlines()]
        except ValueError as error:
            raise self._damaged("log.jsonl", f"it cannot be read: {error}") from error
        return pd.DataFrame(lines) if lines else pd.DataFrame(columns=list(_RESERVED))

    # ---- restoring ---------------------------------------------------------------------------------------

    def _resume(self, total: int) -> int:
        """Bring the log back to the checkpoint; return the number of steps done."""
        if self._state is None:
            processes.first(lambda: self._path("log.jsonl").unlink(missing_ok=True))
            return 0
        done = self._state["step"]
        if done > total:
            raise self._misfit(f"its checkpoint is at step {done}, past the {total} steps asked for")
        missing = set(self._checkpoint["tracked"]) - set(self._tracked)
        if missing:
            raise self._misfit(f"its checkpoint also holds {', '.join(sorted(missing))}, not tracked now")
        processes.first(lambda: self._rewind_log(done))
        self._sums, self._counts = self._checkpoint["sums"], self._checkpoint["counts"]
        self._checkpoint = None  # as large as all that is trained; not needed any more
        commits = self._commits()
        by = f" (its sources have changed since: {commits})" if " + " in commits else ""
        self._progress.say(f"{self.name}: resumes after step {done} of {total}{by}")
        return done

    def _rewind_log(self, done: int) -> None:
        log, size = self._path("log.jsonl"), self._checkpoint["log_bytes"]
        lines = log.read_bytes()[:size] if log.exists() else b""
        if hashlib.sha256(lines).hexdigest() != self._checkpoint["log_sha256"]:
            raise self._damaged("log.jsonl", f"it is not what the run had written at step {done}")
        if log.exists():
            os.truncate(log, size)

    def _restore(self, name: str, state: dict) -> None:
        try:
            self._tracked[name].load_state_dict(state)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise self._misfit(f"{name!r} cannot take the stored values: {reason}") from error

    def _load_weights(self) -> dict[str, Tensor]:
        return safetensors.torch.load(self._read_verified("weights.safetensors", self._done["sha256"]))

    def _load_checkpoint(self) -> dict:
        data = self._read_verified(self._state["checkpoint"], self._state["sha256"])
        # To the CPU, whatever the device: load_state_dict copies to where each object's tensors live.
        checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if checkpoint["step"] != self._state["step"]:
            raise self._damaged("state.json", "it names another step than its checkpoint")
        return checkpoint

    def _read_verified(self, name: str, digest: str) -> bytes:
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            raise self._damaged(name, "it is missing") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise self._damaged(name, "its content is not what the run wrote")
        return data

    def _read_json(self, name: str, keys: tuple[str, ...]) -> dict:
        """The object in a JSON file of the run. DamagedFile if there is none, or if it lacks some of `keys`."""
        try:
            value = json.loads(self._path(name).read_bytes())
        except ValueError as error:
            raise self._damaged(name, f"it is not JSON: {error}") from error
        if not isinstance(value, dict) or not set(keys) <= set(value):
            raise self._damaged(name, f"it lacks some of {', '.join(keys)}")
        return value

    # ---- writing -----------------------------------------------------------------------------------------

    def _average_values(self) -> None:
        """Make the values logged since the last line their means over the processes."""
        if self._sums and processes.world() > 1:
            sums = torch.tensor([float(total) for total in self._sums.values()], dtype=torch.float64)
            self._sums = dict(zip(self._sums, processes.mean(sums).tolist(), strict=True))

    def _align(self) -> None:
        """Give all processes the weights of the first, which are those that are kept."""
        for thing in self._tracked.values():
            if isinstance(thing, nn.Module):
                processes.align(thing.state_dict().values())

    def _write_line(self, done: int) -> dict[str, float]:
        """Append the means since the last line to the log, and begin anew."""
        means = processes.first(lambda: self._append(done))
        self._sums, self._counts, self._checked = {}, {}, done
        return means

    def _append(self, done: int) -> dict[str, float]:
        self._check_values(done)
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        means = {name: float(f"{mean:.6g}") for name, mean in means.items()}
        if means:
            line = json.dumps({"step": done, "seconds": round(self.seconds, 3), **means}) + "\n"
            path = self._path("log.jsonl")
            with files.full_disk_named(path, len(line)), open(path, "ab") as log:
                log.write(line.encode())
        return means

    def _write_checkpoint(self, done: int) -> None:
        """Save everything tracked after `done` steps. It counts from the moment that state.json names it."""
        self._state = processes.first(lambda: self._save(done))
        self._checked = done

    def _save(self, done: int) -> dict:
        self._check_values(done)
        self._check_parameters(done)
        path = self._path("log.jsonl")
        with files.full_disk_named(path), open(path, "a+b") as log:  # made if nothing was logged yet
            os.fsync(log.fileno())
            log.seek(0)
            lines = log.read()
        checkpoint = {
            "step": done,
            "tracked": {name: thing.state_dict() for name, thing in self._tracked.items()},
            "sums": self._sums,
            "counts": self._counts,
            "log_bytes": len(lines),
            "log_sha256": hashlib.sha256(lines).hexdigest(),
        }
        content = io.BytesIO()
        torch.save(checkpoint, content)
        name = f"checkpoint-{done}.pt"
        files.write_bytes(self._path(name), content.getbuffer())
        state = {
            "step": done,
            "checkpoint": name,
            "sha256": hashlib.sha256(content.getbuffer()).hexdigest(),
            "seconds": round(self.seconds, 3),
            "device": self._devices(),
            "commit": self._commits(),
        }
        files.write_json(self._path("state.json"), state)
        self._remove_checkpoints(but=name)
        return state

    def _finish(self, total: int) -> None:
        """Write the weights, then done.json, which makes the run finished, and drop the checkpoint."""
        weights = {
            # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
            f"{name}.{key}": tensor.detach().cpu().contiguous().clone()
            for name, module in self._results.items()
            for key, tensor in module.state_dict().items()
        }
        data = safetensors.torch.save(weights)
        files.write_bytes(self._path("weights.safetensors"), data)
        done = {
            "steps": total,
            "seconds": round(self.seconds, 3),
            "sha256": hashlib.sha256(data).hexdigest(),
            "log_sha256": files.sha256(self._path("log.jsonl")),
            "device": self._devices(),
            **({"processes": processes.world()} if processes.world() > 1 else {}),
            "torch": torch.__version__,
            "commit": self._commits(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        files.write_json(self._path("done.json"), done)
        self._remove_checkpoints()

    def _remove_checkpoints(self, but: str | None = None) -> None:
        if but is None:
            self._path("state.json").unlink(missing_ok=True)
        for old in self.folder.glob("checkpoint-*.pt"):
            if old.name != but:
                old.unlink()

    # ---- checks and errors -------------------------------------------------------------------------------

    def _check_values(self, done: int) -> None:
        """Raise NonFiniteLoss if a value logged since the last line is not finite."""
        for name, total in self._sums.items():
            if not math.isfinite(total):
                raise self._non_finite(f"{name!r} became {float(total)}", self._checked, done)

    def _check_parameters(self, done: int) -> None:
        """Raise NonFiniteLoss if a tracked module has a parameter that is not finite."""
        parameters = {
            f"{name}.{key}": parameter
            for name, module in self._tracked.items()
            if isinstance(module, nn.Module)
            for key, parameter in module.named_parameters()
        }
        # One answer for all, so that a GPU is waited for once and not once per parameter.
        finite = [parameter.isfinite().all().to(self.device) for parameter in parameters.values()]
        if finite and not torch.stack(finite).all():
            name = next(name for name, parameter in parameters.items() if not parameter.isfinite().all())
            last = self._state["step"] if self._state else 0
            raise self._non_finite(f"the parameter {name!r} became NaN or infinite", last, done)

    def _non_finite(self, what: str, since: int, done: int) -> NonFiniteLoss:
        kept = "There was no checkpoint before"
        if self._state:
            kept = f"The last good checkpoint (step {self._state['step']}) is kept"
        return NonFiniteLoss(
            f"run {self.name}: {what} in steps {since + 1} to {done}. {kept}. The same settings would end "
            f"here again: lower the learning rate, or look at the data. Folder: {self.folder}"
        )

    def _misfit(self, why: str) -> ValueError:
        return ValueError(
            f"run {self.name}: {self.folder} does not fit the program that asks for it: {why}. Was the code "
            f"changed since? Delete the folder {self.folder} to train the run again."
        )

    def _damaged(self, name: str, why: str) -> DamagedFile:
        return DamagedFile(
            f"{self._path(name)} is damaged: {why}. Nothing was trained or changed. Delete the folder {self.folder} to "
            "train the run again."
        )

    # ---- small things ------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _devices(self) -> str:
        """The names of the devices of all attempts, as far as checkpoints tell."""
        before = (self._state or {}).get("device", "").split(" + ")
        return " + ".join(dict.fromkeys(filter(None, [*before, _device_name(self.device)])))

    def _commits(self) -> str:
        """The commits of the sources of all attempts, as far as checkpoints tell."""
        before = (self._state or {}).get("commit", "").split(" + ")
        return " + ".join(dict.fromkeys(filter(None, [*before, self._commit])))

    def _spent(self) -> float:
        """What `seconds` counts: this process's computing on a CPU, the clock on a GPU."""
        return time.process_time() if self.device.type == "cpu" else time.perf_counter()

    def _seed_all(self, moment: int | str) -> None:
        """Seed the global generators for a moment of this run: "init", the number of a step, or "end"."""
        digest = hashlib.sha256(f"{self._seed}/{self.id}/{moment}".encode()).digest()
        number = int.from_bytes(digest[:8], "big")
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.manual_seed(number)


def _changed(optimizer: torch.optim.Optimizer, *_) -> None:
    """Tell autograd that an optimizer has changed its weights, which a fused one does not: so that a backward pass of
    what was computed with the old weights is refused, and does not go through the new ones. (Autocast keeps copies of
    the old ones, so in 16 bits there is nothing to refuse.)"""
    for group in optimizer.param_groups:
        torch.autograd.graph.increment_version(group["params"])


class _Progress:
    """A bar, a line every now and then, or nothing, on stderr (which a book can leave out)."""

    def __init__(self, name: str):
        self.name = name
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        notebook = type(shell).__name__ == "ZMQInteractiveShell"
        kind = machine.progress_kind(interactive=notebook or sys.stderr.isatty())
        self.kind = kind if processes.rank() == 0 else "none"
        self.bar = None

    def say(self, text: str) -> None:
        if self.kind != "none":
            print(text, file=sys.stderr, flush=True)

    def open(self, start: int, total: int) -> None:
        self.start, self.total = start, total
        self.values: dict[str, float] = {}
        self.began = self.spoke = time.perf_counter()
        if self.kind == "bar" and start < total:
            with warnings.catch_warnings():  # without ipywidgets tqdm falls back to a text bar, which will do
                warnings.simplefilter("ignore")
                from tqdm.auto import tqdm

            self.bar = tqdm(desc=self.name, total=total, initial=start, mininterval=0.5, dynamic_ncols=True)

    def update(self, done: int, values: dict[str, float] | None) -> None:
        self.values = values or self.values
        if self.bar is not None:
            if values:
                self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
            self.bar.update()
        elif self.kind == "lines" and time.perf_counter() - self.spoke >= PROGRESS_SECONDS:
            self.spoke = time.perf_counter()
            left = (self.spoke - self.began) / (done - self.start) * (self.total - done)
            values = "".join(f" {name}={value:.3g}" for name, value in self.values.items())
            self.say(f"{self.name} {done}/{self.total} {done / self.total:.0%} {_clock(left)} left{values}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _checkpoint_seconds(argument: float | None) -> float:
    text = os.environ.get("CDT_CHECKPOINT_SECONDS", "")
    try:
        seconds = float(text) if text else CHECKPOINT_SECONDS if argument is None else float(argument)
    except ValueError:
        raise ValueError(f"CDT_CHECKPOINT_SECONDS is a number of seconds, not {text!r}") from None
    if not seconds >= 0:
        raise ValueError(f"the seconds between checkpoints are at least 0, not {seconds}")
    return seconds


def _plain(value: Any, where: str) -> Any:
    """`value` as JSON holds it. TypeError or ValueError that says where it has what JSON cannot hold."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"), where)
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):  # a level, say; JSON makes it a string
                raise TypeError(f"{where}: the key {key!r} is a {type(key).__name__}, not text or an integer")
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: not a number that can be part of a run's identity")
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(
        f"{where} is a {type(value).__name__} ({repr(value)[:80]}): a run's identity is made of text, finite "
        "numbers, booleans, None, lists and dicts"
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _clock(seconds: float) -> str:
    """Seconds as 2:10 or 1:02:10."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
