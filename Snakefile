# Every notebook of a profile, as one graph: for a laptop, and with Snakemake's executors for a cluster.
#
#   snakemake --cores 2                                      profile demo
#   snakemake --cores 2 -n                                   what would run
#   snakemake --cores 8 --config profile=paper pairs=zebra-giraffe,zebra-elephant
#   snakemake --cores 8 --config profile=paper pairs=polar-bear:zebra         of names with hyphens
#   snakemake --cores 2 --config seeds=0,1,2                 with several seeds, which the summary puts together
#   snakemake --cores 2 --config notebooks=01,04             some notebooks, and not those that come before them
#
#   snakemake --workflow-profile notebooks/slurm --config profile=paper      on a cluster with Slurm
#
# A notebook that was run on the same sources, parameters and library is not run again (cdtlib.batch).

import itertools
import re
import shlex
import sys

sys.path.insert(0, workflow.basedir)
from cdtlib import batch, settings

PROFILE = config.get("profile", "demo")
SEEDS = str(config.get("seeds", 0)).split(",")
if unknown := sorted(config.keys() - {"profile", "pairs", "seeds", "notebooks"}):
    raise ValueError(f"--config has no {unknown[0]!r}; it takes notebooks, pairs, profile, seeds")
if not all(seed.isdecimal() for seed in SEEDS):
    raise ValueError(f"seeds must be whole numbers such as 0,1,2, not {config['seeds']!r}")
SEEDS = sorted({int(seed) for seed in SEEDS})
PAIRS = [p.split(":" if ":" in p else "-") for p in str(config["pairs"]).split(",")] if "pairs" in config else [settings.PAIR]

# Whether it is only to be shown what would run (-n, -np …): then nothing may change
DRY = any(re.fullmatch(r"--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", word) for word in sys.argv[1:])

# What a notebook waits for. It would also run without: it trains what it does not find. But two notebooks that
# need the same training would wait for each other, so they come in the order in which they train; but for 03 and 04, which
# train translators while 02 trains the inverters that they need at the end, and may then wait for one, and 06 and 08, whose
# one common training, level 2's, comes at the end of much else.
AFTER = {"02": ["01"], "03": ["01"], "04": ["03"], "05": ["02", "03"], "06": ["02", "04"], "07": ["02", "04"],
         "08": ["02", "04"], "09": ["02", "04", "08"], "10": ["02"], "11": ["02", "04"]}

if "notebooks" in config:  # the command line turns 04 into a number, and a single name into no list
    SOURCES = sorted({batch.find(number) for number in str(config["notebooks"]).split(",")})
else:
    SOURCES = sorted(batch.NOTEBOOKS.glob("[0-9][0-9]_*.py"))
JOBS = {}  # what is to be run, by record
for source in SOURCES:
    has = batch.parameters(source)
    for pair, seed in itertools.product(PAIRS if "pair" in has else [None], SEEDS if "seed" in has else [None]):
        job = batch.job(source.stem, PROFILE, pair, seed)
        record = str(job.record)
        if workflow.is_main_process:
            # Only we know what is up to date: for Snakemake, notebooks that were asked for in another company are not.
            # The summary, which comes last, will not be if a notebook before it is not.
            if job.finished() and (job.pair or not JOBS):
                print(f"{job}: up to date", file=sys.stderr)
                continue
            # A record that says nothing any more would hide the job
            if DRY:
                record += ".planned" if job.record.exists() else ""
            else:
                job.record.unlink(missing_ok=True)
        JOBS[record] = job

# What a notebook that trains asks a cluster for: memory in MB, minutes, GPUs. The main job took 2.2 GB at demo; the rest
# is meant as room to spare and was not measured. A run that is out of time goes on where it stopped.
TRAINING = {
    "smoke": {"mem_mb": 4000, "runtime": 30, "gpu": 0},
    "demo": {"mem_mb": 4000, "runtime": 480, "gpu": 0},
    "photos": {"mem_mb": 32000, "runtime": 480, "gpu": 1},
    "photos-gpu": {"mem_mb": 32000, "runtime": 480, "gpu": 1},
    "paper": {"mem_mb": 128000, "runtime": 2880, "gpu": 1},
}
TRAINING = TRAINING.get(PROFILE, TRAINING["photos"])
RESOURCES = {  # of those that do not: 01 extracts features, 12 reads numbers
    "01": TRAINING | {"runtime": min(TRAINING["runtime"], 120)},
    "12": {"mem_mb": 4000, "runtime": 30, "gpu": 0},
}

# Small layers gain nothing from many threads: two notebooks side by side (inverters, translators) share the cores.
THREADS = max(1, (workflow.cores or 1) // 2)


def waits_for(job):
    """The records of the jobs that come before `job`."""
    if job.pair is None:
        return [record for record, other in JOBS.items() if other.pair is not None]
    before = AFTER.get(job.number, [])
    same = [(record, other) for record, other in JOBS.items() if other.pair == job.pair and other.seed == job.seed]
    return [ancient(record) for record, other in same if other.number in before]


rule all:
    input: list(JOBS)
    default_target: True


for record, job in JOBS.items():
    rule:
        name: re.sub(r"\W", "_", job.stem)
        input: waits_for(job)
        output: record
        threads: THREADS
        resources: **RESOURCES.get(job.number, TRAINING)
        params:
            python=sys.executable,
            number=job.number,
            pair=f"--pair {shlex.join(job.pair)}" if job.pair else "",
            seed=f"--seed {job.seed}" if job.pair else "",
            results=job.results,
        shell:
            # on a cluster, the cores that the job was given
            "OMP_NUM_THREADS=${{SLURM_CPUS_PER_TASK:-{threads}}} {params.python:q} -m cdtlib.cli run {params.number} --profile {PROFILE}"
            " {params.pair} {params.seed} --results {params.results:q}"
