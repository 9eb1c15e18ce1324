"""Segments that FunASR's own FSMN-VAD finds in scripted silence probabilities -> vad_scripted.json.

    pip install funasr==1.4.16 torch torchaudio
    OMP_NUM_THREADS=1 python vad_scripted.py FSMN_VAD_DIRECTORY

The encoder is replaced by a script, everything else (front end, chunking, state machine, emission) is FunASR's and runs
through AutoModel.generate. Scripts and samples are drawn from a small linear congruential generator, which
tests/vad.rs repeats, so that only seeds and expected events are stored.
"""

import json
import math
import pathlib
import sys

import funasr
import numpy as np
import torch

RATE, SHIFT, FRAME = 16000, 160, 400
DEFAULTS = dict(
    detect_mode=1, do_extend=1, max_single_segment_time=60000, decibel_thres=-100.0, snr_thres=-100.0,
    max_end_silence_time=800, speech_noise_thres=0.6, max_start_silence_time=3000, window_size_ms=200,
    sil_to_speech_time_thres=150, speech_to_sil_time_thres=150, lookback_time_start_point=200,
    lookahead_time_end_point=100, speech_2_noise_ratio=1.0, noise_frame_num_used_for_snr=100, fe_prior_thres=1e-4,
)  # fmt: skip
# Shortest and longest run of speech, then of silence, in frames.
STYLES = [(20, 400, 20, 400), (1, 40, 1, 40), (300, 4000, 10, 190), (5, 300, 60, 500)]
JITTERS = [0, 200, 900, 1700]
AMPLITUDES = [0.0, 1 / 1024, 1 / 128, 1 / 16, 1 / 2]


class Lcg:
    """Knuth's 64-bit generator; the upper 31 bits modulo n."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (self.state >> 33) % n


def random_scores(seed, style, frames):
    """Alternating runs around 200/4096 (speech) and 3896/4096 (silence), each with its own jitter."""
    lcg, scores = Lcg(seed), []
    speech = lcg.below(2) == 1
    while len(scores) < frames:
        low, high = STYLES[style][:2] if speech else STYLES[style][2:]
        length = low + lcg.below(high - low + 1)
        jitter = JITTERS[lcg.below(len(JITTERS))]
        for _ in range(length):
            value = (200 if speech else 3896) + lcg.below(2 * jitter + 1) - jitter
            scores.append(min(max(value, 1), 4095) / 4096)
        speech = not speech
    return np.array(scores[:frames], dtype=np.float32)


def interval_scores(speech_ms, frames):
    scores = np.full(frames, 0.95, dtype=np.float32)
    for beg, end in speech_ms:
        scores[beg // 10 : end // 10] = 0.05
    return scores


def random_audio(seed, samples):
    """A square wave whose amplitude changes after 1 to 60 frame shifts; silence without a seed."""
    audio = np.zeros(samples, dtype=np.float32)
    if seed is not None:
        lcg, at = Lcg(seed), 0
        while at < samples:
            length = SHIFT * (1 + lcg.below(60))
            audio[at : at + length] = AMPLITUDES[lcg.below(len(AMPLITUDES))]
            at += length
        audio[1::2] *= -1
    return audio


class ScriptedEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.device = torch.nn.Parameter(torch.zeros(1))  # AutoModel asks a parameter where the model lives

    def play(self, scores):
        self.scores, self.at = torch.from_numpy(scores), 0

    def forward(self, feats, cache=None):
        rows = self.scores[self.at : self.at + feats.shape[1]]
        assert len(rows) == feats.shape[1], "the script is too short"
        self.at += len(rows)
        return rows.reshape(1, -1, 1)


class Tie(Exception):
    """A level so close to a threshold that rounding could decide."""


def refuse_ties(vad):
    decide = vad.GetFrameState

    def checked(t, cache=None):
        stats, opts = cache["stats"], vad.vad_opts
        decibel = stats.decibel[t]
        snr = decibel - stats.noise_average_decibel
        if min(abs(decibel - opts.decibel_thres), abs(snr - opts.snr_thres)) < 1e-4:
            raise Tie
        return decide(t, cache=cache)

    vad.GetFrameState = checked


def run(model, case):
    """Non-empty results as [call, pairs]."""
    config = {**DEFAULTS, **case.get("config", {})}
    for key, value in config.items():
        setattr(model.model.vad_opts, key, value)
    samples = case["samples"]
    frames = max((samples - FRAME) // SHIFT + 1, 0)
    if "speech_ms" in case:
        scores = interval_scores(case["speech_ms"], frames)
    else:
        scores = random_scores(case["seed"], case["style"], frames)
    model.model.encoder.play(scores)
    audio = random_audio(case.get("audio_seed"), samples)
    options = dict(disable_pbar=True)
    if case.get("fixed_ms") is not None:
        options["max_end_silence_time"] = case["fixed_ms"]
    if not case["streaming"]:
        pairs = model.generate(input=audio, **options)[0]["value"]
        events = [[0, pairs]] if pairs else []
    else:
        stride, cache, events = case["chunk_ms"] * RATE // 1000, {}, []
        starts = list(range(0, samples, stride))
        for call, at in enumerate(starts):
            last = call == len(starts) - 1 and not case.get("empty_final")
            result = model.generate(
                input=audio[at : at + stride], cache=cache, is_final=last, chunk_size=case["chunk_ms"], **options
            )
            if result[0]["value"]:
                events.append([call, result[0]["value"]])
        if case.get("empty_final"):
            empty = np.zeros(0, dtype=np.float32)
            result = model.generate(
                input=empty, cache=cache, is_final=True, chunk_size=case["chunk_ms"], **options
            )
            assert not result or not result[0]["value"]
    assert case.get("empty_final") or model.model.encoder.at == frames
    return events


def ms(value):
    return value * RATE // 1000


def published_cases():
    """Cases with known answers, all at 16 kHz with thresholds as published."""
    fixed = [
        (4500, [[1000, 3000]]), (4000, [[0, 1000]]), (4000, [[100, 600]]), (5000, [[500, 1500], [2260, 3000]]),
        (3000, [[0, 3000]]), (3000, []), (2000, [[1800, 2000]]), (8000, [[1000, 3000], [4500, 6000]]),
    ]  # fmt: skip
    long = [[1000, 59900], [60500, 61000], [61200, 62000], [63000, 64000]]
    for fixed_ms in (800, None):
        for duration, speech in fixed + [(70000, long), (130000, [[2000, 129000]])]:
            yield dict(samples=ms(duration), speech_ms=speech, fixed_ms=fixed_ms)


def cases():
    for case in published_cases():
        yield dict(case, streaming=False, chunk_ms=60000)
        yield dict(case, streaming=True, chunk_ms=200)
    # Speech that is detected just before, on, or after the last frame, and a stream without a last frame.
    for left in range(100, 280, 10):
        script = dict(samples=ms(2000), speech_ms=[[2000 - left, 2000]], fixed_ms=800)
        yield dict(script, streaming=False, chunk_ms=60000)
        yield dict(script, streaming=True, chunk_ms=200)
    for end in (1000, 1800, 2000):
        yield dict(samples=ms(2000), speech_ms=[[300, end]], streaming=True, chunk_ms=200, empty_final=True)
    # Without extension the end frame counts twice: the next segment begins one frame later.
    for silence in (1, 2, 5):
        speech, fixed_ms = [[500, 1000], [1050 + 10 * silence, 2000]], 150 + 10 * silence
        yield dict(
            samples=ms(3000), speech_ms=speech, fixed_ms=fixed_ms, config={"do_extend": 0}, streaming=False, chunk_ms=60000
        )
    # A single utterance that begins in time, and one frame too late.
    for start in (360, 370):
        config = {"detect_mode": 0, "max_start_silence_time": 500}
        yield dict(samples=ms(3000), speech_ms=[[start, 2000]], config=config, streaming=True, chunk_ms=200)
    # Around the first frames and the first full LFR row. With less, AutoModel divides by zero.
    for samples in (400, 559, 560, 720, 879, 880):
        yield dict(samples=samples, speech_ms=[[0, 100]], streaming=True, chunk_ms=40)
        yield dict(samples=samples, speech_ms=[[0, 100]], streaming=False, chunk_ms=60000)

    lcg = Lcg(20240607)
    modes = [dict(streaming=False, chunk_ms=60000)] + [dict(streaming=True, chunk_ms=n) for n in (200, 600, 1000)]
    limits = [60000, 15000, 5000]
    for number in range(400):
        duration = int(800 * math.exp(lcg.below(1000) / 1000 * math.log(2600)))  # 0.05 s to 130 s
        case = dict(seed=lcg.below(1 << 30), style=lcg.below(len(STYLES)), samples=duration)
        case["fixed_ms"] = [None, None, 800, 400, 2000][lcg.below(5)]
        case["config"] = {"max_single_segment_time": limits[lcg.below(3)]}
        if lcg.below(8) == 0:
            case["config"]["detect_mode"] = 0
        if lcg.below(6) == 0:
            case["config"]["do_extend"] = 0
        if lcg.below(8) == 0:
            case["config"].update(lookback_time_start_point=50, lookahead_time_end_point=200)
        if lcg.below(8) == 0:
            case["config"].update(window_size_ms=305, sil_to_speech_time_thres=200, speech_to_sil_time_thres=105)
        if lcg.below(10) == 0:
            case["config"].update(speech_2_noise_ratio=2.0, speech_noise_thres=0.37, max_start_silence_time=500)
        if lcg.below(10) == 0:
            case["fixed_ms"] = [0, 155, 200, 1003][lcg.below(4)]
            # FunASR ends segments in the future, and hangs, if the time is negative and nothing is extended.
            if case["fixed_ms"] < 150:
                case["config"].pop("do_extend", None)
        if number % 5 == 0:
            case["audio_seed"] = lcg.below(1 << 30)
            case["config"].update(
                decibel_thres=[-100.0, -33.37, -7.7][lcg.below(3)],
                snr_thres=[-100.0, 5.03, 20.3, -21.9][lcg.below(4)],
                noise_frame_num_used_for_snr=[100, 7][lcg.below(2)],
            )
        yield dict(case, **modes[lcg.below(4)])


def main():
    model = funasr.AutoModel(model=sys.argv[1], device="cpu", ncpu=1, disable_update=True, disable_pbar=True)
    model.model.encoder = ScriptedEncoder()
    refuse_ties(model.model)
    golden = []
    for case in cases():
        try:
            case["events"] = run(model, case)
        except Tie:
            continue
        golden.append(json.dumps({key: value for key, value in case.items() if value is not None}, separators=(",", ":")))
    versions = f'{{"funasr":"{funasr.__version__}","torch":"{torch.__version__}","cases":[\n'
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(versions + ",\n".join(golden) + "\n]}\n")
    print(f"{path}: {len(golden)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
