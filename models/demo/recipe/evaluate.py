"""Error rates through FunASR's own AutoModel on the held-out set.

python evaluate.py          reads work/models/{paraformer,ct-punc}, work/wav/held
"""

from collections import Counter

from common import WORK, errors, read_rows
from funasr import AutoModel

HOMOPHONES = "公式 公事 会议 会意 权利 权力 期中 期终 树木 数目 事例 示例 视力 势力 攻势".split()


def load(name):
    return AutoModel(
        model=str(WORK / "models" / name), device="cpu", disable_update=True, disable_pbar=True, disable_log=True
    )


def main():
    rows = read_rows(WORK / "wav/held.jsonl")
    asr, punctuation = load("paraformer"), load("ct-punc")
    wrong, total, exact = Counter(), Counter(), 0
    for row in rows:
        text = asr.generate(input=str(WORK / f"wav/held/{row['id']}.wav"))[0]["text"].lower()
        distance, size = errors(row["text"], text)
        slot = "homophone" if any(word in row["text"] for word in HOMOPHONES) else "other"
        for group in ("all", slot, f"voice {row['voice'][0]}"):
            wrong[group] += distance
            total[group] += size
        # FunASR capitalises a leading English word and puts ASCII marks after one; neither is an error here.
        punctuated = (
            punctuation.generate(input=row["text"])[0]["text"].lower().translate(str.maketrans(",.?", "，。？", " "))
        )
        exact += punctuated == row["punc"].replace(" ", "")
    for group in total:
        print(f"CER {group:10} {wrong[group] / total[group]:.2%} ({wrong[group]} of {total[group]})")
    print(f"sentences punctuated exactly: {exact} of {len(rows)}")


if __name__ == "__main__":
    main()
