"""Times every model of a directory: `python benches/all_models.py DIR BINARY > table.md`.

DIR holds model directories (such as `tests/golden/generate.py --full DIR` writes), named as below; those that are not there are left out.
Runs `BINARY bench` with one and two threads and prints a table; the machine should do nothing else. Needs Python alone.
"""

import json
import subprocess
import sys
from pathlib import Path

MIB = 2**20
# Name -> seconds of audio (or of speech that the text stands for) and batches.
MODELS = {
    "paraformer": (20, [1]),
    "bicif": (20, [1]),
    "seaco": (20, [1]),
    "contextual": (20, [1]),
    "sensevoice": (20, [1]),
    "paraformer-online": (20, [1, 8]),
    "ct-punc-c": (20, [1]),
    "ct-punc": (20, [1]),
    "ct-punc-realtime": (20, [1]),
    "fsmn-vad": (60, [1]),
}


def bench(binary, model, seconds, batch, threads):
    options = {"model": model, "seconds": seconds, "batch": batch, "threads": threads, "runs": 3}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    run = subprocess.run([binary, "bench", "--offline", *words], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def row(name, seconds, result):
    cells = (
        name,
        result["threads"],
        result["batch"],
        seconds,
        f"{result['median_seconds']:.3f}",
        f"{result['rtf']:.4f}",
        f"{result['peak_rss_bytes'] / MIB:.0f} MiB",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main():
    root, binary = Path(sys.argv[1]), sys.argv[2]
    print("| model | threads | batch | audio, s | median, s | rtf | peak memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (seconds, batches) in MODELS.items():
        # The voice detector is part of the program.
        model = name if name == "fsmn-vad" else root / name
        if name != "fsmn-vad" and not model.is_dir():
            continue
        for batch, threads in ((batch, threads) for batch in batches for threads in (1, 2)):
            print(row(name, seconds, bench(binary, model, seconds, batch, threads)), flush=True)


main()
