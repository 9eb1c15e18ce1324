"""Speech for the sentences: espeak-ng formant voices with varied pitch, speed, noise and gain, 16 kHz.

    python synth.py train held --processes 2         work/text/NAME.jsonl -> work/wav/NAME/*.wav, work/wav/NAME.jsonl

Every utterance is seeded by its id. espeak-ng's `cmn` voice has no Hanzi dictionary, so Chinese goes in as pinyin.
"""

import argparse
import functools
import json
import multiprocessing
import random
import re
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from pypinyin import Style, lazy_pinyin
from scipy.signal import resample_poly

RATE, ESPEAK_RATE = 16000, 22050
VARIANTS = "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8".split()
ENGLISH = ["en-us", "en-us", "en-gb", "en-gb-x-rp"]
SPOKEN = {
    "gpu": "G P U",
    "cpu": "C P U",
    "ppt": "P P T",
    "pdf": "P D F",
    "vip": "V I P",
    "wifi": "wai fai",
    "github": "git hub",
    "ok": "okay",
}
MAX_SECONDS = 14


def voice(r):
    return {
        "variant": r.choice(VARIANTS),
        "english": r.choice(ENGLISH),
        "pitch": r.randint(30, 70),
        "speed": r.randint(135, 190),
        "tempo": r.choice([0.88, 0.92, 0.96, 1.0, 1.0, 1.04, 1.08, 1.12]),
    }


def espeak(text, name, pitch, speed):
    command = ["espeak-ng", "-v", name, "-p", str(pitch), "-s", str(speed), "--stdout", text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(wav[44:], np.int16).astype(np.float32) / 32768


def trim(audio, threshold=0.008, pad=441):
    loud = np.flatnonzero(np.abs(audio) > threshold * max(1e-3, np.abs(audio).max()))
    return audio[max(0, loud[0] - pad) : loud[-1] + pad] if len(loud) else audio


def speak(run, v):
    """One run of one language as 16 kHz audio of fixed loudness."""
    if run[0].isascii():
        words = " ".join(SPOKEN.get(word, word) for word in run.split())
        audio = espeak(words, f"{v['english']}+{v['variant']}", v["pitch"], min(v["speed"], 165))
    else:
        pinyin = lazy_pinyin(run, style=Style.TONE3, neutral_tone_with_five=True)
        audio = espeak(" ".join(pinyin).replace("ü", "v"), f"cmn-latn-pinyin+{v['variant']}", v["pitch"], v["speed"])
    ratio = Fraction(RATE / (ESPEAK_RATE * v["tempo"])).limit_denominator(200)
    audio = resample_poly(trim(audio), ratio.numerator, ratio.denominator).astype(np.float32)
    return audio * (0.1 / (np.sqrt((audio**2).mean()) + 1e-6))


def silence(seconds):
    return np.zeros(int(RATE * seconds), np.float32)


def say(text, v, r):
    """Punctuated text as speech: pauses at the marks, languages spliced."""
    parts = []
    for clause in filter(None, re.split("[，。？、]", text)):
        for run in re.findall(r"[a-z][a-z ]*|[^a-z]+", clause):
            parts += [speak(run.strip(), v), silence(r.uniform(0, 0.04))]
        parts.append(silence(r.uniform(0.08, 0.28)))
    return np.concatenate(parts[:-1])


def brown(noise):
    walk = np.cumsum(noise)
    return walk - resample_poly(resample_poly(walk, 1, 50), 50, 1)[: len(walk)]  # without its slow drift


def augment(audio, r):
    """Silence at both ends, white or brown noise (15-55 dB), random gain."""
    audio = np.concatenate([silence(r.uniform(0.08, 0.4)), audio, silence(r.uniform(0.1, 0.4))])
    noise = np.random.default_rng(r.randint(0, 1 << 30)).standard_normal(len(audio)).astype(np.float32)
    if r.random() < 0.5:
        noise = brown(noise)
    noise /= np.sqrt((noise**2).mean()) + 1e-9
    snr = r.uniform(15, 30) if r.random() < 0.35 else r.uniform(30, 55)
    audio = audio + noise * 0.1 * 10 ** (-snr / 20)
    return (audio * (r.uniform(0.08, 0.9) / max(1e-3, np.abs(audio).max()))).astype(np.float32)


def utterance(row, out):
    r = random.Random(row["id"])
    v = voice(r)
    audio = augment(say(row["punc"], v, r), r)
    if len(audio) > MAX_SECONDS * RATE:
        return None
    soundfile.write(out / f"{row['id']}.wav", audio, RATE, subtype="PCM_16")
    return row | {"voice": v["variant"], "seconds": round(len(audio) / RATE, 3)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    for name in args.names:
        out = Path("work/wav") / name
        out.mkdir(parents=True, exist_ok=True)
        rows = [json.loads(line) for line in Path(f"work/text/{name}.jsonl").open(encoding="utf-8")]
        with multiprocessing.Pool(args.processes) as pool:
            done = [row for row in pool.map(functools.partial(utterance, out=out), rows, chunksize=16) if row]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in done)
        Path(f"work/wav/{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(done)} utterances, {sum(row['seconds'] for row in done) / 3600:.2f} h")


if __name__ == "__main__":
    main()
