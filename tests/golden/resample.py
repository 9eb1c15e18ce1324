"""Writes resample.json: what torchaudio.transforms.Resample makes of a fixed noise signal.

Run with the reference environment: python tests/golden/resample.py
The signal is made by the same integer generator in tests/audio.rs, so that only outputs are stored.
"""

import json
from pathlib import Path

import torch
import torchaudio

PAIRS = [
    (8000, 16000), (44100, 16000), (48000, 16000), (22050, 16000), (11025, 16000),
    (16000, 8000), (48000, 8000), (96000, 16000), (44101, 16000), (16000, 16000),
]
LENGTHS = {(44101, 16000): [400], (16000, 16000): [5]}


def noise(length: int) -> torch.Tensor:
    """Numerical Recipes' linear congruential generator, its top 16 bits as samples in [-1, 1)."""
    state, samples = 1, []
    for _ in range(length):
        state = (1664525 * state + 1013904223) % 2**32
        samples.append(((state >> 16) - 32768) / 32768)
    return torch.tensor(samples, dtype=torch.float32)


cases = []
for source, target in PAIRS:
    for length in LENGTHS.get((source, target), [1, 300]):
        output = torchaudio.transforms.Resample(source, target)(noise(length))
        cases.append({
            "from": source, "to": target, "length": length,
            "output": [float(f"{x:.9g}") for x in output.tolist()],
        })
versions = {"torch": torch.__version__, "torchaudio": torchaudio.__version__}
text = json.dumps({"versions": versions, "cases": cases}, separators=(",", ":"))
Path(__file__).with_name("resample.json").write_text(text + "\n")
