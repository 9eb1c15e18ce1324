"""What the training scripts share: text units, error rate, batches, FunASR model building and saving."""

import json
import math
import re
from pathlib import Path

import numpy as np
import torch
import yaml

WORK = Path("work")
FRONTEND = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": 7,
    "lfr_n": 6,
}
# English words of two pieces: they exercise the joining of `@@` pieces.
PIECES = {
    "hello": ["hel@@", "lo"],
    "email": ["e@@", "mail"],
    "wifi": ["wi@@", "fi"],
    "python": ["py@@", "thon"],
    "excel": ["ex@@", "cel"],
    "google": ["goo@@", "gle"],
    "github": ["git@@", "hub"],
    "morning": ["mor@@", "ning"],
}


def read_rows(path):
    return [json.loads(line) for line in Path(path).open(encoding="utf-8")]


def units(text):
    """Single Hanzi (or marks) and whole English words."""
    return re.findall(r"[a-z]+|[^a-z\s]", text)


def pieces(text):
    return [piece for unit in units(text) for piece in PIECES.get(unit, [unit])]


def token_list(tokens):
    """Special tokens, English, Hanzi, `<unk>`: ids 0, 1, 2 are blank, sos and eos as in the published models."""
    tokens = sorted(set(tokens), key=lambda token: (not token.isascii(), token))
    return ["<blank>", "<s>", "</s>", *tokens, "<unk>"]


def ids_of(tokens, vocabulary):
    index = {token: i for i, token in enumerate(vocabulary)}
    return [index.get(token, len(vocabulary) - 1) for token in tokens]


def errors(reference, hypothesis):
    """Edit distance in units, and the number of reference units."""
    reference, hypothesis = units(reference), units(hypothesis)
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != got))
    return row[-1], len(reference)


class Features:
    """Cached features of one or more sets: memory-mapped f16 frames, one row of text per utterance."""

    def __init__(self, *names):
        self.rows, self.spans = [], []
        for name in names:
            frames = np.load(WORK / f"feat/{name}.npy", mmap_mode="r")
            rows = read_rows(WORK / f"feat/{name}.jsonl")
            self.rows += rows
            self.spans += [(frames, row["start"], row["end"]) for row in rows]

    def frames(self, i):
        return self.spans[i][2] - self.spans[i][1]

    def batches(self, limit, r, most=64):
        """Index lists of similar length, at most `limit` padded frames each, in random order."""
        batches, batch, longest = [], [], 0
        for i in sorted(range(len(self.rows)), key=lambda i: self.frames(i) + r.uniform(-6, 6)):
            longest = max(longest, self.frames(i))
            if batch and (longest * (len(batch) + 1) > limit or len(batch) >= most):
                batches.append(batch)
                batch, longest = [], self.frames(i)
            batch.append(i)
        batches.append(batch)
        r.shuffle(batches)
        return batches

    def speech(self, batch):
        """Padded [B, T, 560] and lengths [B]."""
        items = [
            torch.from_numpy(frames[start:end].astype(np.float32))
            for frames, start, end in (self.spans[i] for i in batch)
        ]
        return torch.nn.utils.rnn.pad_sequence(items, batch_first=True), torch.tensor([len(item) for item in items])


def pad_ids(sequences, value):
    tensors = [torch.tensor(ids) for ids in sequences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value), torch.tensor(
        [len(ids) for ids in sequences]
    )


def learning_rate(step, progress, peak, warmup):
    """Linear warm-up in steps, then a cosine in `progress` (0..1 of the time budget) down to 2 %."""
    return peak * min(1, (step + 1) / warmup) * (0.49 * (1 + math.cos(math.pi * min(1.0, progress))) + 0.02)


def build(config, vocab_size, input_size):
    """A FunASR model through its registry, as AutoModel builds it."""
    import funasr.auto.auto_model  # noqa: F401  registers the classes
    from funasr.register import tables

    sections = {key: value for key, value in config.items() if key not in ("model", "model_conf", "specaug")}
    return tables.model_classes[config["model"]](
        **sections, **config["model_conf"], vocab_size=vocab_size, input_size=input_size
    )


def save(name, config, state, tokens, seg_dict=None):
    """A FunASR model directory under work/models/NAME."""
    directory = WORK / "models" / name
    directory.mkdir(parents=True, exist_ok=True)
    torch.save({key: tensor.detach().clone() for key, tensor in state.items()}, directory / "model.pt")
    (directory / "config.yaml").write_text(
        yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    (directory / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False, indent=0), encoding="utf-8")
    if seg_dict:
        (directory / "seg_dict").write_text(
            "".join(f"{word} {' '.join(parts)}\n" for word, parts in seg_dict.items()), encoding="utf-8"
        )
    if "frontend" in config:
        (directory / "am.mvn").write_text((WORK / "am.mvn").read_text(encoding="utf-8"), encoding="utf-8")
    print(f"saved {directory}: {sum(tensor.numel() for tensor in state.values()) / 1e6:.2f} M parameters", flush=True)
