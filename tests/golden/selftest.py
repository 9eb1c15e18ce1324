"""What `funasr-candle selftest` compares with: FunASR's stages of the embedded models on one short input.

    python tests/golden/selftest.py MODELS_DIR              # rewrites models/selftest
    python tests/golden/selftest.py --model DIR OUT         # of any FunASR directory of these classes, for --recording

MODELS_DIR holds the FunASR directories paraformer-tiny, paraformer-online-tiny, sensevoice-tiny, ct-punc-tiny, ct-punc-realtime-tiny and
fsmn-vad. The weights are those of models/<name>/model.safetensors, which for three of them were rounded to f16. f32, CPU, dither 0.

The input is models/selftest/speech.flac, cut from a clip of tests/data/eval here, and models/selftest/text.txt. Stages have the names and
shapes of `inspect`; besides, `segments [n, 2]` in ms, and `text`, the result, as UTF-8 bytes.
"""

import argparse
from pathlib import Path

import soundfile
import torch
from common import HERE, check_versions, greedy, recorded, write
from funasr import AutoModel
from funasr.frontends import wav_frontend
from funasr.utils.load_utils import extract_fbank
from paraformer import paraformer_stages
from paraformer_online import Drive
from safetensors.torch import load_file
from sense_voice import emissions

EMBEDDED = {
    "demo": "paraformer-tiny",
    "demo-online": "paraformer-online-tiny",
    "demo-sensevoice": "sensevoice-tiny",
    "demo-punc": "ct-punc-tiny",
    "demo-punc-realtime": "ct-punc-realtime-tiny",
    "fsmn-vad": "fsmn-vad",
}
MODELS = HERE.parents[1] / "models"
SPEECH, TEXT = MODELS / "selftest/speech.flac", MODELS / "selftest/text.txt"
CLIP, FIRST, LAST = HERE.parent / "data/eval/short_19.flac", 1600, 25600  # 1.5 s
KEPT = ("speech", "encoder_out", "alphas", "token_num", "acoustic_embeds", "decoder_logits")
WHOLE = ("token_num", "chunk_frames", "chunk_tokens", "ids", "segments")


def open_model(directory, weights):
    quiet = {"device": "cpu", "disable_update": True, "disable_pbar": True}
    auto = AutoModel(model=str(directory), **quiet, frontend_conf={"dither": 0.0})
    frontend = auto.kwargs["frontend"]
    assert frontend is None or (frontend.cmvn is not None and frontend.dither == 0.0)
    if weights:
        own = {name: tensor.float() for name, tensor in load_file(weights).items() if not name.startswith("frontend.")}
        missing, unexpected = auto.model.load_state_dict(own, strict=False)
        assert not unexpected and set(missing) <= {"decoder.embed.0.weight"}, (missing, unexpected)
    return auto


def heard(auto, samples, **options):
    return auto.generate(samples.copy(), **options)[0]


def features(auto, samples):
    """Normalised rows and their number."""
    return extract_fbank([torch.from_numpy(samples)], data_type="sound", frontend=auto.kwargs["frontend"])


def paraformer(auto, samples):
    stages, count = paraformer_stages(auto.model, *features(auto, samples))
    ids = greedy(stages["decoder_logits"][0], count[0])
    return {name: stages[name] for name in KEPT} | {"ids": ids[None], "text": heard(auto, samples)["text"]}


def paraformer_streaming(auto, samples):
    options = [[0, 10, 5], 4, 1]
    cut = {"chunk_size": options[0], "encoder_chunk_look_back": 4, "decoder_chunk_look_back": 1}
    text = heard(auto, samples, cache={}, is_final=True, **cut)["text"]
    calls = Drive(auto.model, auto.kwargs, auto.kwargs["frontend"], options).stream(samples)
    joined = {name: torch.cat([call[name] for call in calls if name in call], 1) for name in KEPT if name != "token_num"}
    counts = {"chunk_frames": "encoder_out", "chunk_tokens": "decoder_logits"}
    joined |= {name: torch.tensor([[call[of].shape[1] if of in call else 0 for call in calls]]) for name, of in counts.items()}
    return joined | {"ids": torch.cat([call["ids"] for call in calls])[None], "text": text}


def sense_voice(auto, samples):
    with recorded({"encoder_out": auto.model.encoder, "ctc_logits": auto.model.ctc.ctc_lo}) as stages:
        text = heard(auto, samples)["text"]
    ids, _ = emissions(stages["ctc_logits"][0])
    return stages | {"speech": features(auto, samples)[0], "ids": ids[None], "text": text}


def fsmn_vad(auto, samples):
    """`fbank` is the same for all models here, and recorded of this one."""
    fbanks, fbank = [], wav_frontend.kaldi.fbank

    def keep(*args, **options):
        fbanks.append(fbank(*args, **options))
        return fbanks[-1]

    wav_frontend.kaldi.fbank = keep
    with recorded({"vad_scores": auto.model.encoder}) as stages:
        segments = heard(auto, samples)["value"]
    wav_frontend.kaldi.fbank = fbank
    return stages | {"fbank": torch.cat(fbanks)[None], "segments": torch.tensor(segments)}


def ct_transformer(auto, text):
    calls, punc_forward = [], auto.model.punc_forward

    def keep(*args, **options):
        given = args[0] if args else options["text"]
        logits, rest = punc_forward(*args, **options)
        calls.append({"ids": given.clone(), "punc_logits": logits.clone()})
        return logits, rest

    auto.model.punc_forward = keep
    options = {"cache": {}} if auto.kwargs["model"] == "CTTransformerStreaming" else {}
    found = auto.generate(text, **options)[0]["text"]
    auto.model.punc_forward = punc_forward
    assert len(calls) == 1, "a text of one window: of at most 20 words"
    return calls[0] | {"marks": calls[0]["punc_logits"].argmax(-1), "text": found}


CLASSES = {
    "Paraformer": paraformer,
    "ParaformerStreaming": paraformer_streaming,
    "SenseVoiceSmall": sense_voice,
    "FsmnVADStreaming": fsmn_vad,
    "CTTransformer": ct_transformer,
    "CTTransformerStreaming": ct_transformer,
}


def record(directory, weights, path):
    auto = open_model(directory, weights)
    model_class = auto.kwargs["model"]
    if model_class not in CLASSES:
        raise SystemExit(f"{directory}: a {model_class}; known: {', '.join(CLASSES)}")
    of_text = model_class.startswith("CTTransformer")
    given = TEXT.read_text(encoding="utf-8").strip() if of_text else soundfile.read(SPEECH, dtype="float32")[0]
    stages = CLASSES[model_class](auto, given)
    print({name: stages[name] for name in ("text", "segments") if name in stages})
    if "text" in stages:
        stages["text"] = torch.tensor(list(stages["text"].encode()), dtype=torch.uint8)
    tensors = {name: tensor.long() if name in WHOLE else tensor for name, tensor in stages.items()}
    write(path, tensors, made_by="FunASR Python 1.4.16, f32 on the CPU", **{"class": model_class})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="store_true", help="one FunASR directory, into the file OUT")
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    args = parser.parse_args()
    check_versions()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if args.model:
        record(args.directory, None, args.out)
        return
    samples, rate = soundfile.read(CLIP, dtype="int16")
    soundfile.write(SPEECH, samples[FIRST:LAST], rate, subtype="PCM_16")
    for name, directory in EMBEDDED.items():
        record(args.directory / directory, MODELS / name / "model.safetensors", SPEECH.with_name(f"{name}.safetensors"))


if __name__ == "__main__":
    main()
