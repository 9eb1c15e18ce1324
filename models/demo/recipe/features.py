"""CMVN statistics and cached features (FunASR's WavFrontend, LFR 7/6, dither 0).

    python features.py          work/wav/{train,held} -> work/am.mvn, work/feat/{held,train,joined}.{npy,jsonl}

`train` has 15 % of the utterances once more in joins of 2-4; `joined` are 600 joins of 3-9 with pauses up to 2.4 s, because
VAD segments reach 20 s and absolute positions do not extrapolate.
"""

import argparse
import functools
import json
import multiprocessing
import random

import numpy as np
import soundfile
import torch
from common import FRONTEND, WORK, read_rows
from funasr.frontends.wav_frontend import WavFrontend


def extract(frontend, audio):
    return frontend(torch.from_numpy(audio)[None], [len(audio)])[0][0].numpy()


def read_audio(row):
    return soundfile.read(WORK / "wav" / row["id"].rstrip("0123456789") / f"{row['id']}.wav", dtype="float32")[0]


def write_cmvn(rows):
    """One mean and one deviation per mel bin, repeated for the 7 stacked frames, as a Kaldi nnet text."""
    frontend = WavFrontend(dither=0.0, **FRONTEND)
    frames = np.concatenate([extract(frontend, read_audio(row)) for row in rows]).reshape(-1, 80).astype(np.float64)
    shift, scale = np.tile(-frames.mean(0), 7), np.tile(1 / frames.std(0), 7)
    vectors = [" ".join(f"{value:.7g}" for value in vector) for vector in (shift, scale)]
    (WORK / "am.mvn").write_text(
        "<Nnet> \n<Splice> 560 560\n[ 0 ]\n"
        f"<AddShift> 560 560 \n<LearnRateCoef> 0 [ {vectors[0]} ]\n<Rescale> 560 560 \n<LearnRateCoef> 0 [ {vectors[1]} ]\n</Nnet> \n"
    )


def join_text(texts):
    """Chinese texts touch; a space stays between two English words that meet."""
    joined = texts[0]
    for text in texts[1:]:
        joined += (" " if joined[-1].isascii() and text[0].isascii() else "") + text
    return joined


def joined_audio(rows, pause, r):
    """Utterances with faint noise of `pause` = (least, most) seconds between them."""
    noise = np.random.default_rng(r.randint(0, 1 << 30))
    parts = [read_audio(rows[0])]
    for row in rows[1:]:
        gap = noise.standard_normal(int(16000 * r.uniform(*pause))) * 10 ** r.uniform(-5.0, -2.8)
        parts += [gap.astype(np.float32), read_audio(row)]
    return np.concatenate(parts)


@functools.cache
def worker_frontend():
    torch.set_num_threads(1)
    return WavFrontend(cmvn_file=str(WORK / "am.mvn"), dither=0.0, **FRONTEND)


def item(rows, pause):
    r = random.Random("+".join(row["id"] for row in rows))
    text = {key: join_text([row[key] for row in rows]) for key in ("text", "punc")}
    return extract(worker_frontend(), joined_audio(rows, pause, r)).astype(np.float16), text


def write_set(name, groups, pause, processes):
    with multiprocessing.Pool(processes) as pool:
        items = pool.map(functools.partial(item, pause=pause), groups, chunksize=16)
    ends = np.cumsum([len(frames) for frames, _ in items]).tolist()
    rows = [text | {"start": start, "end": end} for (_, text), start, end in zip(items, [0, *ends], ends)]
    np.save(WORK / f"feat/{name}.npy", np.concatenate([frames for frames, _ in items]))
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (WORK / f"feat/{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{name}: {len(items)} items, {ends[-1] * 0.06 / 3600:.2f} h", flush=True)


def pairs_and_more(rows, share, r):
    """A share of the rows in groups of 2-4."""
    pool = r.sample(rows, int(len(rows) * share))
    groups = []
    while len(pool) >= 2:
        groups.append([pool.pop() for _ in range(min(r.choice([2, 2, 3, 4]), len(pool)))])
    return groups


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--joined", type=int, default=600)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    r = random.Random(3)
    train, held = (read_rows(WORK / f"wav/{name}.jsonl") for name in ("train", "held"))
    (WORK / "feat").mkdir(exist_ok=True)
    write_cmvn(train[:1500])
    write_set("held", [[row] for row in held], (0, 0), args.processes)
    write_set("train", [[row] for row in train] + pairs_and_more(train, 0.15, r), (0.05, 0.6), args.processes)
    write_set("joined", [r.choices(train, k=r.randint(3, 9)) for _ in range(args.joined)], (0.2, 2.4), args.processes)


if __name__ == "__main__":
    main()
