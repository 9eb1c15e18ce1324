"""Trains the demo Paraformer with FunASR's class and a plain PyTorch loop under a time budget.

    python train_asr.py --seconds 690
    python train_asr.py --seconds 170 --init work/paraformer.pt --sets train joined --peak 6e-4 --warmup 50 --ctc 0.1

A CTC head (weight falling to 15 % of --ctc) helps the small encoder to align; the saved model has none.
"""

import argparse
import copy
import random
import time

import torch
from common import (
    FRONTEND,
    PIECES,
    WORK,
    Features,
    build,
    errors,
    ids_of,
    learning_rate,
    pad_ids,
    pieces,
    read_rows,
    save,
    token_list,
    units,
)

SIZE = 128
CONFIG = {
    "model": "Paraformer",
    "model_conf": {
        "ctc_weight": 0.0,
        "lsm_weight": 0.1,
        "length_normalized_loss": True,
        "predictor_weight": 1.0,
        "predictor_bias": 1,
        "sampling_ratio": 0.75,
    },
    "encoder": "SANMEncoder",
    "encoder_conf": {
        "output_size": SIZE,
        "attention_heads": 4,
        "linear_units": 320,
        "num_blocks": 8,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
        "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "kernel_size": 11,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    },
    "decoder": "ParaformerSANMDecoder",
    "decoder_conf": {
        "attention_heads": 4,
        "linear_units": 320,
        "num_blocks": 2,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "self_attention_dropout_rate": 0.0,
        "src_attention_dropout_rate": 0.0,
        "att_layer_num": 2,
        "kernel_size": 11,
        "sanm_shfit": 0,
    },
    "predictor": "CifPredictorV2",
    "predictor_conf": {"idim": SIZE, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
    "frontend": "WavFrontend",
    "frontend_conf": FRONTEND,
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
}


def vocabulary():
    """Tokens of the training text, and the pieces of every word (FunASR's seg_dict)."""
    texts = [row["text"] for row in read_rows(WORK / "text/train.jsonl")]
    words = sorted({unit for text in texts for unit in units(text)})
    return token_list(piece for text in texts for piece in pieces(text)), {
        word: PIECES.get(word, [word]) for word in words
    }


def masked(speech, lengths, r):
    """Light SpecAugment: one mel band of up to 12 bins, one span of up to 4 frames."""
    for item, length in zip(speech, lengths.tolist()):
        if r.random() < 0.6:
            width = r.randint(0, 12)
            low = r.randint(0, 80 - width)
            item.view(len(item), 7, 80)[:, :, low : low + width] = 0
        if r.random() < 0.5:
            span = r.randint(0, 4)
            start = r.randint(0, max(0, length - span))
            item[start : start + span] = 0
    return speech


@torch.no_grad()
def evaluate(model, held, tokens):
    """Character error rate on the held-out set, greedy."""
    model.eval()
    wrong = total = 0
    for batch in held.batches(1200, random.Random(0), most=16):
        encoder_out, lengths = model.encode(*held.speech(batch))
        embeds, token_num, _, _ = model.calc_predictor(encoder_out, lengths)
        token_num = token_num.round().long()
        best = model.cal_decoder_with_predictor(encoder_out, lengths, embeds, token_num)[0].argmax(-1)
        for i, ids, count in zip(batch, best.tolist(), token_num.tolist()):
            text = "".join(tokens[id] for id in ids[:count] if id > 2).replace("@@", "")
            distance, size = errors(held.rows[i]["text"], text)
            wrong, total = wrong + distance, total + size
    model.train()
    return wrong / total


def save_all(model, tokens, seg_dict):
    torch.save(model.state_dict(), WORK / "paraformer.pt")  # with the CTC head, for --init
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("ctc.")}
    save("paraformer", CONFIG, state, tokens, seg_dict)


def train(model, args, train_set, held, targets, tokens, seg_dict):
    r = random.Random(1)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=1e-2)
    start, step, next_eval = time.time(), 0, args.eval_every
    while True:
        for batch in train_set.batches(args.frames, r):
            elapsed = time.time() - start
            if elapsed > args.seconds:
                return
            optimizer.param_groups[0]["lr"] = learning_rate(step, elapsed / args.seconds, args.peak, args.warmup)
            model.ctc_weight = args.ctc * max(0.15, 1 - elapsed / args.seconds)
            speech, lengths = train_set.speech(batch)
            loss, stats, _ = model(masked(speech, lengths, r), lengths, *pad_ids([targets[i] for i in batch], -1))
            optimizer.zero_grad()
            loss.backward()
            if torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0).isfinite():
                optimizer.step()
            step += 1
            if step % 50 == 0:
                print(f"step {step} {elapsed:.0f} s loss {float(loss):.3f} acc {float(stats['acc']):.3f}", flush=True)
            if elapsed > next_eval:
                next_eval += args.eval_every
                print(f"{elapsed:.0f} s: CER {evaluate(model, held, tokens):.2%}", flush=True)
                save_all(model, tokens, seg_dict)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=690)
    parser.add_argument("--init")
    parser.add_argument("--sets", nargs="+", default=["train"])
    parser.add_argument("--peak", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=int, default=400, help="steps")
    parser.add_argument("--ctc", type=float, default=0.3)
    parser.add_argument("--frames", type=int, default=1200, help="padded LFR frames per batch")
    parser.add_argument("--eval-every", type=float, default=170, help="seconds")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    tokens, seg_dict = vocabulary()
    config = copy.deepcopy(CONFIG)
    config["model_conf"]["ctc_weight"] = args.ctc
    model = build(config, len(tokens), 560)
    if args.init:
        model.load_state_dict(torch.load(args.init))
    train_set, held = Features(*args.sets), Features("held")
    targets = [ids_of(pieces(row["text"]), tokens) for row in train_set.rows]
    model.train()
    train(model, args, train_set, held, targets, tokens, seg_dict)
    print(f"final: CER {evaluate(model, held, tokens):.2%}")
    save_all(model, tokens, seg_dict)


if __name__ == "__main__":
    main()
