"""Writes pieces.json: what becomes of random pieces: `python tests/golden/pieces.py BPE_MODEL`.

`models`: what SentencePiece decodes. BPE_MODEL is the demo SenseVoice's; its pieces are models/demo-sensevoice/tokens.json. The
others, with a byte for every character that is no piece, are trained here. `rules` has the names of text::pieces::PieceRules.

`words`: pieces, and FunASR's words and times of them, where piece i lasts from 125 i to 125 i + 62 ms. Left out is what
FunASR does to a first piece that starts a word (`\u2581` stays in it) and to a lone `\u2581` between letters (they are joined).
"""

import io
import json
import random
import sys
from pathlib import Path

import sentencepiece
from funasr.models.sense_voice.model import SenseVoiceSmall

HERE = Path(__file__).parent
WORDS = "speech model the a recognises words and tones café naïve 语音 识别 模型 今天 天气 很好".split()


def train(**options):
    rng = random.Random(7)
    lines = (" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(300))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["<|zh|>", "<|woitn|>"],
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def cases(processor, count):
    """Random ids of random kinds: pieces, spaces, bytes, whole characters in bytes, special ones."""
    rng = random.Random(count)
    size = processor.get_piece_size()
    pieces = [processor.id_to_piece(i) for i in range(size)]
    byte_ids = {int(p[3:5], 16): i for i, p in enumerate(pieces) if processor.is_byte(i)}
    spaced = [i for i, p in enumerate(pieces) if p.startswith("▁")] or [0]

    def some():
        kind = rng.randrange(6)
        if kind == 0 and byte_ids:
            return [byte_ids[byte] for byte in rng.choice(["é", "语", "😊", "\u0301", " "]).encode()]
        if kind == 1 and byte_ids:
            return [byte_ids[rng.choice([0x41, 0x80, 0xC3, 0xE8, 0xED, 0xF0, 0xF5, 0xFF, rng.randrange(256)])]]
        if kind == 2:
            return [rng.choice(spaced)]
        if kind == 3:
            return [rng.randrange(min(size, 8))]
        return [rng.randrange(size)]

    ids = [[i for _ in range(rng.randint(0, 7)) for i in some()] for _ in range(count)]
    return [[each, processor.decode(each)] for each in ids]


def word_cases(count):
    rng = random.Random(count)
    pool = ["▁hel", "lo", "▁a", "b", "c", "▁", "你", "好", "▁世", "3", "▁42", "'", "。", "é", "x1", "▁x1", "<|zh|>"]
    out = []
    while len(out) < count:
        pieces = rng.choices(pool, k=rng.randint(1, 9))
        if pieces[0].startswith("▁") or any(a == "▁" and b.isascii() and b.isalpha() for a, b in zip(pieces, pieces[1:])):
            continue
        times, words = SenseVoiceSmall.post(None, [[p, i * 0.125, i * 0.125 + 0.0625] for i, p in enumerate(pieces)])
        out.append([pieces, words, times])
    return out


def main():
    demo = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
    plain = {"control_symbols": ["<s>", "</s>"], "unk_surface": " ⁇ "}
    models = [(None, demo, plain | {"add_dummy_prefix": False, "remove_extra_whitespaces": True})]
    for prefix, extra in ((True, True), (True, False), (False, False)):
        normaliser = {"add_dummy_prefix": prefix, "remove_extra_whitespaces": extra}
        own = {} if extra else {"control_symbols": ["<mask>"], "unk_surface": "[?]"}
        rules = plain | own | normaliser
        rules["control_symbols"] = plain["control_symbols"] + own.get("control_symbols", [])
        processor = train(**normaliser, **own)
        models.append(([processor.id_to_piece(i) for i in range(processor.get_piece_size())], processor, rules))
    out = [
        {"pieces": pieces, "rules": rules, "cases": cases(processor, 150)} for pieces, processor, rules in models
    ]
    out = {"models": out, "words": word_cases(150)}
    text = json.dumps(out, ensure_ascii=False).replace('], [[', '],\n [[')
    (HERE / "pieces.json").write_text(text + "\n", encoding="utf-8")


main()
