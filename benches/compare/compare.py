"""This engine beside ONNX Runtime, FunASR's PyTorch and candle without our kernels, in one run.

    python benches/compare/compare.py                                   # the rows that the project promises
    python benches/compare/compare.py --models sensevoice --seconds 6 20 --threads 1 2 --batches 1 8

All contenders have the same weights and input, are loaded before the clock starts and take turns, so that a busy
machine slows all of them. Prints tables and writes JSON. See README.md.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from itertools import groupby, product
from pathlib import Path

import accuracy
import contenders
import inputs
import models
from contenders import OURS

MODELS = ("paraformer", "sensevoice", "vad", "punctuation", "pipeline")
PARTS = ("speed", "padding", "accuracy")
MIXED = (3, 5, 8, 10, 12, 15, 18, 20)  # seconds of the items of a batch
# Columns of the table: contender -> head.
ENGINES = {
    "onnxruntime fp32": "ORT fp32",
    "onnxruntime int8": "ORT int8",
    "pytorch fp32": "PyTorch",
    "candle f32": "candle",
    f"{OURS} f32": "ours f32",
    f"{OURS} int8": "ours int8",
}


RATIOS = [(f"{OURS} f32", "onnxruntime fp32"), (f"{OURS} int8", "onnxruntime int8")]


@dataclass(frozen=True)
class Case:
    """What one row of the table is about."""

    model: str
    threads: int
    seconds: int
    batch: int


PROMISED = [
    Case("paraformer", 1, 6, 1),
    Case("paraformer", 1, 20, 1),
    Case("paraformer", 1, 60, 1),
    Case("paraformer", 2, 20, 1),
    Case("sensevoice", 1, 20, 1),
    Case("vad", 1, 60, 1),
    Case("punctuation", 1, 20, 1),
    Case("pipeline", 1, 600, 1),
]
QUICK = [
    Case("paraformer", 1, 6, 1),
    Case("sensevoice", 1, 6, 1),
    Case("vad", 1, 60, 1),
    Case("punctuation", 1, 20, 1),
    Case("pipeline", 1, 60, 1),
]


def cases(args):
    """The promised rows, or every combination of what is asked for; a model's come together, by threads."""
    chosen = QUICK if args.quick else PROMISED
    if args.seconds or args.threads or args.batches:
        matrix = product(MODELS, args.threads or [1], args.seconds or [20], args.batches or [1])
        chosen = [Case(*case) for case in matrix]
    return [case for case in chosen if case.model in args.models]


# ----------------------------------------------------------------------------------------------------------- measuring


def measure(args):
    """The rows of the table."""
    rows = []
    for (name, threads), group in groupby(cases(args), lambda case: (case.model, case.threads)):
        model = models.make(name, args.work, args.ours)
        runners = load(model, threads, args)
        for case in group:
            work = inputs.make(name, args.work, case.seconds, case.batch)
            engines = summary(take_turns(runners, work, args))
            rows.append({**asdict(case), "audio_seconds": work.seconds, "engines": engines})
            print_row(rows[-1])
    return rows


def load(model, threads, args):
    makers = contenders.makers(model, threads, args.ours, args.runs)
    return {name: make() for name, make in makers.items() if not any(word in name for word in args.skip)}


def take_turns(runners, work, args):
    """Contender -> (seconds, count) of every run. One round = every contender once more; ours warm up by themselves."""
    for name, run in runners.items():
        if name not in (f"{OURS} f32", f"{OURS} int8", "candle f32"):
            run(work)
    samples = {name: [] for name in runners}
    for _ in range(args.rounds):
        for name, run in runners.items():
            samples[name].append(run(work))
    return samples


def summary(samples):
    rows = {}
    for name, runs in samples.items():
        seconds, counts = zip(*runs)
        median = statistics.median(seconds)
        spread = {"min_seconds": min(seconds), "max_seconds": max(seconds)}
        rows[name] = {"median_seconds": median, **spread, "count": counts[-1], "samples": len(runs)}
    return rows


def measure_padding(args):
    """A batch of utterances of mixed lengths beside the same ones, one by one."""
    rows = []
    for name in (name for name in models.ACOUSTIC if name in args.models):
        model = models.make(name, args.work, args.ours)
        batch = inputs.features(args.work, MIXED)
        singles = [inputs.features(args.work, [seconds]) for seconds in MIXED]
        for engine, run in load(model, 1, args).items():
            if engine in ("pytorch fp32", "candle f32"):
                continue
            pairs = [(run(batch)[0], sum(run(single)[0] for single in singles)) for _ in range(args.rounds)]
            together, apart = map(statistics.median, zip(*pairs))
            rows.append({"model": name, "engine": engine, "together_seconds": together, "apart_seconds": apart})
            print(f"| {name} | {engine} | {together:.3f} | {apart:.3f} | {together / apart:.2f} |", flush=True)
    return rows


# ----------------------------------------------------------------------------------------------------------- reporting


def ratio(engines, ours, peer):
    """How long ours takes in terms of a peer; where there is no ours in 8 bits, the one in f32, marked."""
    mark = "" if ours in engines else "*"
    ours = engines.get(ours) or engines.get(f"{OURS} f32")
    peer = engines.get(peer)
    return f"{ours['median_seconds'] / peer['median_seconds']:.2f}{mark}" if ours and peer else "-"


def print_head():
    heads = ["model", "audio, s", "threads", "batch", *ENGINES.values(), "f32 / ORT fp32", "int8 / ORT int8"]
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")


def print_row(row):
    engines = row["engines"]
    times = [f"{engines[name]['median_seconds']:.3f}" if name in engines else "-" for name in ENGINES]
    ratios = [ratio(engines, *pair) for pair in RATIOS]
    cells = [row["model"], row["seconds"], row["threads"], row["batch"], *times, *ratios]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    warn(row)


def warn(row):
    """Counts may differ in 8 bits, and for segments, which `funasr-onnx` ends by another rule than FunASR and ours."""
    exact = {name: engine["count"] for name, engine in row["engines"].items() if "int8" not in name}
    if row["model"] in models.ACOUSTIC and len(set(exact.values())) > 1:
        print(f"WARNING: the engines did not do the same work, they found so many tokens: {exact}", file=sys.stderr)


def print_accuracy(errors, kept):
    print("\n| relative error of 8 bits | ORT | ours |\n| --- | --- | --- |")
    for name, stages in errors.items():
        for stage, engines in stages.items():
            cells = " | ".join(f"{engines[engine]:.4f}" for engine in ("onnxruntime", "funasr-candle"))
            print(f"| {name} {stage} | {cells} |")
    for name, (same, total) in kept.items():
        print(f"\n{name}: {same} of {total} tokens are those of f32 in 8 bits")


def measure_accuracy(args):
    chosen = [name for name in models.ACOUSTIC if name in args.models]
    errors = {
        name: accuracy.errors(models.make(name, args.work, args.ours), args.work, args.ours) for name in chosen
    }
    kept = {name: accuracy.kept_tokens(name, args.ours) for name in accuracy.TRAINED}
    print_accuracy(errors, kept)
    return {"relative_errors": errors, "kept_tokens": kept}


def machine():
    import onnxruntime
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    features = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "vectors": [name for name in ("avx2", "avx_vnni", "avx512f", "avx512_vnni") if name in features],
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seconds", nargs="+", type=int, help="audio lengths, instead of the promised rows [20]")
    parser.add_argument("--threads", nargs="+", type=int, help="[1]")
    parser.add_argument("--batches", nargs="+", type=int, help="utterances in one call [1]")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="one round of short inputs")
    parser.add_argument("--rounds", type=int, help="turns of every contender [5, or 1 with --quick]")
    parser.add_argument("--runs", type=int, default=1, help="runs of ours in a turn, of which the median counts")
    parser.add_argument("--ours", type=Path, default=models.ROOT / "target/release/funasr-candle")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out contenders whose name contains one of these")
    parser.add_argument("--work", type=Path, default=models.ROOT / "target/compare", help="where models are kept")
    parser.add_argument("--json", type=Path, help="result file [WORK/result.json]")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 5)
    return args


def main():
    args = parse_args()
    logging.disable(logging.INFO)
    args.work.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine()}
    print(result["machine"])
    if "speed" in args.parts:
        print_head()
        result["speed"] = measure(args)
    if "padding" in args.parts:
        print("\n| model | engine | 8 lengths, padded, s | one by one, s | ratio |\n| --- | --- | --- | --- | --- |")
        result["padding"] = measure_padding(args)
    if "accuracy" in args.parts:
        result["accuracy"] = measure_accuracy(args)
    path = args.json or args.work / "result.json"
    path.write_text(json.dumps(result, indent=1))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
