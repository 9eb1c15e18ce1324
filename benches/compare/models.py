"""The models that are compared: made at their published sizes, exported as FunASR does it, converted for this engine.

Weights are random, but for voice detection, whose published ones are in this repository. Everything is made once.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
# Model -> its directory, named as by `tests/golden/generate.py --full`.
DIRECTORIES = {
    "paraformer": "paraformer",
    "bicif": "bicif",
    "sensevoice": "sensevoice",
    "vad": "fsmn-vad",
    "punctuation": "ct-punc-c",
}
ACOUSTIC = ("paraformer", "bicif", "sensevoice")
LONGEST_EXPORT = 4096  # rows of the mask that FunASR puts into an export: 60 s of speech are 1000


@dataclass(frozen=True)
class Model:
    """One model in the formats of all contenders."""

    name: str
    directory: Path  # FunASR's files, and model.onnx and model_quant.onnx beside them, where `funasr-onnx` expects them
    converted: dict  # weight type of ours -> what `--model` takes


@dataclass(frozen=True)
class Pipeline(Model):
    """Paraformer with what stands before and behind it."""

    detector: Model
    punctuation: Model


def make(name, work, binary):
    """The model called `name`; what of it is not in `work` yet is made, which takes minutes and up to 3 GB."""
    if name == "pipeline":
        recognizer, detector, punctuation = (make(part, work, binary) for part in ("paraformer", "vad", "punctuation"))
        return Pipeline(name, recognizer.directory, recognizer.converted, detector, punctuation)
    directory = work / DIRECTORIES[name]
    if not (directory / "model.pt").exists():
        write_vad(directory) if name == "vad" else generate(work, directory.name)
    if not (directory / "model_quant.onnx").exists():
        export_onnx(directory)
    if name == "vad":
        return Model(name, directory, dict.fromkeys(("f32", "int8"), "fsmn-vad"))
    return Model(name, directory, {dtype: convert(directory, work, binary, dtype) for dtype in ("f32", "int8")})


def generate(work, name):
    """A FunASR directory with random weights at the published size."""
    subprocess.run([sys.executable, GOLDEN / "generate.py", "--full", work, "--only", name], check=True)


def write_vad(directory):
    """A FunASR directory with the voice detection model that is part of this repository."""
    import torch
    import yaml
    from safetensors.torch import load_file

    sys.path.insert(0, str(GOLDEN))
    from common import kaldi_cmvn

    source = ROOT / "models/fsmn-vad"
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    parts = ("model", "model_conf", "encoder", "encoder_conf", "frontend", "frontend_conf")
    weights = load_file(source / "model.safetensors")
    shift, scale = (weights.pop(f"frontend.cmvn_{part}").tolist() for part in ("shift", "scale"))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(yaml.safe_dump({part: config[part] for part in parts}), encoding="utf-8")
    (directory / "am.mvn").write_text(kaldi_cmvn(shift, scale), encoding="utf-8")
    torch.save(weights, directory / "model.pt")


def load_funasr(directory, threads):
    """FunASR's own model, on the CPU."""
    from funasr import AutoModel

    options = {"device": "cpu", "ncpu": threads, "disable_update": True, "disable_log": True, "disable_pbar": True}
    with contextlib.redirect_stdout(io.StringIO()):
        return AutoModel(model=str(directory), **options)


def export_onnx(directory):
    """FunASR's own export, fp32 and dynamic int8. It was written for the tracing exporter, not torch's default now."""
    import torch

    torch.onnx.export = partial(torch.onnx.export, dynamo=False)
    print(f"exporting {directory} to ONNX", file=sys.stderr)
    model = load_funasr(directory, 1)
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(type="onnx", quantize=True, output_dir=str(directory), max_seq_len=LONGEST_EXPORT)


def convert(directory, work, binary, dtype):
    """The directory in our format; it gets its name when it is whole."""
    target = work / "converted" / f"{directory.name}-{dtype}"
    if not target.exists():
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(exist_ok=True)
        subprocess.run([binary, "convert", directory, part, "--dtype", dtype], check=True)
        part.rename(target)
    return target
