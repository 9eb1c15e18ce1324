"""What FunASR Python gives for the demo SenseVoice on tests/data/eval: `python tests/golden/demo_sense_voice.py MODELS_DIR`.

MODELS_DIR holds the FunASR directories sensevoice-tiny and fsmn-vad. Writes tests/golden/demo_sense_voice.json. Dither is 0,
as in demo.py.

`clips`: per clip and per text norm and language the raw text with tags, the ids the text came from, and FunASR's timestamps
and words; `realigned` is whether FunASR, which encodes the text again before it aligns, aligned those very ids. `signals`:
the same for sounds that are hardly any (see `signals`). `segmented`: clip by clip with VAD, as one text.
"""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy
import soundfile
import torch
from funasr import AutoModel
from funasr.tokenizer.sentencepiece_tokenizer import SentencepiecesTokenizer

HERE = Path(__file__).parent
EVAL = HERE.parent / "data" / "eval"
NORMS = ("woitn", "withitn")
LANGUAGES = ("auto", "zh")
QUIET = {"device": "cpu", "disable_update": True, "disable_pbar": True, "frontend_conf": {"dither": 0.0}}


def noise(samples, gain):
    """White noise of integers, so that it is the same everywhere."""
    state, out = 1, []
    for _ in range(samples):
        state = (state * 1103515245 + 12345) % 2**31
        out.append((state // 65536 % 32768 - 16384) * gain / 32768)
    return numpy.array(out, dtype=numpy.float32)


def signals(speech):
    """Name -> samples; a window is 400 of them, so 560 are two frames."""
    return {
        "zeros 25 ms": numpy.zeros(400, numpy.float32),
        "zeros 100 ms": numpy.zeros(1600, numpy.float32),
        "zeros 1 s": numpy.zeros(16000, numpy.float32),
        "speech 10 ms": speech[8000:8160],
        "speech 25 ms": speech[8000:8400],
        "speech 35 ms": speech[8000:8560],
        "speech 100 ms": speech[8000:9600],
        "speech 400 ms": speech[8000:14400],
        "noise 25 ms": noise(400, 0.5),
        "noise 100 ms": noise(1600, 0.125),
        "noise 2 s": noise(32000, 0.5),
        "quiet noise 2 s": noise(32000, 2**-8),
    }


@contextmanager
def decoded():
    """Yields a list that receives the ids of everything FunASR decodes; it copies its tokenizer for every call."""
    ids, decode = [], SentencepiecesTokenizer.decode

    def keep(tokenizer, line, **options):
        ids.append(list(line))
        return decode(tokenizer, line, **options)

    SentencepiecesTokenizer.decode = keep
    try:
        yield ids
    finally:
        SentencepiecesTokenizer.decode = decode


def recognise(asr, samples):
    variants = {}
    for norm in NORMS:
        for language in LANGUAGES:
            options = {"text_norm": norm, "language": language}
            with decoded() as ids:
                text = asr.generate(samples, **options)[0]["text"]
            timed = asr.generate(samples, output_timestamp=True, **options)[0]
            assert timed["text"] == text
            variants[f"{norm}_{language}"] = {
                "text": text,
                "ids": ids[0],
                "realigned": asr.kwargs["tokenizer"].encode(text) == ids[0],
                "timestamp": timed.get("timestamp", []),
                "words": timed.get("words", []),
            }
    return variants


def main():
    torch.set_num_threads(1)
    models = Path(sys.argv[1])
    asr = AutoModel(model=str(models / "sensevoice-tiny"), **QUIET)
    pipeline = AutoModel(model=str(models / "sensevoice-tiny"), vad_model=str(models / "fsmn-vad"), **QUIET)
    for model in (asr, pipeline):
        assert model.kwargs["frontend"].cmvn is not None and model.kwargs["frontend"].dither == 0.0
    clips, segmented = {}, {}
    for clip in sorted(EVAL.glob("*.flac")):
        samples, rate = soundfile.read(clip, dtype="float32")
        assert rate == 16000
        clips[clip.stem] = recognise(asr, samples)
        segmented[clip.stem] = {norm: pipeline.generate(samples, text_norm=norm)[0]["text"] for norm in NORMS}
    speech, _ = soundfile.read(EVAL / "short_00_demo.flac", dtype="float32")
    out = {
        "versions": {"funasr": __import__("funasr").__version__, "torch": torch.__version__},
        "clips": clips,
        "signals": {name: recognise(asr, samples) for name, samples in signals(speech).items()},
        "segmented": segmented,
    }
    # One line a clip or signal: the lists of numbers would take thousands.
    text = json.dumps(out, ensure_ascii=False, sort_keys=True)
    (HERE / "demo_sense_voice.json").write_text(text.replace('}}, "', '}},\n"') + "\n", encoding="utf-8")


main()
