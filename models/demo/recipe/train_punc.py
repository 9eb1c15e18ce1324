"""Trains the demo punctuation model (CT-Transformer) on streams of generated sentences under a time budget.

python train_punc.py --seconds 530
"""

import argparse
import random
import time

import gen_text
import torch
from common import WORK, build, ids_of, learning_rate, pad_ids, read_rows, save, token_list, units

LABELS = ["<unk>", "_", "，", "。", "？", "、"]  # FunASR's order; `_` = no mark after this word
SIZE = 128
CONFIG = {
    "model": "CTTransformer",
    "model_conf": {
        "ignore_id": 0,
        "embed_unit": SIZE,
        "att_unit": SIZE,
        "dropout_rate": 0.1,
        "punc_list": LABELS,
        "punc_weight": [1.0] * 6,
        "sentence_end_id": 3,
    },
    "encoder": "SANMEncoder",
    "encoder_conf": {
        "input_size": SIZE,
        "output_size": SIZE,
        "attention_heads": 8,
        "linear_units": 256,
        "num_blocks": 4,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.0,
        "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "kernel_size": 11,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
        "padding_idx": 0,
    },
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>"},
}


def labelled(text):
    """Words, and for each the label of the mark that follows it."""
    words, labels = [], []
    for unit in units(text):
        if unit not in gen_text.MARKS:
            words.append(unit)
            labels.append(1)
        elif labels:
            labels[-1] = LABELS.index(unit)
    return words, labels


class Streams:
    """Random streams of 1-8 sentences, half of them cut at a random word as the 20-word windows do."""

    def __init__(self, r):
        self.r = r
        rows = read_rows(WORK / "text/train.jsonl")
        self.pool = [row["punc"] for row in rows]
        self.held = [row["punc"] for row in read_rows(WORK / "text/held.jsonl")]
        self.tokens = token_list(unit for row in rows for unit in units(row["text"]))

    def sentence(self):
        """Mostly fresh ones; the pool keeps the frequencies of the speech data."""
        text = gen_text.sentence(self.r) if self.r.random() < 0.7 else self.r.choice(self.pool)
        return self.sentence() if text in self.held else text

    def stream(self):
        words, labels = labelled("".join(self.sentence() for _ in range(self.r.randint(1, 8))))
        if self.r.random() < 0.5 and len(words) > 12:
            cut = self.r.randint(8, len(words))
            words, labels = words[:cut], labels[:cut]
        return [word if self.r.random() > 0.02 else "<unk>" for word in words], labels

    def batch(self, size=32):
        streams = [self.stream() for _ in range(size)]
        text, lengths = pad_ids([ids_of(words, self.tokens) for words, _ in streams], 0)
        labels, _ = pad_ids([labels for _, labels in streams], 0)
        return text, labels, lengths


@torch.no_grad()
def evaluate(model, streams):
    """Label accuracy, and precision and recall of the marks, on joins of five held-out sentences."""
    model.eval()
    r, pairs = random.Random(0), []
    for _ in range(60):
        words, labels = labelled("".join(r.choices(streams.held, k=5)))
        text, lengths = pad_ids([ids_of(words, streams.tokens)], 0)
        pairs += zip(model.punc_forward(text, lengths)[0][0].argmax(-1).tolist(), labels)
    hits = sum(got == want for got, want in pairs)
    marks = sum(got == want != 1 for got, want in pairs)
    predicted, expected = sum(got != 1 for got, _ in pairs), sum(want != 1 for _, want in pairs)
    return f"labels {hits / len(pairs):.2%}, marks P {marks / max(1, predicted):.3f} R {marks / expected:.3f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=530)
    parser.add_argument("--peak", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(2)
    streams = Streams(random.Random(5))
    model = build(CONFIG, len(streams.tokens), SIZE)
    model.punc_weight = torch.ones(len(LABELS))  # the class keeps the list, its loss needs a tensor
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    model.train()
    start, step = time.time(), 0
    while (elapsed := time.time() - start) < args.seconds:
        optimizer.param_groups[0]["lr"] = learning_rate(step, elapsed / args.seconds, args.peak, 200)
        text, labels, lengths = streams.batch()
        loss = model(text, labels, lengths, lengths)[0]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step} {elapsed:.0f} s loss {float(loss):.4f}", flush=True)
    print(f"held-out: {evaluate(model, streams)}")
    save("ct-punc", CONFIG, model.state_dict(), streams.tokens)


if __name__ == "__main__":
    main()
