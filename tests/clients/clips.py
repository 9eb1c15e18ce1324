"""Writes the clips in every form the clients send, and what the program itself says of each.

Run in the environment of `funasr-python`, which has soundfile and numpy.
"""

import argparse
import json
import pathlib
import subprocess

import numpy as np
import soundfile

RATE = 16000


def run(binary, *arguments):
    return subprocess.run(
        [binary, *map(str, arguments)], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout


def write_forms(path, folder):
    """16 kHz wav; the same between silences, as a microphone hears it; 24 kHz samples without header."""
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE, (path, rate)
    forms = {
        "flac": path,
        "wav": folder / f"{path.stem}.wav",
        "spoken": folder / f"{path.stem}.spoken.wav",
        "pcm24": folder / f"{path.stem}.24k.pcm",
    }
    soundfile.write(forms["wav"], samples, RATE)
    silence = np.zeros(RATE, np.int16)
    soundfile.write(forms["spoken"], np.concatenate([silence, samples, silence, silence]), RATE)
    times = np.arange(len(samples) * 3 // 2) * (2 / 3)
    np.interp(times, np.arange(len(samples)), samples).astype("<i2").tofile(forms["pcm24"])
    return {name: str(form) for name, form in forms.items()}


def messages_of(binary, path, *options):
    """What a live session says, with the chunks that FunASR's clients ask for."""
    lines = run(binary, "stream", "--chunk-size", "5,10,5", *options, path).splitlines()
    return [json.loads(line) for line in lines]


def said(binary, path):
    """What the command line prints for the clip: whole, in two passes, streaming."""
    whole = json.loads(run(binary, "transcribe", "--format", "json", path))
    messages = messages_of(binary, path)
    corrected = [m for m in messages if m["mode"] == "2pass-offline"]
    online = messages_of(binary, path, "--mode", "online", "--vad-model", "fsmn-vad")
    return {
        "text": whole["text"],
        "duration_ms": whole["duration_ms"],
        "times": [[t["start_ms"], t["end_ms"]] for s in whole["segments"] for t in s["tokens"]],
        "srt": run(binary, "transcribe", "--format", "srt", path),
        "vtt": run(binary, "transcribe", "--format", "vtt", path),
        "two_pass": "".join(m["text"] for m in corrected),
        "two_pass_times": [pair for m in corrected for pair in json.loads(m.get("timestamp", "[]"))],
        "online": "".join(m["text"] for m in online),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("recordings", nargs="+", type=pathlib.Path)
    arguments = parser.parse_args()
    clips = {
        p.stem: {**write_forms(p, arguments.folder), **said(arguments.binary, p)}
        for p in arguments.recordings
    }
    (arguments.folder / "expected.json").write_text(
        json.dumps(clips, ensure_ascii=False, indent=1), encoding="utf-8"
    )


main()
