"""This engine beside ONNX Runtime, FunASR's PyTorch and candle without our kernels, in one run.

    python benches/compare/compare.py                                   # everything: three hours on two cores
    python benches/compare/compare.py --quick                           # one short input for each model
    python benches/compare/compare.py --models sensevoice --seconds 6 20 --threads 1 --batches 1 8

All contenders have the same weights and input, are loaded before the clock starts and take turns, so that a busy
machine slows all of them. Prints tables and writes JSON. See README.md.
"""

import argparse
import json
import logging
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, product
from pathlib import Path

import accuracy
import contenders
import inputs
import models
import report

# Model -> seconds of an item, items of a batch. Without batches are those that take items one after the other.
MATRIX = {
    "paraformer": ((6, 20, 60), (1, 8)),
    "bicif": ((6, 20, 60), (1, 8)),
    "sensevoice": ((6, 20, 60), (1, 8)),
    "vad": ((6, 20, 60), (1,)),
    "punctuation": ((6, 20, 60), (1,)),
    "pipeline": ((600,), (1,)),
}
THREADS = (1, 2)
MIXED = (3, 5, 8, 10, 12, 15, 18, 20)  # seconds of the items of a padded batch
PADDING_SKIPS = ("pytorch", "plain")  # which say nothing new there, and are slow
LEAST_ROUNDS = 2


@dataclass(frozen=True)
class Case:
    """What one row of the table is about."""

    model: str
    threads: int
    seconds: int
    batch: int


def cases(args):
    """The rows that are asked for; a model's come together, by threads."""
    for name in args.models:
        seconds, batches = MATRIX[name]
        if args.quick:
            seconds, batches = ((60,) if name == "pipeline" else (6,)), (1,)
        for threads in args.threads or (THREADS[:1] if args.quick else THREADS):
            for batch, length in product(args.batches or batches, args.seconds or seconds):
                yield Case(name, threads, length, batch)


def speed(args):
    """The rows of the table of times."""
    rows = []
    report.speed_head()
    for (name, threads), group in groupby(cases(args), lambda case: (case.model, case.threads)):
        loaded = load(models.make(name, args.work, args.ours), threads, args)
        for case in group:
            engines = take_turns(loaded, inputs.make(case, args.work), args)
            rows.append({**asdict(case), "engines": engines})
            report.speed_row(rows[-1])
    return rows


def load(model, threads, args, skipped=()):
    """Name -> contender, of those that nobody wants left out."""
    makers = contenders.makers(model, threads, args.ours)
    skipped = (*skipped, *args.skip)
    return {name: make() for name, make in makers.items() if not any(word in name for word in skipped)}


def take_turns(loaded, work, args):
    """Contender -> its runs. A round is a run of each; one that does not count goes before."""
    with ExitStack() as stack:
        opened = {name: stack.enter_context(contender(work)) for name, contender in loaded.items()}
        counts = {name: run().count for name, run in opened.items()}
        runs = {name: [] for name in opened}
        end = time.monotonic() + args.budget
        for done in range(args.rounds):
            if done >= LEAST_ROUNDS and time.monotonic() > end:
                break
            for name, run in opened.items():
                runs[name].append(run())
    return {name: engine(runs[name], counts[name], args.clock) for name in opened}


def engine(runs, count, clock):
    """A contender's part of a row; `seconds` are those of the clock that was chosen."""
    times = {"wall": [run.wall for run in runs], "cpu": [run.cpu for run in runs]}
    return {"seconds": times[clock], **times, "count": count}


def padding(args):
    """A batch of utterances of mixed lengths beside the same ones, one by one."""
    rows = []
    report.padding_head()
    works = [inputs.features(args.work, lengths) for lengths in (MIXED, *([seconds] for seconds in MIXED))]
    for name in acoustic(args):
        loaded = load(models.make(name, args.work, args.ours), 1, args, PADDING_SKIPS)
        times = [take_turns(loaded, work, args) for work in works]
        for contender in loaded:
            together, *apart = (min(turns[contender]["seconds"]) for turns in times)
            rows.append({"model": name, "engine": contender, "together_seconds": together, "apart_seconds": sum(apart)})
            report.padding_row(rows[-1])
    return rows


def acoustic(args):
    """The acoustic models that are asked for."""
    return [name for name in args.models if name in models.ACOUSTIC]


def errors(args):
    """What 8 bits cost."""
    chosen = [models.make(name, args.work, args.ours) for name in acoustic(args)]
    result = {
        "relative_errors": {model.name: accuracy.errors(model, args.work, args.ours) for model in chosen},
        "kept_tokens": {name: accuracy.kept_tokens(name, args.ours) for name in accuracy.TRAINED},
    }
    report.accuracy(result)
    return result


PARTS = {"speed": speed, "padding": padding, "accuracy": errors}


def parse_args():
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    some = partial(parser.add_argument, nargs="+")
    some("--models", choices=MATRIX, default=list(MATRIX), metavar="MODEL", help=f"[all: {', '.join(MATRIX)}]")
    some("--seconds", type=int, help="of audio in an item [6 20 60, of a pipeline 600]")
    some("--threads", type=int, help="[1 2]")
    some("--batches", type=int, help="items in one call [1 8, 1 where there are no batches]")
    some("--parts", choices=PARTS, default=list(PARTS), metavar="PART", help=f"[all: {', '.join(PARTS)}]")
    some("--skip", default=[], metavar="WORD", help="leave out contenders whose name contains one of these")
    parser.add_argument("--quick", action="store_true", help="a short input for each model, one thread, two rounds")
    parser.add_argument("--rounds", type=int, help="turns of each contender [5]")
    parser.add_argument("--budget", type=float, default=60, help="seconds after which a row gets no third round [60]")
    clock = "cpu: how long processors worked, for one thread on a machine that others use, too (Linux) [wall]"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=clock)
    parser.add_argument("--ours", type=Path, default=models.ROOT / "target/release/funasr-candle", help="our program")
    parser.add_argument("--work", type=Path, default=models.ROOT / "target/compare", help="where models are kept")
    parser.add_argument("--json", type=Path, help="result file [WORK/result.json]")
    args = parser.parse_args()
    args.rounds = args.rounds or (LEAST_ROUNDS if args.quick else 5)
    if not args.ours.exists():
        parser.error(f"{args.ours} is not there: run cargo build --release, or name a program with --ours")
    return args


def main():
    """Runs the parts; what is done is in the file if a later one fails."""
    args = parse_args()
    logging.disable(logging.INFO)
    args.work.mkdir(parents=True, exist_ok=True)
    result = {"machine": report.machine(), "clock": args.clock}
    print(result["machine"])
    path = args.json or args.work / "result.json"
    for name in args.parts:
        result[name] = PARTS[name](args)
        path.write_text(json.dumps(result, indent=1))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
