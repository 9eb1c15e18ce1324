"""SenseVoiceSmall: encoder, CTC, forced alignment."""

import struct

import torch
from common import (
    HERE,
    build,
    encoder_stages,
    feature_dim,
    kaldi_cmvn,
    recorded,
    sanm,
    seed,
    smooth_noise,
    weights,
    write,
    write_checkpoint,
)
from funasr.models.sense_voice.model import SenseVoiceSmall

QUERIES = 4  # language, event, emotion, text norm: one encoder frame each, before the speech
LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko", "nospeech")
NORMS = ("withitn", "woitn")


def sense_voice_config(lfr, encoder, tp_blocks, vocab_size):
    """`lfr` = (mel bins, m, n)."""
    n_mels, m, n = lfr
    return {
        "format_version": 1,
        "model": "SenseVoiceSmall",
        "model_conf": {},
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": {"input_layer": "pe", "tp_blocks": tp_blocks, **encoder},
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": n_mels,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": m,
            "lfr_n": n,
        },
        "vocab_size": vocab_size,
    }


# name -> (config, frames of each item). Item i asks for language i and, by turns, for one of the norms.
SENSE_VOICES = {
    "sense_voice_basic": (sense_voice_config((6, 7, 6), sanm(24, 4, 47, 3, 11, 0), 2, 40), [23, 1, 9, 80]),
    "sense_voice_no_tp": (  # one layer, tp_norm without tp layers, every language under both norms
        sense_voice_config((6, 5, 1), sanm(16, 1, 17, 1, 3, 0), 0, 20),
        [17, 3, 2, 11, 5, 8, 1, 4, 30, 6, 2, 9, 13, 7],
    ),
    "sense_voice_shifted": (  # even kernel, shifted memory, layer 0 with a residual (20 -> 20)
        sense_voice_config((4, 5, 3), sanm(20, 2, 33, 2, 4, 1), 1, 25),
        [25, 6, 60],
    ),
    "sense_voice_quiet": (  # after_norm so small that the first tp layer shows which eps its norm has
        sense_voice_config((4, 7, 6), sanm(16, 2, 21, 2, 5, 0), 2, 18),
        [20, 4],
    ),
}


class Ids:
    """Stands in for the tokenizer: a text is a list of characters, one an id. Four of them are taken for tags."""

    def __init__(self, ids):
        self.ids = ids

    def decode(self, ids):
        return "".join(chr(0x4E00 + i) for i in ids)

    def text2tokens(self, _text):
        return [""] * QUERIES + [chr(0x4E00 + i) for i in self.ids]

    def tokens2ids(self, tokens):
        return [[ord(token) - 0x4E00] for token in tokens]


def make_queries(item):
    # Seven languages, two norms: the second round over the languages has the other norm each.
    return {"language": LANGUAGES[item % len(LANGUAGES)], "text_norm": NORMS[item % len(NORMS)]}


def infer(model, speech, tokenizer, query):
    results, _ = model.inference(
        speech.clone(), torch.tensor([speech.shape[1]]), ["key"], tokenizer, data_type="fbank", device="cpu",
        output_timestamp=True, **query,
    )  # fmt: skip
    return results[0]


def emissions(logits):
    """Best id of every run of equal ids, and where it starts; blanks (0) are left out."""
    best = logits.argmax(-1)
    ids, counts = torch.unique_consecutive(best, return_counts=True)
    starts = counts.cumsum(0) - counts
    return ids[ids != 0], starts[ids != 0]


def sense_voice_stages(model, speech, query):
    tp_stages = {f"tp_layer_{i}": layer for i, layer in enumerate(model.encoder.tp_encoders)}
    own = {"after_norm": model.encoder.after_norm, "encoder_out": model.encoder, "ctc_logits": model.ctc.ctc_lo}
    with recorded(encoder_stages(model.encoder) | tp_stages | own) as stages:
        infer(model, speech, Ids([]), query)
    ids, positions = emissions(stages["ctc_logits"][0])
    text = ids[positions >= QUERIES]
    result = infer(model, speech, Ids(text.tolist()), query)
    assert [ord(letter) - 0x4E00 for letter in result["text"]] == ids.tolist()
    stages |= {"speech": speech, "ids": ids, "positions": positions}
    stages["timestamps"] = torch.tensor(result.get("timestamp", []), dtype=torch.int64).reshape(-1, 2)
    assert len(stages["timestamps"]) == len(text)
    return stages


def tune_ctc(model, speech):
    """Spreads the logits, and makes blank the best of about half of the frames."""
    with recorded({"logits": model.ctc.ctc_lo}) as outputs:
        infer(model, speech, Ids([]), make_queries(0))
    logits = outputs["logits"] - model.ctc.ctc_lo.bias
    gain = 4.0 / logits.std()
    model.ctc.ctc_lo.weight.mul_(gain)
    model.ctc.ctc_lo.bias.copy_(-gain * logits.mean((0, 1)))
    logits = gain * logits + model.ctc.ctc_lo.bias
    model.ctc.ctc_lo.bias[0] += (logits[0, :, 1:].max(-1).values - logits[0, :, 0]).median()


def random_model(name, config):
    seed(name)
    model = build(config | {"input_size": feature_dim(config)}, SenseVoiceSmall)
    if name == "sense_voice_quiet":
        for parameter in model.encoder.after_norm.parameters():
            parameter.mul_(0.003)
    tune_ctc(model, smooth_noise(100, feature_dim(config)))
    return model


def sense_voice_items(model, items):
    tensors, summary = {}, []
    for i, speech in enumerate(items):
        query = make_queries(i)
        stages = sense_voice_stages(model, speech, query)
        tensors |= {f"item{i}.{name}": tensor for name, tensor in stages.items()}
        best = stages["ctc_logits"][0].topk(2).values
        margin = round(float((best[:, 0] - best[:, 1]).min()), 6)
        summary.append({"frames": speech.shape[1], **query, "tokens": len(stages["ids"]), "margin": margin})
    return tensors, summary


def write_sense_voice(name, config, frames):
    model = random_model(name, config)
    tensors, summary = sense_voice_items(model, [smooth_noise(t, feature_dim(config)) for t in frames])
    write(
        HERE / f"{name}.safetensors",
        weights(model) | tensors,
        config=config,
        items=summary,
        **{"class": "SenseVoiceSmall"},
    )


def field(number, content):
    """One field of a protocol buffer: bytes, a float or an integer."""
    if isinstance(content, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", content)
    if isinstance(content, int):
        return bytes([number << 3]) + varint(content)
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(value):
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def bpe_model(pieces):
    """A sentencepiece model of these (piece, type) that can decode; type 1 normal, 2 unknown, 3 control, 4 user-defined."""
    messages = (
        field(1, piece.encode()) + field(2, -float(i)) + field(3, kind) for i, (piece, kind) in enumerate(pieces)
    )
    trainer = field(3, 2)  # model_type BPE
    return b"".join(field(1, message) for message in messages) + field(2, trainer) + field(3, field(1, b"identity"))


def write_full_sense_voice(directory, am_mvn):
    """SenseVoiceSmall's sizes; the pieces are made up."""
    tags = ["<|zh|>", "<|en|>", "<|NEUTRAL|>", "<|Speech|>", "<|withitn|>", "<|woitn|>"]
    special = [("<unk>", 2), ("<s>", 3), ("</s>", 3)]
    count = 25055 - len(special) - len(tags)
    pieces = special + [(chr(0x4E00 + i) if i < 20000 else f"▁w{i}", 1) for i in range(count)] + [(t, 4) for t in tags]
    config = sense_voice_config((80, 7, 6), sanm(512, 4, 2048, 50, 11, 0), 20, len(pieces))
    model = random_model("full_sense_voice", config)
    config |= {"tokenizer": "SentencepiecesTokenizer"}
    write_checkpoint(directory, config, model, None)
    (directory / "bpe.model").write_bytes(bpe_model(pieces))
    text = am_mvn.read_text(encoding="utf-8") if am_mvn else kaldi_cmvn([-12.0] * 560, [0.25] * 560)
    (directory / "am.mvn").write_text(text, encoding="utf-8")
    tensors, summary = sense_voice_items(model, [smooth_noise(frames, 560) for frames in (333, 183, 50)])
    write(directory / "stages.safetensors", tensors, config=config, items=summary, **{"class": "SenseVoiceSmall"})


def generate():
    for name, (config, frames) in SENSE_VOICES.items():
        write_sense_voice(name, config, frames)
