"""Speech for hotwords -> speech.opus, speech.json: 100 held-out sentences without the words of the groups below, and the words
themselves in carrier sentences; most words of a group sound alike.

    python models/demo/recipe/gen_text.py                # needs what the recipe of the demo models needs
    python tests/data/hotwords/make.py

The clips stand one after the other; `start` and `end` are samples at 16 kHz. Voices as in the recipe (espeak-ng).
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
import soundfile
from pypinyin import lazy_pinyin

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "models/demo/recipe"))
import synth  # noqa: E402

HERE = Path(__file__).parent
GROUPS = [
    ["公式", "公事", "攻势"],
    ["会议", "会意"],
    ["权利", "权力"],
    ["期中", "期终"],
    ["树木", "数目"],
    ["事例", "示例", "视力", "势力"],
    ["通义", "同意"],
    ["北京", "背景"],
]
CARRIERS = ["他说的是{}。", "请再说一遍{}。", "请写下{}这两个字。"]
VOICES = [
    {"variant": variant, "english": "en-us", "pitch": 50, "speed": 155, "tempo": 1.0} for variant in ["f2", "m3", "f4", "m7"]
]


# More words of the domain.
OTHERS = (
    "阿里巴巴 达摩院 通义实验室 语音识别 出租车 摄像头 电影院 篮球 蓝牙 卧室 预算 客户需求 技术方案 数据安全 "
    "同比增长 厦门 成都"
).split()


def sound(text):
    return "".join(lazy_pinyin(text))


def unrelated_words(text):
    """Hotwords that share no syllable with a text, whatever the tone."""
    words = [*dict.fromkeys(word for group in GROUPS for word in group), *OTHERS]
    return [word for word in words if not set(lazy_pinyin(word)) & set(lazy_pinyin(text))]


def unrelated(count):
    """Held-out sentences in which nothing sounds like a word of a group."""
    sounds = {sound(word) for group in GROUPS for word in group}
    rows = [json.loads(line) for line in open("work/text/held.jsonl", encoding="utf-8")]
    rows = [row for row in rows if not any(part in sound(row["text"]) for part in sounds)]
    return random.Random(1).sample(rows, count)


def main():
    clips = []
    for row in unrelated(100):
        r = random.Random(row["id"])
        item = {"text": row["text"], "unrelated": unrelated_words(row["text"])}
        clips.append((item, synth.augment(synth.say(row["punc"], synth.voice(r), r), r)))
    r = random.Random(2)
    for group in GROUPS:
        for word in group:
            for carrier in r.sample(CARRIERS, 2):
                text = carrier.format(word)
                audio = synth.say(text, VOICES[len(clips) % len(VOICES)], r)
                clips.append(({"text": text[:-1], "hotword": word, "group": group}, synth.augment(audio, r)))
    items, at = [], 0
    for item, audio in clips:
        items.append(item | {"start": at, "end": at + len(audio)})
        at += len(audio)
    audio = np.concatenate([audio for _, audio in clips])
    soundfile.write(HERE / "speech.opus", audio, synth.RATE, format="OGG", subtype="OPUS", compression_level=0.93)
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    (HERE / "speech.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


main()
