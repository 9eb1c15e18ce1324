"""Texts of FunASR Python for the demo models on tests/data/eval: `python tests/golden/demo.py MODELS_DIR`.

MODELS_DIR holds the FunASR directories paraformer-tiny, ct-punc-tiny and fsmn-vad. Writes tests/golden/demo.json. Dither is set to 0:
FunASR's default of 1.0 makes near ties random (with it, `short_16` has another character in some runs).
"""

import json
import sys
from pathlib import Path

import soundfile
import torch
from funasr import AutoModel

HERE = Path(__file__).parent
EVAL = HERE.parent / "data" / "eval"


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
            "whole": asr.generate(samples)[0]["text"],
            "text": pipeline.generate(samples)[0]["text"],
        }
    out = {"versions": {"funasr": __import__("funasr").__version__, "torch": torch.__version__}, "items": items}
    (HERE / "demo.json").write_text(json.dumps(out, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


main()
