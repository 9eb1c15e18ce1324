"""Fbank, LFR, CMVN, offline and online."""

import math

import soundfile
import torch
from common import HERE, kaldi_cmvn, seed, write
from funasr.frontends.wav_frontend import WavFrontend, WavFrontendOnline, apply_cmvn, apply_lfr, load_cmvn




def signals(clip, fs):
    """name -> samples in [-1, 1]: a speech clip and everything that makes a front end stumble."""
    time = torch.arange(int(0.2 * fs)) / fs
    window = fs // 40
    named = {
        "speech": clip,
        "noise": torch.randn(int(0.3 * fs)) * 0.1,
        "loud": (torch.randn(int(0.1 * fs)) * 4).clamp(-1, 1),
        "quiet": torch.randn(int(0.1 * fs)) * 1e-5,
        "silence": torch.zeros(int(0.1 * fs)),
        "dc": torch.full((int(0.1 * fs),), 0.5),
        "tone": 0.3 * torch.sin(2 * math.pi * 440 * time),
    }
    # Shorter than one window: the window shrinks to the utterance, one frame comes out (FunASR refuses 1 sample).
    for n in (2, 3, 100, window - 1, window, window + 1, window + fs // 100 - 1, window + fs // 100):
        named[f"short_{n}"] = torch.randn(n) * 0.1
    return named


def write_frontend(clip, fs):
    name = f"frontend_{fs // 1000}k"
    seed(name)
    tensors, summary = {}, {}
    bare = WavFrontend(fs=fs, n_mels=80, dither=0.0)
    stacked = WavFrontend(fs=fs, n_mels=80, dither=0.0, lfr_m=7, lfr_n=6)
    for signal, samples in signals(clip, fs).items():
        fbank, _ = bare(samples[None], [len(samples)])
        tensors |= {f"{signal}.samples": samples, f"{signal}.fbank": fbank[0]}
        summary[signal] = {"samples": len(samples), "frames": fbank.shape[1]}
        if signal in ("speech", "short_100"):
            tensors[f"{signal}.lfr_7_6"] = stacked(samples[None], [len(samples)])[0][0]
    write(HERE / f"{name}.safetensors", tensors, signals=summary, fs=fs, **{"class": "WavFrontend"})


def write_lfr_cmvn():
    """LFR of tiny matrices for every length around the corners, and one CMVN file with its vectors."""
    seed("lfr_cmvn")
    tensors = {}
    for m, n in ((7, 6), (5, 1), (5, 3), (9, 4), (1, 1), (4, 2)):
        for frames in (1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 25):
            fbank = torch.randn(frames, 2)
            tensors |= {f"lfr_{m}_{n}.{frames}.fbank": fbank, f"lfr_{m}_{n}.{frames}.out": apply_lfr(fbank, m, n)}
    text = kaldi_cmvn((torch.randn(14) * 3 - 8).tolist(), (torch.rand(14) * 0.3 + 0.05).tolist())
    path = HERE / "am.mvn.tmp"
    path.write_text(text, encoding="utf-8")
    cmvn = load_cmvn(path)
    path.unlink()
    feats = torch.randn(5, 14) * 4
    tensors |= {
        "cmvn.shift": cmvn[0],
        "cmvn.scale": cmvn[1],
        "cmvn.feats": feats,
        "cmvn.out": apply_cmvn(feats.clone(), cmvn),
    }
    write(HERE / "lfr_cmvn.safetensors", tensors, am_mvn=text, **{"class": "WavFrontend"})


def online_schedules(total):
    """name -> samples per call; the last call is final. Short tails flush the LFR with few or no new frames."""
    schedules = {f"every_{size}": [size] * (total // size) + [total % size] for size in (960, 3200, 5000, 9600)}
    return schedules | {
        "final_empty": [5000, 5000, 0],
        "final_few_frames": [9600, 400, 330],
        "one_final_call": [1000],
        "shorter_than_window": [300],
        "trickle": [100] * 20,
    }


def write_online_frontend(clip):
    """Rows that each call returns, and the rows of all calls together; whole-clip rows are those of `WavFrontend`."""
    n_mels, tensors = 8, {"samples": clip}
    for m, n in ((7, 6), (5, 1)):
        offline, _ = WavFrontend(n_mels=n_mels, dither=0.0, lfr_m=m, lfr_n=n)(clip[None], [len(clip)])
        tensors[f"lfr_{m}_{n}.whole"] = offline[0]
        for name, calls in online_schedules(len(clip)).items():
            frontend, cache, rows, start = WavFrontendOnline(n_mels=n_mels, dither=0.0, lfr_m=m, lfr_n=n), {}, [], 0
            for i, size in enumerate(calls):
                chunk = clip[None, start : start + size]
                start += size
                out, _ = frontend(chunk, [size], cache=cache, is_final=i == len(calls) - 1)
                rows.append(out[0] if out.ndim == 3 else torch.zeros(0, n_mels * m))
            prefix = f"lfr_{m}_{n}.{name}"
            tensors |= {f"{prefix}.calls": torch.tensor(calls), f"{prefix}.rows": torch.tensor([len(r) for r in rows])}
            if start == len(clip):
                torch.testing.assert_close(
                    torch.cat(rows), offline[0], atol=1e-4, rtol=0, msg=f"{prefix}: not the offline features"
                )
            else:
                tensors[f"{prefix}.feats"] = torch.cat(rows)
    write(HERE / "frontend_online.safetensors", tensors, n_mels=n_mels, **{"class": "WavFrontendOnline"})


def generate(audio):
    samples, fs = soundfile.read(audio, dtype="float32")
    assert fs == 16000, f"{audio}: {fs} Hz, wanted 16000"
    clip = torch.from_numpy(samples[8000 : 8000 + 20800].copy())  # 1.3 s
    write_frontend(clip, 16000)
    write_frontend(clip[:12000:2].clone(), 8000)  # aliased on purpose: only the numbers matter
    write_lfr_cmvn()
    write_online_frontend(clip)
