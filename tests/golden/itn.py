"""Texts with spoken numbers, and what WeTextProcessing's `wetext` 0.1.8 writes for them.

Needs `pip install wetext==0.1.8` (a venv of its own will do, FunASR is not used). Texts are drawn with fixed seeds from small
grammars of spoken Chinese and English, half of them with numerals in any order, on which equal paths are frequent.

    python tests/golden/itn.py             # writes itn.json; a second run gives the same bytes
    python tests/golden/itn.py zh 20000    # that many texts and results, tab-separated, to compare more
"""

import json
import random
import sys
from pathlib import Path

from wetext import Normalizer

CASES = 400

DIGITS = "零一二三四五六七八九"
UNITS = ["", "十", "百", "千"]


def chinese_number(value):
    """A number as it is read: 10086 -> 一万零八十六."""
    if value >= 10000:
        high, low = divmod(value, 10000)
        zero = "零" if 0 < low < 1000 else ""
        return chinese_number(high) + "万" + zero + (chinese_number(low) if low else "")
    out, zero = "", False
    for place in reversed(range(4)):
        digit = value // 10**place % 10
        if digit:
            out += ("零" if zero and out else "") + DIGITS[digit] + UNITS[place]
            zero = False
        else:
            zero = True
    out = out or "零"
    return out[1:] if out.startswith("一十") else out


def chinese_digits(rng, count):
    letters = DIGITS + ("幺" if rng.random() < 0.2 else "")
    return "".join(rng.choice(letters) for _ in range(count))


def chinese_phrase(rng):
    number = lambda top: chinese_number(rng.randrange(top))
    kinds = [
        lambda: number(rng.choice([10, 100, 1000, 10000, 100000000])),
        lambda: chinese_digits(rng, rng.choice([3, 4, 6, 11])),
        lambda: chinese_digits(rng, 4) + "年",
        lambda: chinese_digits(rng, 4) + "年" + chinese_number(rng.randint(1, 12)) + "月",
        lambda: chinese_digits(rng, 4) + "年" + chinese_number(rng.randint(1, 12)) + "月"
        + chinese_number(rng.randint(1, 31)) + rng.choice("日号"),
        lambda: chinese_number(rng.randint(1, 12)) + "月" + chinese_number(rng.randint(1, 31)) + rng.choice("日号"),
        lambda: rng.choice(["", "上午", "下午", "早上", "晚上"]) + chinese_number(rng.randrange(24)) + "点"
        + rng.choice(["", "半", "一刻", chinese_number(rng.randrange(60)) + "分",
                      chinese_number(rng.randrange(60)) + "分" + chinese_number(rng.randrange(60)) + "秒"]),
        lambda: number(10000) + rng.choice(["元", "块", "美元", "块五毛", "块钱", "欧元", "万元"]),
        lambda: number(1000) + rng.choice(["公里", "千克", "平方米", "摄氏度", "个", "名", "分", "秒", "小时", "公里每小时", "毫升"]),
        lambda: rng.choice(["百分之", "千分之", "负"]) + number(100) + rng.choice(["", "点" + chinese_digits(rng, 2)]),
        lambda: chinese_number(rng.randint(2, 20)) + "分之" + chinese_number(rng.randint(1, 19)),
        lambda: number(1000) + "点" + chinese_digits(rng, rng.randint(1, 4)) + rng.choice(["", "米", "元", "万", "亿"]),
        lambda: "第" + number(1000) + rng.choice(["", "名", "章", "届"]),
        lambda: number(10) + rng.choice(["比", "乘以", "加", "减", "到", "至"]) + number(10),
        lambda: rng.choice(["星期", "周", "礼拜"]) + rng.choice("一二三四五六日"),
        lambda: "".join(rng.choice("零一二三四五六七八九十百千万亿两点分之年月号元个第负") for _ in range(rng.randint(1, 8))),
    ]
    return rng.choice(kinds)()


CHINESE_WORDS = (
    "今天 我们 公司 大约 有 的 了 在 和 去 价格 是 温度 电话 一起 一下 十分 万一 开会 感谢 他说 需要 左右 以上 达到 增长 以及 请 拨打 "
    "会议 从 到 比赛 得分 员工 距离 大家 欢迎 iphone wifi ok 吗 呢 啊"
).split()


def chinese_text(rng):
    parts = []
    for _ in range(rng.randint(1, 4)):
        parts += rng.choices(CHINESE_WORDS, k=rng.randint(0, 3))
        parts.append(chinese_phrase(rng))
        parts.append(rng.choice(["", "", "，", "。", "、", "？", " "]))
    return "".join(parts).strip()


ONES = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
MONTHS = "january february march april may june july august september october november december".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth twentieth".split()


def english_number(value, rng):
    if value < 10:
        return ONES[value]
    if value < 20:
        return TEENS[value - 10]
    if value < 100:
        return TENS[value // 10 - 2] + (" " + ONES[value % 10] if value % 10 else "")
    for size, name in [(10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred")]:
        if value >= size:
            high, low = divmod(value, size)
            link = " and " if size == 100 and low and rng.random() < 0.5 else " "
            return english_number(high, rng) + " " + name + (link + english_number(low, rng) if low else "")


def english_phrase(rng):
    number = lambda top: english_number(rng.randrange(top), rng)
    digits = lambda count: " ".join(rng.choice(ONES + ["oh"]) for _ in range(count))
    year = lambda: " ".join([number(100) if rng.random() < 0.3 else rng.choice(["nineteen", "twenty", "eighteen"]),
                             english_number(rng.randint(10, 99), rng)])
    kinds = [
        lambda: number(rng.choice([10, 100, 1000, 10**6, 10**9])),
        lambda: digits(rng.choice([3, 4, 7, 10])),
        year,
        lambda: rng.choice(MONTHS) + " " + rng.choice(["", "the "]) + rng.choice(ORDINALS) + rng.choice(["", " " + year()]),
        lambda: "the " + rng.choice(ORDINALS) + " of " + rng.choice(MONTHS) + rng.choice(["", " " + year()]),
        lambda: english_number(rng.randint(1, 12), rng) + " " + rng.choice(["o'clock", "thirty", "fifteen", "oh five"])
        + rng.choice(["", " a m", " p m", " pm"]),
        lambda: rng.choice(["half", "quarter", "ten", "twenty"]) + " " + rng.choice(["past", "to"]) + " "
        + english_number(rng.randint(1, 12), rng),
        lambda: number(1000) + " " + rng.choice(["dollars", "dollar", "euros", "pounds", "cents", "yen"])
        + rng.choice(["", " and " + number(100) + " cents"]),
        lambda: number(1000) + " " + rng.choice(["percent", "kilometers", "miles per hour", "degrees celsius", "kilograms", "meters"]),
        lambda: number(100) + " point " + digits(rng.randint(1, 3)) + rng.choice(["", " million", " percent"]),
        lambda: rng.choice(["minus ", "negative "]) + number(100),
        lambda: rng.choice(ORDINALS + ["twenty " + rng.choice(ORDINALS), "one hundredth"]),
        lambda: rng.choice(["a", "tom", "info"]) + " at " + rng.choice(["gmail", "abc"]) + " dot com",
        lambda: "www dot " + rng.choice(["abc", "google"]) + " dot " + rng.choice(["com", "org"]),
        lambda: " ".join(rng.choice(ONES + TEENS + TENS + ["hundred", "thousand", "point", "and", "half", "dollars", "oh"])
                         for _ in range(rng.randint(1, 6))),
    ]
    return rng.choice(kinds)()


ENGLISH_WORDS = (
    "we have about it was in the on at call me please meeting price is around more than people and from to of my next "
    "one day second chance Hello doctor smith mister street i'm don't"
).split()


def english_text(rng):
    parts = []
    for _ in range(rng.randint(1, 3)):
        parts += rng.choices(ENGLISH_WORDS, k=rng.randint(0, 4))
        parts.append(english_phrase(rng) + rng.choice(["", "", "", ",", ".", "?"]))
    return " ".join(parts)


def cases(language, count):
    rng = random.Random(f"itn {language}")
    text = {"zh": chinese_text, "en": english_text}[language]
    normalizer = Normalizer(lang=language, operator="itn")
    seen = set()
    while len(seen) < count:
        spoken = text(rng)
        if spoken not in seen:
            seen.add(spoken)
            yield spoken, normalizer.normalize(spoken)


def main():
    if len(sys.argv) == 3:
        for spoken, written in cases(sys.argv[1], int(sys.argv[2])):
            print(spoken, written, sep="\t")
        return
    golden = {language: list(cases(language, CASES)) for language in ["zh", "en"]}
    lines = ["{"]
    for language, pairs in golden.items():
        lines.append(f' "{language}": [')
        lines.append(",\n".join("  " + json.dumps(pair, ensure_ascii=False) for pair in pairs))
        lines.append(" ]" + ("," if language == "zh" else ""))
    Path(__file__).with_suffix(".json").write_text("\n".join(lines + ["}", ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
