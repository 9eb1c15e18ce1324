"""Parity at the published sizes: `python tests/golden/compare_full.py DIR BINARY [NAME..]`.

DIR is what `generate.py --full DIR` wrote. Runs `BINARY inspect` on the same inputs and prints, for each stage, the largest error relative to
the largest value of FunASR's. Fails if one is above 1e-3 or if an id differs. Models are converted in FUNASR_CANDLE_HOME on first use.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

LIMIT = 1e-3
CIF = ("encoder_out", "alphas", "acoustic_embeds")
HOTWORDS = {"none": 0, "three": 3, "sixty": 60, "thousand": 1000}  # of the lists in `seaco.py`


class Run:
    """One model: its goldens, the program, and the largest error of each stage so far."""

    def __init__(self, folder, binary, scratch):
        self.folder, self.binary, self.scratch = folder, binary, scratch
        self.golden = load_file(folder / "stages.safetensors")
        with safe_open(folder / "stages.safetensors", "pt") as file:
            self.metadata = {key: json.loads(text) for key, text in file.metadata().items() if text[0] in "[{"}
        self.worst = {}

    def items(self):
        return range(len(self.metadata["items"]))

    def inspect(self, *options):
        out = self.scratch / "out.safetensors"
        command = [self.binary, "inspect", "--offline", "--model", self.folder, "--out", out, *options]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0 and "warning" not in run.stderr, run.stderr
        return load_file(out)

    def inspect_speech(self, speech, *options):
        features = self.scratch / "features.safetensors"
        save_file({"speech": speech, "speech_lengths": torch.tensor([speech.shape[1]])}, features)
        return self.inspect("--features", features, *options)

    def check(self, stage, ours, theirs):
        assert ours.shape == theirs.shape, f"{stage}: {tuple(ours.shape)} is not {tuple(theirs.shape)}"
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        self.worst[stage] = max(self.worst.get(stage, 0), error)

    def check_stages(self, ours, prefix, stages):
        for stage in stages:
            self.check(stage, ours[stage], self.golden[f"{prefix}.{stage}"])

    def check_ids(self, ours, theirs, what):
        assert ours["ids"].flatten().tolist() == theirs.flatten().tolist(), f"{what}: other ids"


def paraformer(run, more=()):
    for item in run.items():
        ours = run.inspect_speech(run.golden[f"item{item}.speech"])
        run.check_stages(ours, f"item{item}", [*CIF, "decoder_logits", *more])
        assert ours["token_num"].item() == run.golden[f"item{item}.token_num"].round().item()
        run.check_ids(ours, run.golden[f"item{item}.ids"], f"item {item}")


def bicif(run):
    paraformer(run, ("us_alphas", "us_peaks"))


def hotword_ids(count, vocab_size):
    """The rule of `seaco.py`."""
    state, words = 1, []
    for k in range(count):
        ids = []
        for _ in range(1 + k % 5):
            state = (state * 1103515245 + 12345) % 2**31
            ids.append(3 + (state >> 16) % (vocab_size - 3))
        words.append(ids)
    return words


def write_dictionary(folder, words):
    """A seg_dict in which word `hot<k>` is spelled with exactly the ids of hotword k."""
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    lines = (f"hot{k} {' '.join(tokens[id] for id in ids)}\n" for k, ids in enumerate(words))
    (folder / "seg_dict").write_text("".join(lines), encoding="utf-8")


def hotwords(run, shared, biased):
    """Stages `shared` by all lists, and those `biased` by one, of which some are absent without a list."""
    write_dictionary(run.folder, hotword_ids(max(HOTWORDS.values()), run.metadata["config"]["vocab_size"]))
    file = run.scratch / "hotwords.txt"
    for item in run.items():
        for name, count in HOTWORDS.items():
            file.write_text("".join(f"hot{k}\n" for k in range(count)))
            ours = run.inspect_speech(run.golden[f"item{item}.speech"], *(["--hotwords", file] if count else []))
            run.check_stages(ours, f"item{item}", shared)
            prefix = f"item{item}.{name}"
            run.check_stages(ours, prefix, [stage for stage in biased if f"{prefix}.{stage}" in run.golden])
            log_probs = ours["decoder_logits"].log_softmax(-1)
            run.check(f"decoder_logits ({name})", log_probs, run.golden[f"{prefix}.decoder_log_probs"])
            run.check_ids(ours, run.golden[f"{prefix}.ids"], f"item {item}, {name}")


def seaco(run):
    hotwords(run, (*CIF, "us_alphas", "us_peaks", "decoder_hidden"), ("cif_attended", "dec_attended", "dha"))


def contextual(run):
    hotwords(run, CIF, ())


def online(run):
    options = run.metadata["options"]
    assert options[1:] == [4, 1], "inspect looks back as published"
    for i, stream in enumerate(run.metadata["streams"]):
        prefixes = [f"stream{i}.chunk{j}" for j in range(len(stream["chunks"]))]

        def joined(stage):
            return torch.cat([run.golden[f"{p}.{stage}"] for p in prefixes if f"{p}.{stage}" in run.golden], 1)

        ours = run.inspect_speech(joined("speech"), "--chunk-size", ",".join(map(str, options[0])))
        for stage in (*CIF, "decoder_logits"):
            run.check(stage, ours[stage], joined(stage))
        for ours_rows, stage in (("chunk_frames", "encoder_out"), ("chunk_tokens", "decoder_logits")):
            rows = [run.golden[f"{p}.{stage}"].shape[1] if f"{p}.{stage}" in run.golden else 0 for p in prefixes]
            assert ours[ours_rows].flatten().tolist() == rows, f"stream {i}: {ours_rows}"
        ids = [id for chunk in stream["chunks"] for id in chunk["ids"]]
        run.check_ids(ours, torch.tensor(ids), f"stream {i}")


def sense_voice(run):
    for i, item in enumerate(run.metadata["items"]):
        options = ["--language", item["language"], *(["--itn"] if item["text_norm"] == "withitn" else [])]
        ours = run.inspect_speech(run.golden[f"item{i}.speech"], *options)
        run.check_stages(ours, f"item{i}", ("encoder_out", "ctc_logits"))
        run.check_ids(ours, run.golden[f"item{i}.ids"], f"item {i}")


def punctuation(run):
    words = json.loads((run.folder / "tokens.json").read_text(encoding="utf-8"))
    for item in sorted(name.removesuffix(".ids") for name in run.golden if name.endswith(".ids")):
        ids = run.golden[f"{item}.ids"].flatten()
        ours = run.inspect("--text", " ".join(words[id] for id in ids))
        run.check_ids(ours, ids, item)
        run.check("punc_logits", ours["punc_logits"], run.golden[f"{item}.logits"])
        assert ours["punc_logits"].argmax(-1).flatten().tolist() == run.golden[f"{item}.labels"].flatten().tolist()


CHECKS = {
    "paraformer": paraformer,
    "paraformer-online": online,
    "bicif": bicif,
    "seaco": seaco,
    "contextual": contextual,
    "sensevoice": sense_voice,
    "ct-punc-c": punctuation,
    "ct-punc": punctuation,
    "ct-punc-realtime": punctuation,
}


def main():
    root, binary, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:] or CHECKS
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            run = Run(root / name, binary, Path(scratch))
            CHECKS[name](run)
        errors = ", ".join(f"{stage} {error:.1e}" for stage, error in run.worst.items())
        print(f"{name}: {errors}; ids exact", flush=True)
        assert max(run.worst.values()) <= LIMIT


main()
