"""Hotword lists as FunASR's SeACo Paraformer turns them into token ids."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

from common import HERE, VERSIONS
from funasr.models.seaco_paraformer.model import SeacoParaformer
from funasr.tokenizer.char_tokenizer import CharTokenizer

TOKENS = ["<blank>", "<s>", "</s>", *"阿里巴达摩院通义实验室你好0123", *"abc", "hel@@", "lo", "world", "wor@@", "ld", "<unk>"]
# `龘` is spelled with `<unk>`, `lone` with a token that is not listed, `贝` has no entry.
SEG_DICT = [
    *(f"{char} {char}" for char in "阿里巴达摩院通义实验室你好0123"),
    "hello hel@@ lo",
    "world wor@@ ld",
    "a a",
    "达摩 达 摩",
    "你好a 你 好 a",
    "龘 <unk>",
    "lone lone",
]
STRINGS = [
    "阿里巴巴",
    "阿里巴巴 达摩院 通义实验室",
    "  达摩院\t你好　阿里 ",
    "hello Hello2 world",
    "HELLO World",
    "a b c",
    "阿里hello 你好a 你好A",
    "贝 阿贝 龘 里龘",
    "0123 10a",
    "lone <unk> <s> </s>",
    "",
    "   ",
]
FILES = [
    "阿里巴巴\n达摩院\n",
    "hello world\nHELLO  world\t达摩 院\n你好a\n",
    "阿里 巴巴 hello\r\n贝 你好\r\nworld\r\n",
    "你好a b\n里龘\n达摩达摩",
]


def cases(directory, seg_dict):
    tokenizer = CharTokenizer(token_list=TOKENS)
    model, frontend = SimpleNamespace(sos=1), SimpleNamespace(cmvn_file=str(directory / "am.mvn"))
    if seg_dict:
        (directory / "seg_dict").write_text("".join(f"{line}\n" for line in SEG_DICT), encoding="utf-8")

    def ids(argument):
        words = SeacoParaformer.generate_hotwords_list(model, argument, tokenizer=tokenizer, frontend=frontend)
        assert words.pop() == [model.sos]
        return words

    for text in STRINGS:
        yield {"seg_dict": seg_dict, "string": text, "ids": ids(text)}
    for text in FILES:
        file = directory / "hotwords.txt"
        file.write_text(text, encoding="utf-8", newline="")
        yield {"seg_dict": seg_dict, "file": text, "ids": ids(str(file))}


def generate():
    table = {"versions": VERSIONS, "tokens": TOKENS, "seg_dict": SEG_DICT, "cases": []}
    for seg_dict in (True, False):
        with tempfile.TemporaryDirectory() as directory:
            table["cases"] += cases(Path(directory), seg_dict)
    path = HERE / "hotwords.json"
    path.write_text(json.dumps(table, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{path.name:40} {path.stat().st_size / 1024:8.0f} KB  {len(table['cases'])} cases")
