"""A trigram model of the demo models' domain -> demo.arpa (interpolated Witten-Bell, as a back-off model).

    python models/demo/recipe/gen_text.py
    python tests/data/lm/make.py

Its words are the tokens that words are written with: Chinese characters and English words. The sentences of the test audio are
left out, and trigrams that occur once.
"""

import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).parent
ORDER = 3


def rows(path):
    return [json.loads(line)["text"] for line in open(path, encoding="utf-8")]


def held_out():
    data = HERE.parent
    clips = json.loads((data / "hotwords/speech.json").read_text(encoding="utf-8"))
    texts = json.loads((data / "eval/texts.json").read_text(encoding="utf-8"))
    return {clip["text"] for clip in clips} | set(texts.values())


def main():
    leave_out = held_out()
    sentences = [text for text in rows("work/text/train.jsonl") if text not in leave_out]
    counts = [Counter() for _ in range(ORDER)]
    for text in sentences:
        words = ["<s>", *re.findall(r"[a-z]+|[^a-z ]", text), "</s>"]
        for n in range(ORDER):
            counts[n].update(tuple(words[i : i + n + 1]) for i in range(len(words) - n))
    counts[2] = Counter({gram: count for gram, count in counts[2].items() if count > 1})
    del counts[0][("<s>",)]
    prob = {(): 1 / len(counts[0])}
    for count in counts:
        seen = defaultdict(dict)
        for gram, c in count.items():
            seen[gram[:-1]][gram] = c
        for history, grams in seen.items():
            total, kinds = sum(grams.values()), len(grams)
            for gram, c in grams.items():
                lower = prob[gram[1:]] if len(gram) > 1 else prob[()]
                prob[gram] = (c + kinds * lower) / (total + kinds)
    backoff = {}
    for count in counts[1:]:
        seen = defaultdict(list)
        for gram in count:
            seen[gram[:-1]].append(gram)
        for history, grams in seen.items():
            left = 1 - sum(prob[gram] for gram in grams)
            lower = 1 - sum(prob[gram[1:]] for gram in grams)
            backoff[history] = math.log10(max(left, 1e-7) / max(lower, 1e-7))
    lines = ["\\data\\"] + [f"ngram {n + 1}={len(counts[n]) + (n == 0)}" for n in range(ORDER)]
    for n in range(ORDER):
        lines += ["", f"\\{n + 1}-grams:"]
        grams = sorted(counts[n])
        if n == 0:
            lines.append(f"-99\t<s>\t{backoff[('<s>',)]:.3f}")
        for gram in grams:
            weight = f"\t{backoff[gram]:.3f}" if gram in backoff else ""
            lines.append(f"{math.log10(prob[gram]):.3f}\t{' '.join(gram)}{weight}")
    (HERE / "demo.arpa").write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")


main()
