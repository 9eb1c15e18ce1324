"""Counts the instructions of small fixed workloads and compares them with benches/instructions.json.

    python benches/instructions.py [BINARY] [--update]     # default: target/debug/funasr-candle

Fails if a workload takes over 5 % more than is written there; a change that means to writes the new numbers in the same commit
(`--update`). Instructions do not depend on what else a machine does, nor under valgrind, which knows no AVX-512, on which x86 it
has. They are no seconds: what a change brings is measured with benches/compare. Needs valgrind.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / "benches/instructions.json"
MOST = 1.05
# Arguments of `bench`; all models are part of the program.
WORKLOADS = {
    "paraformer": "--model demo --seconds 3",
    "paraformer, int8": "--model demo --seconds 3 --dtype int8",
    "streaming paraformer, 2 streams": "--model demo-online --seconds 1.5 --batch 2",
    "sensevoice": "--model demo-sensevoice --seconds 3",
    "voice detection": "--model fsmn-vad --seconds 3",
    "punctuation": "--model demo-punc --seconds 15",
}


def count(binary, arguments):
    """Millions of instructions of a run, loading and one warm-up included."""
    with tempfile.TemporaryDirectory() as home:
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", binary, "bench", "--offline"]
        command += [*arguments.split(), "--runs", "1", "--threads", "1"]
        environment = {**os.environ, "FUNASR_CANDLE_HOME": home}
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode or not found:
        sys.exit(f"{' '.join(map(str, command))}\n{run.stderr}")
    return round(int(found[1]) / 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", nargs="?", type=Path, default=ROOT / "target/debug/funasr-candle")
    parser.add_argument("--update", action="store_true", help="write what is counted as the new numbers")
    args = parser.parse_args()
    expected = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    counted, more = {}, []
    print("| workload | million instructions | expected | ratio |\n| --- | --- | --- | --- |")
    for name, arguments in WORKLOADS.items():
        counted[name] = count(args.binary, arguments)
        ratio = counted[name] / expected.get(name, counted[name])
        print(f"| {name} | {counted[name]} | {expected.get(name, '-')} | {ratio:.3f} |", flush=True)
        if ratio > MOST or name not in expected:
            more.append(name)
    if args.update:
        BASELINE.write_text(json.dumps(counted, indent=1) + "\n")
    elif more:
        sys.exit(f"more instructions than {BASELINE.name} says, or no number there: {', '.join(more)}")


main()
