"""Parity at the published sizes: `python tests/golden/compare_full.py DIR BINARY`.

DIR is what `generate.py --full DIR` wrote. Runs `BINARY inspect` on the same inputs and prints, for each stage, the largest error relative to
the largest value of FunASR's. Fails if one is above 1e-3 or if an id differs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

LIMIT = 1e-3


def error(ours, theirs):
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def inspect(binary, model, out, *options):
    subprocess.run([binary, "inspect", "--offline", "--model", model, "--out", out, *options], check=True, capture_output=True)
    return load_file(out)


def paraformer(folder, binary, scratch):
    golden = load_file(folder / "stages.safetensors")
    worst = {}
    for item in range(3):
        speech = golden[f"item{item}.speech"]
        features = scratch / "features.safetensors"
        save_file({"speech": speech, "speech_lengths": torch.tensor([speech.shape[1]])}, features)
        ours = inspect(binary, folder, scratch / "out.safetensors", "--features", features)
        for stage in ("encoder_out", "alphas", "acoustic_embeds", "decoder_logits"):
            worst[stage] = max(worst.get(stage, 0), error(ours[stage], golden[f"item{item}.{stage}"]))
        assert ours["token_num"].item() == golden[f"item{item}.token_num"].item()
        assert ours["ids"][0].tolist() == golden[f"item{item}.ids"].tolist(), f"ids of item {item}"
    return worst


def punctuation(folder, binary, scratch):
    with safe_open(folder / "stages.safetensors", "pt") as golden:
        items = sorted(key[: -len(".ids")] for key in golden.keys() if key.endswith(".ids"))
        words = __import__("json").loads((folder / "tokens.json").read_text())
        worst = {}
        for item in items:
            ids = golden.get_tensor(f"{item}.ids").flatten().tolist()
            text = " ".join(words[id] for id in ids)
            ours = inspect(binary, folder, scratch / "out.safetensors", "--text", text)
            assert ours["ids"].flatten().tolist() == ids, f"{item}: the text has other ids"
            logits = golden.get_tensor(f"{item}.logits")
            worst["punc_logits"] = max(worst.get("punc_logits", 0), error(ours["punc_logits"], logits))
            assert ours["punc_logits"].argmax(-1).flatten().tolist() == golden.get_tensor(f"{item}.labels").flatten().tolist()
    return worst


def main():
    root, binary = Path(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as scratch:
        texts = [(name, punctuation) for name in ("ct-punc-c", "ct-punc", "ct-punc-realtime")]
        for name, check in [("paraformer", paraformer), *texts]:
            worst = check(root / name, binary, Path(scratch))
            print(name, {stage: f"{value:.1e}" for stage, value in worst.items()}, "ids exact")
            assert max(worst.values()) <= LIMIT


main()
