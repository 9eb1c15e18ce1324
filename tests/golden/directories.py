"""Small FunASR directories in tests/data/models, and what `AutoModel.generate` gives for them: directories.json.

The networks have random weights, but their last layer is solved so that they say a chosen sentence about the demo clip.
`en-bpe` has `@@` pieces, `en-pieces` a sentencepiece model, `zh-8k` and `vad-8k` hear 8 kHz. Recordings at 8 kHz are
every other sample of one at 16 kHz, which a test can do, too.

    python tests/golden/directories.py MODELS_DIR    # MODELS_DIR holds the FunASR directory fsmn-vad, for 16 kHz

A second run gives the same bytes.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import soundfile
import torch
import yaml
from common import (
    HERE,
    VERSIONS,
    build,
    cif,
    decoder_conf,
    feature_dim,
    kaldi_cmvn,
    recorded,
    sanm,
    seed,
    write_checkpoint,
)
from fsmn_vad import vad_config
from funasr import AutoModel
from funasr.frontends.wav_frontend import WavFrontend, WavFrontendOnline
from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming
from funasr.models.paraformer import model as paraformer_module
from funasr.utils.load_utils import load_audio_text_image_video
from paraformer import paraformer_config, tune_alphas

ROOT = HERE.parents[1]
MODELS = HERE.parent / "data" / "models"
CLIP = ROOT / "models" / "demo" / "short_00_demo.wav"
EVAL = HERE.parent / "data" / "eval"
RIDGE = 1e-2  # without it the weights are so large that the last bit of a state decides what is said

# What is said about the clip at 16 kHz and about the one at 8 kHz.
EN_BPE = "i'm hel@@ lo u s a 你 won@@ der@@ ful have 3 g", "don@@ 't i 好 i've ok a wor@@ ld you 1 9 of 'll"
EN_PIECES = "▁i 'm ▁he ll o ▁i ▁have ▁u ▁s ▁a ▁he", "▁i 've ▁won der ful ▁don 't ▁won ▁i ▁have ▁he ll"
ZH_8K = "今 天 我 们 去 ok 北 京 a p 好 的", "开 会 u 明 后 天 说 ok 在"
EN_TEXT = "i'm here hello i have u s a i've wonder wonderful don't we'll the world of he won it don der ful have o ll"


def load(path):
    return soundfile.read(path, dtype="int16")[0]


def short_recording():
    """Three clips with silence between them that ends a segment."""
    silence = np.zeros(2500 * 16, dtype=np.int16)
    return np.concatenate([load(EVAL / "short_07.flac"), silence, load(EVAL / "short_09.flac"), silence, load(CLIP)])


def wavs(directory):
    """Each recording at 16 and at 8 kHz: name -> path."""
    found = {}
    for name, samples in {"clip": load(CLIP), "short": short_recording()}.items():
        for rate in (16000, 8000):
            path = Path(directory) / f"{name}_{rate // 1000}k.wav"
            soundfile.write(path, samples[:: 16000 // rate], rate, subtype="PCM_16")
            found[path.stem] = str(path)
    return found


def frontend_of(config, cmvn_file=None):
    online = config["frontend"] == "WavFrontendOnline"
    return (WavFrontendOnline if online else WavFrontend)(cmvn_file=cmvn_file, **config["frontend_conf"])


def features(config, paths, directory):
    """Rows of each recording, normalised by mean and deviation of all, which go to `am.mvn`."""
    config = {**config, "frontend": "WavFrontend"}
    rate = config["frontend_conf"]["fs"]
    recordings = [load_audio_text_image_video(path, fs=rate)[None] for path in paths]
    rows = torch.cat([frontend_of(config)(x, torch.tensor([x.shape[1]]))[0][0] for x in recordings])
    directory.mkdir(parents=True, exist_ok=True)
    cmvn = directory / "am.mvn"
    cmvn.write_text(kaldi_cmvn((-rows.mean(0)).tolist(), (1 / rows.std(0).clamp(min=0.1)).tolist()), encoding="utf-8")
    return [frontend_of(config, str(cmvn))(x, torch.tensor([x.shape[1]]))[0] for x in recordings]


def solve(layer, inputs, wanted):
    """Makes the linear `layer` answer `wanted [rows, outputs]` to `inputs [rows, width]`, as far as it can."""
    columns = torch.nn.functional.pad(inputs, (0, 1), value=1.0).double()
    ridge = RIDGE * torch.eye(columns.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(columns.T @ columns + ridge, columns.T @ wanted.double()).float()
    layer.weight.copy_(solution[:-1].T)
    layer.bias.copy_(solution[-1])


def decoded(model, speech):
    """Decoder states of one recording, [L, D]."""
    encoded = model.encode(speech, torch.tensor([speech.shape[1]]))
    embeds, count = model.calc_predictor(*encoded)[:2]
    with recorded({"hidden": model.decoder.after_norm}) as outputs:
        model.cal_decoder_with_predictor(*encoded, embeds, count.round().long())
    return outputs["hidden"][0, : int(count.round())]


def speak(model, recordings, tokens, sentences):
    """Solves the output layer so that the model says each sentence, or as much as it has positions for, then `</s>`."""
    states = [decoded(model, speech) for speech in recordings]
    said = [[*(text.split() * 9)[: len(rows) - 1], "</s>"] for rows, text in zip(states, sentences)]
    ids = torch.tensor([tokens.index(token) for sentence in said for token in sentence])
    solve(model.decoder.output_layer, torch.cat(states), 8.0 * torch.nn.functional.one_hot(ids, len(tokens)))
    print(*(" ".join(sentence) for sentence in said), sep="\n")


def write_recogniser(name, config, tokens, sentences, rate, sources):
    seed(name)
    directory = MODELS / name
    config |= {"vocab_size": len(tokens)}
    config["frontend_conf"]["dither"] = 0.0
    recordings = features(config, [sources["clip_16k"], sources["clip_8k"]], directory)
    model = build(config, paraformer_module.Paraformer)
    for module in model.decoder.modules():  # default initialisation makes all positions alike
        if isinstance(module, torch.nn.Linear):
            module.weight.mul_(2.0)
    tune_alphas(model, torch.cat(recordings, 1), rate)
    speak(model, recordings, tokens, sentences)
    model.decoder.embed = torch.nn.Identity()  # only training reads it
    write_checkpoint(directory, config, model, tokens)


def listed(sentences):
    return ["<blank>", "<s>", "</s>", *dict.fromkeys(" ".join(sentences).split()), "<unk>"]


def small(n_mels, width):
    return paraformer_config(
        (n_mels, 7, 6), sanm(width, 2, 2 * width, 2, 11, 0), decoder_conf(2, 2 * width, 2, 2, 11, 0), cif(1, 1, 0.45), 0
    )


def write_pieces(sources):
    """A sentencepiece model whose ids are those of `tokens.json`, and the directory that says so."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([EN_TEXT] * 4),
        model_writer=model,
        vocab_size=64,
        model_type="bpe",
        normalization_rule_name="identity",
        user_defined_symbols=["'m", "'ve", "'t"],
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    config = small(10, 22) | {"tokenizer": "SentencepiecesTokenizer"}
    write_recogniser("en-pieces", config, pieces, EN_PIECES, 0.12, sources)
    (MODELS / "en-pieces" / "bpe.model").write_bytes(model.getvalue())


def write_detector(sources):
    """Speech is what is louder than the middle."""
    seed("vad-8k")
    directory = MODELS / "vad-8k"
    config = vad_config(80, 5, (2, 16, 12, 14, 6), (10, 0, 1, 0))
    config["model_conf"]["sample_rate"] = config["frontend_conf"]["fs"] = 8000
    [rows] = features(config, [sources["short_8k"]], directory)
    model = build(config, FsmnVADStreaming)
    with recorded({"hidden": model.encoder.out_linear1}) as outputs:
        model.encoder(rows, None)
    silent = (rows[0].mean(1) < -0.2).float() * 6 - 3
    solve(model.encoder.out_linear2.linear, outputs["hidden"][0], torch.nn.functional.pad(silent[:, None], (0, 5)))
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    torch.save(model.state_dict(), directory / "model.pt")


def open_model(path):
    return AutoModel(model=str(path), device="cpu", ncpu=1, disable_update=True, disable_pbar=True)


def word_times(model, source, **options):
    """`[begin, end]` of each word, with weights and peaks in the right order; FunASR's plain Paraformer swaps them."""
    original = paraformer_module.ts_prediction_lfr6_standard
    paraformer_module.ts_prediction_lfr6_standard = lambda peaks, alphas, *rest, **named: original(
        alphas.clone(), peaks, *rest, **named
    )
    try:
        return model.generate(source, pred_timestamp=True, **options)[0]["timestamp"]
    finally:
        paraformer_module.ts_prediction_lfr6_standard = original


def heard(model, source, with_times, **options):
    with recorded({"logits": model.model.decoder.output_layer}) as outputs:
        found = {"text": model.generate(source, **options)[0]["text"]}
    best = outputs["logits"].topk(2, dim=-1).values
    margin = float((best[..., 0] - best[..., 1]).min())
    assert margin > 0.005, f"a near tie ({margin}): choose another seed"
    # A special token in the middle has a fire of its own, but FunASR counts it out and spreads the words anew.
    if with_times and outputs["logits"][0, :-1].argmax(-1).min() > 2:
        found["times"] = word_times(model, source, **options)
    return found


def transcribed(recogniser, segments, path):
    """What is said in each segment of a recording at 8 kHz, and what it would be at 16 samples a millisecond."""
    samples = soundfile.read(path, dtype="float32")[0]
    found = []
    for begin, end in segments:
        item = {"segment": [begin, end], **heard(recogniser, samples[begin * 8 : end * 8], True, fs=8000)}
        if "times" in item:
            item["times"] = [[begin + first, begin + last] for first, last in item["times"]]
        misplaced = samples[begin * 16 : end * 16]
        item["misplaced"] = heard(recogniser, misplaced, False, fs=8000)["text"] if len(misplaced) > 200 else ""
        found.append(item)
    return found


def write_models(sources):
    write_recogniser("en-bpe", small(10, 22), listed(EN_BPE), EN_BPE, 0.12, sources)
    write_pieces(sources)
    eight = small(36, 20)
    eight["frontend_conf"]["fs"] = 8000
    write_recogniser("zh-8k", eight, listed(ZH_8K), ZH_8K, 0.1, sources)
    write_detector(sources)


def reference(sources, directory):
    models = {name: open_model(MODELS / name) for name in ("en-bpe", "en-pieces", "zh-8k", "vad-8k")}
    assert all(model.kwargs["frontend"].cmvn is not None for model in models.values())
    vads = {"fsmn-vad": open_model(directory / "fsmn-vad"), "vad-8k": models.pop("vad-8k")}
    recognised = {
        name: {source: heard(model, sources[source], name != "en-pieces") for source in ("clip_16k", "clip_8k")}
        for name, model in models.items()
    }
    detected = {
        name: {source: vad.generate(path)[0]["value"] for source, path in sources.items()} for name, vad in vads.items()
    }
    joined = {
        name: transcribed(models["zh-8k"], segments["short_8k"], sources["short_8k"])
        for name, segments in detected.items()
    }
    return {"versions": VERSIONS, "recognised": recognised, "detected": detected, "transcribed": joined}


def main():
    with tempfile.TemporaryDirectory() as directory:
        sources = wavs(directory)
        write_models(sources)
        golden = reference(sources, Path(sys.argv[1]))
    (HERE / "directories.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(golden, ensure_ascii=False, indent=1))


torch.set_num_threads(1)
torch.set_grad_enabled(False)
main()
