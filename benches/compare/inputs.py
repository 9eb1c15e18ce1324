"""What the contenders are given: features, recordings, text; the same to all of them."""

from dataclasses import dataclass
from pathlib import Path

from models import ACOUSTIC, ROOT

SAMPLE_RATE = 16000
WIDTH = 560  # of acoustic features: 80 mels, 7 frames stacked
EVAL = ROOT / "tests/data/eval"
# The text that `funasr-candle bench` gives a punctuation model, and how much of it is spoken in a second.
TEXT = "欢迎大家来体验达摩院推出的语音识别模型"
CHARACTERS_PER_SECOND = 7.5


@dataclass(frozen=True)
class Work:
    """A piece of work, for contenders in Python and as words for the command line of ours."""

    seconds: float  # of audio in all
    content: object  # (speech, lengths), samples or text; None for a pipeline
    items: int  # how often a contender without batches does it
    options: tuple
    path: Path = None
    warm_up: Path = None  # a short recording


def make(case, folder):
    """The input of a row: `batch` items of `seconds` each."""
    seconds, batch = case.seconds, case.batch
    if case.model in ACOUSTIC:
        return features(folder, [seconds] * batch)
    options = ("--seconds", seconds, "--batch", batch)
    if case.model == "punctuation":
        return Work(seconds * batch, text(seconds), batch, options)
    path = recording(folder, seconds)
    return Work(seconds * batch, read(path), batch, (*options, "--audio", path), path, recording(folder, 6))


def features(folder, seconds):
    """[B, T, 560] of unit variance, as CMVN leaves them; frames of 60 ms, for each item as many as its seconds take."""
    import torch
    from safetensors.torch import save_file

    frames = [-(-((int(s * SAMPLE_RATE) - 400) // 160 + 1) // 6) for s in seconds]
    lengths = torch.tensor(frames)
    generator = torch.Generator().manual_seed(max(frames))
    speech = torch.randn(len(frames), max(frames), WIDTH, generator=generator)
    path = folder / f"features_{'_'.join(map(str, frames))}.safetensors"
    save_file({"speech": speech, "speech_lengths": lengths}, path)
    return Work(sum(seconds), (speech, lengths), 1, ("--features", path), path)


def text(seconds):
    """What is said in that time."""
    length = -(-seconds * CHARACTERS_PER_SECOND // 1)
    return (TEXT * int(length // len(TEXT) + 1))[: int(length)]


def recording(folder, seconds):
    """The evaluation clips of this repository one after the other, again and again, as a file of that length."""
    import numpy as np
    import soundfile

    path = folder / f"recording_{seconds}s.wav"
    if not path.exists():
        speech = np.concatenate([soundfile.read(clip, dtype="int16")[0] for clip in sorted(EVAL.glob("*.flac"))])
        soundfile.write(path, np.resize(speech, seconds * SAMPLE_RATE), SAMPLE_RATE)
    return path


def read(path):
    """Its samples, mono f32."""
    import soundfile

    return soundfile.read(path, dtype="float32")[0]
