"""Segments and texts of FunASR Python for the demo models on tests/data/eval: `python tests/golden/demo.py MODELS_DIR`.

MODELS_DIR holds the FunASR directories paraformer-tiny, ct-punc-tiny and fsmn-vad. Writes tests/golden/demo.json. Dither is set to 0:
FunASR's default of 1.0 makes near ties random (with it, `short_16` has another character in some runs).

`stream_200ms` holds [chunk index, segments] for each chunk of 200 ms that decided something, under the dynamic end silence;
`stream_200ms_800ms` the same with `max_end_silence_time=800`.
"""

import json
import sys
from pathlib import Path

import soundfile
import torch
from funasr import AutoModel

HERE = Path(__file__).parent
EVAL = HERE.parent / "data" / "eval"

CHUNK_MS = 200


def streamed(vad, samples, **options):
    """What each chunk decided; the last chunk is never empty."""
    stride = CHUNK_MS * 16
    starts = range(0, len(samples), stride)
    cache, decisions = {}, []
    for index, start in enumerate(starts):
        last = index == len(starts) - 1
        chunk = samples[start : start + stride]
        segments = vad.generate(chunk, cache=cache, is_final=last, chunk_size=CHUNK_MS, **options)[0]["value"]
        if segments:
            decisions.append([index, segments])
    return decisions


def main():
    torch.set_num_threads(1)
    models = Path(sys.argv[1])
    quiet = {"device": "cpu", "disable_update": True, "disable_pbar": True}
    no_dither = {"frontend_conf": {"dither": 0.0}}
    asr = AutoModel(model=str(models / "paraformer-tiny"), **quiet, **no_dither)
    vad = AutoModel(model=str(models / "fsmn-vad"), **quiet)
    pipeline = AutoModel(
        model=str(models / "paraformer-tiny"),
        vad_model=str(models / "fsmn-vad"),
        punc_model=str(models / "ct-punc-tiny"),
        **quiet,
        **no_dither,
    )
    assert asr.kwargs["frontend"].cmvn is not None and asr.kwargs["frontend"].dither == 0.0
    items = {}
    for clip in sorted(EVAL.glob("*.flac")):
        samples, rate = soundfile.read(clip, dtype="float32")
        assert rate == 16000
        items[clip.stem] = {
            "segments": vad.generate(samples)[0]["value"],
            "stream_200ms": streamed(vad, samples),
            "stream_200ms_800ms": streamed(vad, samples, max_end_silence_time=800),
            "whole": asr.generate(samples)[0]["text"],
            "text": pipeline.generate(samples)[0]["text"],
        }
    out = {"versions": {"funasr": __import__("funasr").__version__, "torch": torch.__version__}, "items": items}
    (HERE / "demo.json").write_text(json.dumps(out, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


main()
