"""CT-Transformer real-time: labels under its masks, and its text loop with a cache.

`generate.py` writes the tensors. `python tests/golden/ct_transformer_streaming.py DEMO_DIR` writes punctuation_realtime.json: what FunASR's
loop gives around random labels, and with the weights of DEMO_DIR/ct-punc-realtime-tiny, also for DEMO_DIR/eval/reference.jsonl.
"""

import json
import random
import re
import sys
import types
from pathlib import Path

import torch
import yaml
from common import HERE, VERSIONS, build, check_versions, encoder_stages, recorded, sanm, seed, token_list
from common import weights, write, write_checkpoint
from ct_transformer import PUNC_LIST, punc_config
from funasr.models.ct_transformer_streaming.model import CTTransformerStreaming
from funasr.tokenizer.char_tokenizer import CharTokenizer

LENGTHS = [1, 2, 7, 20, 50]


def realtime_config(vocab_size, embed_unit, encoder):
    config = punc_config(vocab_size, embed_unit, encoder)
    return config | {"model": "CTTransformerStreaming", "encoder": "SANMVadEncoder"}


NETWORKS = {
    "ct_realtime_shifted": realtime_config(40, 16, sanm(16, 4, 29, 3, 11, 5)),
    "ct_realtime_projected": realtime_config(31, 12, sanm(18, 2, 23, 2, 5, 1)),
    "ct_realtime_deep": realtime_config(27, 12, sanm(12, 3, 17, 5, 3, 0)),
    "ct_realtime_one_layer": realtime_config(23, 8, sanm(8, 1, 15, 1, 11, 5)),
}


def realtime_items(model, config, lengths, vad_indexes):
    """The last layer, and what follows it, depends on the VAD index; what comes before is stored once."""
    tensors = {}
    for i, length in enumerate(lengths):
        ids = torch.randint(config["vocab_size"], (1, length))
        tensors[f"item{i}.ids"] = ids[0]
        for index in vad_indexes(length):
            with recorded(encoder_stages(model.encoder) | {"encoder_out": model.encoder.after_norm}) as stages:
                logits, _ = model.punc_forward(ids, torch.tensor([length]), torch.tensor([index]))
            own = {"logits": logits, "labels": logits[0].argmax(-1), "encoder_out": stages.pop("encoder_out")}
            if model.encoder.encoders:
                last = f"encoder_layer_{len(model.encoder.encoders)}"
                own[last] = stages.pop(last)
            tensors |= {f"item{i}.{name}": tensor for name, tensor in stages.items()}
            tensors |= {f"item{i}.vad{index}.{name}": tensor for name, tensor in own.items()}
    return tensors


def generate():
    for name, config in NETWORKS.items():
        seed(name)
        model = build(config, CTTransformerStreaming)
        tensors = realtime_items(
            model, config, LENGTHS, lambda length: sorted({0, 1, 2, length // 2, length - 1, length})
        )
        write(HERE / f"{name}.safetensors", weights(model) | tensors, config=config, **{"class": config["model"]})


def write_full_realtime(directory):
    """Under `inspect` there is no cache, so the VAD index is 0, and items are named as the offline model's."""
    seed(directory.name)
    config = realtime_config(272727, 256, sanm(256, 8, 1024, 3, 11, 5))
    model = build(config, CTTransformerStreaming)
    write_checkpoint(directory, config, model, token_list(272727))
    tensors = realtime_items(model, config, [1, 20, 220], lambda _: [0])
    tensors = {name.replace(".vad0.", "."): tensor for name, tensor in tensors.items()}
    write(directory / "stages.safetensors", tensors, config=config, **{"class": config["model"]})


def digits(labels):
    return "".join(str(int(label)) for label in labels)


class Loop:
    """FunASR's loop, with a record of what its network was asked."""

    def __init__(self, vocabulary, label):
        self.tokenizer = CharTokenizer(token_list=vocabulary)
        self.label = label
        self.model = types.SimpleNamespace(punc_list=PUNC_LIST, sentence_end_id=3, punc_forward=self.punc_forward)

    def punc_forward(self, text, text_lengths, vad_indexes):
        logits = self.label(text, text_lengths, vad_indexes)
        self.windows.append(digits(logits[0].argmax(-1)))
        self.cached = int(vad_indexes[0])
        return logits, None

    def session(self, texts):
        cache, calls = {}, []
        for text in texts:
            self.windows = []
            found = CTTransformerStreaming.inference(
                self.model, [text], key=["x"], tokenizer=self.tokenizer, cache=cache, device="cpu"
            )[0][0]
            call = {"input": text, "output": found["text"], "punc_array": digits(found["punc_array"].flatten())}
            calls.append(call | {"cached": self.cached, "windows": self.windows})
        return calls


def scripted_sessions(rng, vocabulary):
    mark_rate, marks = 0, []

    def label(text, _lengths, _vad_indexes):
        drawn = [1 if rng.random() > mark_rate else rng.choice(marks) for _ in range(text.shape[1])]
        return torch.nn.functional.one_hot(torch.tensor([drawn]), 6).float()

    words = ["hello", "gpu", "GPU", "iPhone", "ok", "3.5", "a,b", "x.", "é", *"你好世界今天我们去北京"]
    plans = [(1,) * 12, (2, 1, 3, 1, 1, 4), (45, 10, 10), (20, 20, 20, 1), (21, 19, 41), (60, 5, 60)]
    sessions = []
    loop = Loop(vocabulary, label)
    # Without any mark our cache would be shorter than FunASR's; with many, long texts show nothing new.
    long = [(150, 60, 10, 40, 30), (230, 10, 250, 3), (190, 30, 30, 30)]
    for mark_rate, marks, more in [
        (0.0, [], long[:1]),
        (0.004, [2, 3, 4], long),
        (0.01, [2, 2, 2, 5], long),
        (0.05, [2, 2, 2, 3, 4, 5], []),
        (0.3, [2, 2, 2, 3, 4, 5], []),
        (1.0, [2, 2, 2, 3, 4, 5], []),
    ]:
        for plan in plans + more:
            texts = [[rng.choice(words) for _ in range(count)] for count in plan]
            texts = ["".join(word + rng.choice(["", " ", " ", "\u3000"]) for word in text) for text in texts]
            sessions.append(loop.session([text.strip() for text in texts]))
    return sessions


def cut_at_random(rng, text, longest):
    pieces = re.findall(r"[ -~]+|[^ -~]", text)
    texts = []
    while pieces:
        count = rng.randint(1, longest)
        texts.append("".join(pieces[:count]))
        pieces = pieces[count:]
    return [text for text in texts if text.strip()]  # FunASR fails on blank text


def demo_sessions(rng, demo, vocabulary):
    config = yaml.safe_load((demo / "ct-punc-realtime-tiny/config.yaml").read_text(encoding="utf-8"))
    own = {key: value for key, value in config.items() if key not in ("model", "model_conf")}
    model = CTTransformerStreaming(**config["model_conf"], **own, vocab_size=len(vocabulary)).eval()
    checkpoint = torch.load(demo / "ct-punc-realtime-tiny/model.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(checkpoint.get("state_dict", checkpoint))
    loop = Loop(vocabulary, lambda *given: model.punc_forward(*given)[0])

    lines = (demo / "eval/reference.jsonl").read_text(encoding="utf-8").splitlines()
    references = [json.loads(line)["ct_punc_realtime"] for line in lines]
    sessions = [loop.session(reference["inputs"]) for reference in references]
    for session, reference in zip(sessions, references, strict=True):
        assert [call["output"] for call in session] == reference["outputs"]
    text = "".join("".join(reference["inputs"]) for reference in references)
    mixed = ["hello world", "ok", "gpu使用率", "wifi password", "你好hello", "GPU", "我是赵磊", "ppt  ppt"]
    sessions += [loop.session(cut_at_random(rng, text[start:], longest)) for start, longest in [(0, 90), (40, 25), (7, 6)]]
    sessions += [loop.session([text[:45], text[45:55], text[55:300], text[300:305]])]
    sessions += [loop.session(rng.choices(mixed, k=6)) for _ in range(6)]
    return sessions


def main():
    check_versions()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    demo, rng = Path(sys.argv[1]), random.Random(30)
    vocabulary = ["<blank>", "<s>", "</s>", "hello", "gpu", "ok", "a,b", *"你好世界今天", "<unk>"]
    tokens = json.loads((demo / "ct-punc-realtime-tiny/tokens.json").read_text(encoding="utf-8"))
    golden = {
        "vocabulary": vocabulary,
        "scripted": scripted_sessions(rng, vocabulary),
        "demo": demo_sessions(rng, demo, tokens),
    }
    rows = [f'"versions":{json.dumps(VERSIONS)}', f'"vocabulary":{json.dumps(vocabulary, ensure_ascii=False)}']
    for key in ("scripted", "demo"):
        packed = [json.dumps(session, ensure_ascii=False, separators=(",", ":")) for session in golden[key]]
        rows.append(f'"{key}":[\n' + ",\n".join(packed) + "\n]")
    (HERE / "punctuation_realtime.json").write_text("{" + ",\n".join(rows) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
