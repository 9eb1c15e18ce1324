"""Writes text.json: what FunASR's own text functions give for seeded random input.

Run with FunASR 1.4.16 installed: python tests/golden/text.py DEMO_DIR, where DEMO_DIR holds eval/reference.jsonl.
Numbers are packed so that the file stays small: labels are digit strings, alphas are thousandths, token i of a
join case lasts from 120 i to 120 i + 100 ms.
"""

import io
import json
import pathlib
import random
import re
import sys
import tempfile
import types
from importlib.metadata import version

import jieba
import numpy as np
import sentencepiece
import torch
from funasr.auto.auto_model import _join_vad_texts
from funasr.models.ct_transformer.model import CTTransformer
from funasr.models.ct_transformer.utils import split_words
from funasr.tokenizer.char_tokenizer import CharTokenizer
from funasr.utils import postprocess_utils as post
from funasr.utils import timestamp_tools as stamps

PUNC_LIST = ["<unk>", "_", "，", "。", "？", "、"]
ASCII_PUNC_LIST = ["<unk>", "_", ",", "。", "?", "、"]
HANZI = list("你好世界今天我们去北京十二点的会议在鿿一龥")
ALPHA = ["hello", "good", "app", "i'm", "don't", "'", "ok", "naïve", "東a", "あ", "の", "ｆｕ", "Ⅷ", "กี", "é"]
LETTERS = list("aiusbcXYZ")
PIECES = ["hel@@", "wi@@", "ne@@", "八@@", "8@@", "@@", "x@@"]
DIGITS = ["0", "3", "9", "42", "9a", "1st", "95"]
SPECIAL = ["<unk>", "</s>", "<s>", "<OOV>"]
MARKS = ["，", "。", "%", "3.5", "a-b", " ", "-", "\u3000", "<blank>"]
POOLS = {
    "hanzi": [HANZI],
    "alpha": [ALPHA, LETTERS],
    "letters": [LETTERS, LETTERS, ALPHA],
    "mixed": [HANZI, ALPHA, LETTERS],
    "pieces": [HANZI, ALPHA, PIECES],
    "digits": [HANZI, DIGITS],
    "special": [HANZI, ALPHA, PIECES, SPECIAL],
    "all": [HANZI, ALPHA, LETTERS, PIECES, DIGITS, SPECIAL, MARKS],
}


def random_tokens(rng, pools, longest):
    return [rng.choice(rng.choice(pools)) for _ in range(rng.randint(0, longest))]


def has_aligned_times(tokens):
    """Whether FunASR's times belong to its words: nothing filtered, kept verbatim or interrupted inside a word."""
    inside_word = False
    for token in tokens:
        chinese, piece = post.isAllChinese(token), "@@" in token
        if token in SPECIAL or token == " " or (inside_word and chinese):
            return False
        if not (chinese or piece or post.isAllAlpha(token)):
            return False
        inside_word = piece and not chinese
    return not inside_word


def join_case(tokens):
    text, words = post.sentence_postprocess(list(tokens))
    case = {"tokens": tokens, "text": text, "words": [word for word in words if word]}
    if has_aligned_times(tokens):
        times = [[120 * i, 120 * i + 100] for i in range(len(tokens))]
        _, case["times"], _ = post.sentence_postprocess(list(tokens), times)
    return case


# English as `@@` pieces: contractions, casing, single letters, numbers, Chinese, words across special tokens.
ENGLISH = """
i'm sure you don't
i am sure i'm not
it@@ 's i@@ 'm we@@ 'll they've
don ' t
I'm in the U S A
the u@@ s a b c team
u s 'm a b
a b c 你 a b 好 c d
i have a b dog
plan b
iphone 1 5 pro
mp@@ 3 player
mp@@ three 3 g
3 g and 4 g
covid - 1 9
two % of 3.5
hel@@ <unk> lo world
hel@@ </s> lo
<s> hello wor@@ <OOV> ld </s>
u <unk> s a
wi@@ n@@ ter@@ s
un@@ be@@ lie@@ va@@ ble 好 的 ok
今 天 good mor@@ ning 明 天
good 你 hel@@ lo 好
w i fi 你 w i f i 好
NA@@ SA launch@@ es
naïve café é a
hello ' world
x@@ y z
""".strip().splitlines()


def join_cases(rng):
    fixed = [["u", "s", "a"], ["a", "b", "你", "c", "d"], ["ok", "8@@", "ay"], ["good", "，", "你"], ["你", "hel@@"]]
    fixed += [["hel@@", "你", "lo"], ["good", "hel@@", "你"], ["hel@@", "lo", "world", "你", "好"], [], ["</s>"]]
    drawn = [random_tokens(rng, pools, 12) for pools in POOLS.values() for _ in range(40)]
    return [join_case(tokens) for tokens in fixed + [line.split() for line in ENGLISH] + drawn]


def piece_cases(rng):
    pieces = ["▁hello", "▁wor", "ld", "▁i", "▁i'm", "'s", "▁a", "<unk>", "▁good", "ing", "</s>"]
    cases = []
    for _ in range(40):
        tokens = random_tokens(rng, [pieces], 9)
        text, words = post.sentence_postprocess_sentencepiece(tokens)
        cases.append({"tokens": tokens, "text": text, "words": words})
    return cases


def decoded_cases(rng):
    """What `Paraformer.inference` makes of ids with a sentencepiece model: its own decoder, then that of characters."""
    model = io.BytesIO()
    lines = ["i'm here hello i have u s a i've wonderful don't we'll the world of he won it", "你好 ok 3.5 covid-19"] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=64,
        model_type="bpe",
        normalization_rule_name="identity",
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    texts = ["i'm here", "u s a", "the world won't 你好", "covid-19 ok", "i have i've 3.5"]
    drawn = [rng.choices(range(3, processor.get_piece_size()), k=rng.randint(1, 10)) for _ in range(40)]
    cases = []
    for ids in [processor.encode(text) for text in texts] + drawn:
        text = processor.decode_pieces(list(processor.decode_ids(ids)))
        cases.append({"tokens": [processor.id_to_piece(i) for i in ids], "text": text})
    return cases


def segment_cases(rng):
    pool = ["你好", "hello", "  ", "", "世界 ", "<|zh|><|Speech|>今天", "ok<|x", "<|a|", "あの", "𠀀", "㐀", "3", "<||>"]
    cases = [random_tokens(rng, [pool], 6) for _ in range(60)]
    return [{"texts": texts, "joined": _join_vad_texts(texts)} for texts in cases]


def stamp_case(rng, rate):
    frames = rng.randint(1, 120)
    level = rng.choice([120, 300, 700]) // (2 if rate == 3 else 1)
    alphas = [rng.randint(0, 2 * level) if rng.random() < 0.8 else 0 for _ in range(frames)]
    values = torch.from_numpy(np.array(alphas, dtype=np.float32) / np.float32(1000))
    if rng.random() < 0.5:
        peaks = stamps.cif_wo_hidden(values.unsqueeze(0), 1.0 - 1e-4)[0]
        fires = torch.where(peaks >= 1.0 - 1e-4)[0].tolist()
    else:
        fires = sorted(rng.sample(range(frames), min(frames, rng.randint(1, 12))))
        peaks = torch.full((frames,), 0.25)
        peaks[fires] = 1.0
    count = max(0, len(fires) - 1 + rng.choice([0, 0, 0, 1, -1, 3]))
    tokens = ["x"] * count + rng.choice([[], [], ["</s>"]])
    offset = rng.choice([0, 0, 1234, 70])
    case = {"rate": rate, "alphas": alphas, "fires": fires, "tokens": len(tokens), "eos": "</s>" in tokens}
    case["offset"] = offset
    try:
        case["times"] = stamps.ts_prediction_lfr6_standard(
            values.clone(), peaks.clone(), list(tokens), vad_offset=offset, upsample_rate=rate
        )[1]
    except IndexError:
        case["times"] = None
    return case


class ScriptedPunctuator:
    """FunASR's punctuation loop around labels drawn at random instead of a network."""

    def __init__(self, rng, punc_list, mark_rate, segmenter=None):
        self.calls = []
        self.model = types.SimpleNamespace(
            punc_list=punc_list, sentence_end_id=3, jieba_usr_dict=segmenter, punc_forward=self.punc_forward
        )
        self.rng, self.mark_rate = rng, mark_rate

    def draw(self):
        rate = self.rng.random()
        return 1 if rate > self.mark_rate else self.rng.choice([2, 2, 3, 3, 4, 5])

    def punc_forward(self, text, text_lengths):
        labels = [self.draw() for _ in range(text.shape[1])]
        self.calls.append([text.shape[1], labels])
        return torch.nn.functional.one_hot(torch.tensor([labels]), 6).float(), None

    def run(self, text, vocabulary):
        tokenizer = CharTokenizer(token_list=vocabulary)
        result = CTTransformer.inference(self.model, [text], key=["x"], tokenizer=tokenizer, device="cpu")[0][0]
        labels = result["punc_array"]
        return result["text"], [] if labels is None else labels.tolist()


def digits(labels):
    return "".join(map(str, labels))


def punctuation_case(rng, vocabulary, words, punc_list=PUNC_LIST, mark_rate=0.15, segmenter=None):
    text = "".join(word + rng.choice(["", " ", " ", "\t\u3000"]) for word in words)
    scripted = ScriptedPunctuator(rng, punc_list, mark_rate, segmenter)
    expected, labels = scripted.run(text, vocabulary)
    case = {"input": text, "text": expected, "labels": digits(labels), "ascii_list": punc_list is ASCII_PUNC_LIST}
    case["calls"] = [digits(call) for _, call in scripted.calls]
    return case


def punctuation_cases(rng, vocabulary):
    fixed = ["iPhone", "GPU", "Hello world", "hello world", " ", "", "a.", "what?", "你好,", "i'm", "'tis", "你", "x，"]
    cases = [punctuation_case(rng, vocabulary, [text], mark_rate=rate) for text in fixed for rate in (0.0, 1.0)]
    words = ["hello", "gpu", "GPU", "iPhone", "ok", "3.5", "a,b", "x.", "é"] + HANZI * 2
    lower = [word for word in words if not any("A" <= letter <= "Z" for letter in word)]
    for count in [1, 2, 5, 19, 20, 21, 40, 41, 60, 90, 150] * 3:
        pool = rng.choice([words, lower, lower])
        cases.append(punctuation_case(rng, vocabulary, random.Random(count).choices(pool, k=count)))
    for count, rate in [(500, 0.004), (500, 0.01), (440, 0.002), (300, 0.05), (260, 0.0), (450, 0.006)]:
        cases.append(punctuation_case(rng, vocabulary, rng.choices(lower, k=count), mark_rate=rate))
    for count in [3, 25, 260]:
        case = punctuation_case(rng, vocabulary, rng.choices(lower, k=count), ASCII_PUNC_LIST)
        cases.append(case)
    return cases


# Words that jieba has and that it has not, with and without frequency and tag, mixed, repeated, forbidden (0), with a
# space, a byte order mark, letters that jieba never looks up, and a word beside which its parts are frequent.
USER_DICT = """\ufeff达摩院 12 nt
通义千问
魔搭社区 nz
语音识别\r
我们 300000 r
识别模型
今天 0
T恤衫
T恤衫
wifi6 5
New York 7 n
开源社区 20
人民医院

的灯
一共
这台
𠀀好 9
กีกา
公司新闻
这个
我不同意
的会议
"""


def demo_sentences():
    recipe = pathlib.Path(__file__).parents[2] / "models" / "demo" / "recipe" / "templates.txt"
    text = recipe.read_text(encoding="utf-8")
    return re.sub(r"\{\w+\}|[，。？、]", "", text).split()


def jieba_golden(rng):
    """Cuts and texts with jieba's whole dictionary. The words of it that can play a part stand in `dictionary`, and one
    that cannot carries the frequency of all others, so that probabilities stay the same."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as file:
        jieba.initialize()
        main, total = {word: count for word, count in jieba.dt.FREQ.items() if count}, jieba.dt.total
        file.write(USER_DICT)
        file.flush()
        jieba.load_userdict(file.name)
    cjk = HANZI + list("达摩院识别模型通义千问社区开源人民医院大学生活动")
    sentences = demo_sentences()
    sentences += ["".join(rng.choices(cjk, k=rng.randint(2, 14))) for _ in range(120)]
    extra = ["T恤衫", "B超", "wifi6", "gpt4", "42", "3.5%", "𠀀好", "กีกา", "鿿一", "，", "ｆｕ", "a-b", "Éa", "x_y", "#1"]
    sentences += ["".join(rng.choices(cjk + extra * 3, k=rng.randint(2, 9))) for _ in range(60)]
    pool = sentences[::7] + extra + ["hello", "don't", "GPU", "New York", "wifi6", "ok"] * 4
    vocabulary = ["<s>", "hello", "语音识别", "我们", "的", "是", "通义千问", "T恤衫", "<unk>"]
    counts = [(1, 0.0), (1, 1.0), (2, 0.3), (4, 0.3), (6, 0.3), (10, 0.2), (20, 0.2), (30, 0.1), (40, 0.1), (110, 0.003)]
    texts = [
        punctuation_case(rng, vocabulary, rng.choices(pool, k=count), mark_rate=rate, segmenter=jieba)
        for count, rate in counts
    ]
    cuts = ["|".join(split_words(sentence, jieba_usr_dict=jieba)) for sentence in sentences]
    used = "\n".join(sentences + [USER_DICT, *("".join(case["input"].split()) for case in texts)])
    kept = {word: count for word, count in main.items() if word in used}
    kept["…"] = total - sum(kept.values())
    dictionary = "\n".join(f"{word} {count}" for word, count in kept.items())
    return {"dictionary": dictionary, "user": USER_DICT, "vocabulary": vocabulary, "cuts": cuts, "texts": texts}


def sentence_cases(rng):
    cases = []
    for _ in range(30):
        words = random_tokens(rng, [HANZI, HANZI, ["hello", "app", "gpu"]], 14) + ["你"]
        labels = [rng.choice([1, 1, 1, 1, 2, 3, 4, 5]) for _ in words[1:]] + [3]
        times = [[120 * i, 120 * i + 100] for i in range(len(words))]
        found = stamps.timestamp_sentence(labels, times, " ".join(words))
        case = {"words": words, "labels": digits(labels)}
        case["sentences"] = [[item["text"], item["start"], item["end"]] for item in found]
        cases.append(case)
    return cases


def demo_cases(demo):
    lines = (demo / "eval" / "reference.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line)["ct_punc"] for line in lines]
    return [{"input": c["input"], "text": c["text"], "labels": digits(c["punc_array"])} for c in found]


def main():
    rng = random.Random(20)
    vocabulary = ["<blank>", "<s>", "</s>", "hello", "gpu", "ok", "a,b", *dict.fromkeys(HANZI[:12]), "<unk>"]
    golden = {
        "versions": {name: version(name) for name in ("funasr", "torch", "numpy", "jieba")}
        | {"python": sys.version.split()[0]},
        "vocabulary": vocabulary,
        "join": join_cases(rng),
        "pieces": piece_cases(rng),
        "decoded": decoded_cases(random.Random(22)),
        "segments": segment_cases(rng),
        "timestamps": [stamp_case(rng, rate) for rate in (1, 3) for _ in range(60)],
        "punctuation": punctuation_cases(rng, vocabulary),
        "demo_punctuation": demo_cases(pathlib.Path(sys.argv[1])),
        "sentences": sentence_cases(rng),
        "jieba": jieba_golden(random.Random(21)),
    }
    lines = []
    for key, value in golden.items():
        rows = value if isinstance(value, list) and value and isinstance(value[0], dict) else [value]
        packed = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        body = packed[0] if rows is not value else "[\n" + ",\n".join(packed) + "\n]"
        lines.append(f"{json.dumps(key)}:{body}")
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    pathlib.Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
