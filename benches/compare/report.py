"""The tables, and what they say about the machine."""

import os
import platform
import sys
from pathlib import Path
from statistics import median

from contenders import OURS
from models import ACOUSTIC

# Columns: contender -> head.
ENGINES = {
    "onnxruntime fp32": "ORT fp32",
    "onnxruntime int8": "ORT int8",
    "pytorch fp32": "PyTorch",
    "plain candle f32": "candle",
    f"{OURS} f32": "ours f32",
    f"{OURS} int8": "ours int8",
}
# Head -> ours and the peer.
RATIOS = {
    "f32 / ORT fp32": (f"{OURS} f32", "onnxruntime fp32"),
    "int8 / ORT int8": (f"{OURS} int8", "onnxruntime int8"),
    "f32 / PyTorch": (f"{OURS} f32", "pytorch fp32"),
    "f32 / candle": (f"{OURS} f32", "plain candle f32"),
}


def machine():
    """What the numbers are of."""
    import onnxruntime
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = {line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    features = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.processor()),
        "family and model": f"{facts.get('cpu family', '?')}/{facts.get('model', '?')}",
        "cores": os.cpu_count(),
        "vectors": [name for name in ("avx2", "avx_vnni", "avx512f", "avx512_vnni") if name in features],
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def speed_head():
    """Begins the table of times."""
    heads = ["model", "audio, s", "threads", "batch", *ENGINES.values(), *RATIOS, "spread"]
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)


def speed_row(row):
    """One of its rows: the fastest run of each, since others that use the machine only ever add to a time."""
    least = {name: min(engine["seconds"]) for name, engine in row["engines"].items()}
    middle = {name: median(engine["seconds"]) for name, engine in row["engines"].items()}
    times = [f"{least[name]:.3f}" if name in least else "-" for name in ENGINES]
    ratios = [ratio([least, middle], *pair) for pair in RATIOS.values()]
    cells = [row["model"], row["seconds"], row["threads"], row["batch"], *times, *ratios, f"{spread(row):.2f}"]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    warn(row)


def ratio(times, ours, peer):
    """How long ours takes in terms of a peer, of the fastest runs and, in brackets, of medians."""
    least, middle = times
    if ours not in least or peer not in least:
        return "-"
    return f"{least[ours] / least[peer]:.2f} ({middle[ours] / middle[peer]:.2f})"


def spread(row):
    """Median over minimum of the contender for which it is largest: 1 on a machine that does nothing else."""
    return max(median(engine["seconds"]) / min(engine["seconds"]) for engine in row["engines"].values())


def warn(row):
    """Counts may differ in 8 bits, and for segments, which `funasr-onnx` ends by another rule than FunASR and ours."""
    exact = {name: engine["count"] for name, engine in row["engines"].items() if "int8" not in name}
    if row["model"] in (*ACOUSTIC, "punctuation") and len(set(exact.values())) > 1:
        print(f"WARNING: the engines did not do the same work, they found so many tokens: {exact}", file=sys.stderr)


def padding_head():
    """Begins the table of batches."""
    print("\n| model | engine | 8 lengths, padded, s | one by one, s | ratio |\n| --- | --- | --- | --- | --- |", flush=True)


def padding_row(row):
    """One of its rows."""
    together, apart = row["together_seconds"], row["apart_seconds"]
    print(f"| {row['model']} | {row['engine']} | {together:.3f} | {apart:.3f} | {together / apart:.2f} |", flush=True)


def accuracy(result):
    """The table of errors."""
    print("\n| relative error of 8 bits | ORT | ours |\n| --- | --- | --- |")
    for name, stages in result["relative_errors"].items():
        for stage, engines in stages.items():
            cells = " | ".join(f"{engines[engine]:.4f}" for engine in ("onnxruntime", OURS))
            print(f"| {name} {stage} | {cells} |")
    for name, (same, total) in result["kept_tokens"].items():
        print(f"\n{name}: {same} of {total} tokens are those of f32 in 8 bits")
