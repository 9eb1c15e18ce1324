"""What the golden scripts share: seeding, files, FunASR's classes with random weights, stages."""

import json
import math
import os
import zlib
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import funasr
import torch
import torchaudio
import yaml
from safetensors.torch import save

HERE = Path(__file__).resolve().parent
VERSIONS = {"funasr": "1.4.16", "torch": "2.11.0", "torchaudio": "2.11.0"}
LONG = 200  # frames of the long item: far past one kernel width, still small on disk


def check_versions():
    found = {"funasr": funasr.__version__, "torch": torch.__version__, "torchaudio": torchaudio.__version__}
    wrong = {name: found[name] for name in VERSIONS if found[name].split("+")[0] != VERSIONS[name]}
    if wrong:
        raise SystemExit(f"golden tensors are made with {VERSIONS}, found {wrong}")


def write(path, tensors, **metadata):
    """Writes one case. Metadata values that are not strings are stored as JSON text."""
    metadata["versions"] = VERSIONS
    text = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in metadata.items()}
    content = save({name: t.clone().contiguous() for name, t in tensors.items()}, text)
    # The library writes the metadata in a random order; sorted, a second run gives the same bytes.
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(text.items()))
    header = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
    print(f"{path.name:40} {path.stat().st_size / 1024:8.0f} KB  {len(tensors)} tensors")


def seed(name):
    torch.manual_seed(zlib.crc32(name.encode()))


def build(config, model_class):
    """A FunASR model in eval mode with random weights; LayerNorm, too, gets weights that show when they are skipped."""
    own = ("format_version", "model", "model_conf", "frontend", "frontend_conf")
    parts = {k: v for k, v in config.items() if k not in own}
    if "frontend_conf" in config and "predictor" in config:
        parts |= {"input_size": feature_dim(config), "ctc_weight": 0.0}
    model = model_class(**config["model_conf"], **parts).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1.0, 0.2)
            torch.nn.init.normal_(module.bias, 0.0, 0.1)
    return model


def feature_dim(config):
    return config["frontend_conf"]["n_mels"] * config["frontend_conf"]["lfr_m"]


def weights(model):
    return {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}


@contextmanager
def recorded(modules):
    """Yields a dict that receives a copy of each named module's output while the block runs."""
    outputs = {}

    def hook(name):
        def keep(_module, _args, out):
            outputs[name] = (out[0] if isinstance(out, tuple) else out).clone()

        return keep

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def encoder_stages(encoder):
    layers = [*encoder.encoders0, *encoder.encoders]
    return {"encoder_embed": encoder.embed} | {f"encoder_layer_{i}": layer for i, layer in enumerate(layers)}


def decoder_stages(decoder):
    layers = [*decoder.decoders, *(decoder.decoders2 or []), *decoder.decoders3]
    return {f"decoder_layer_{i}": layer for i, layer in enumerate(layers)}


def sanm(size, heads, units, blocks, kernel, shift):
    return {
        "output_size": size,
        "attention_heads": heads,
        "linear_units": units,
        "num_blocks": blocks,
        "kernel_size": kernel,
        "sanm_shfit": shift,
    }


def decoder_conf(heads, units, blocks, att_layers, kernel, shift):
    return {
        "attention_heads": heads,
        "linear_units": units,
        "num_blocks": blocks,
        "att_layer_num": att_layers,
        "kernel_size": kernel,
        "sanm_shfit": shift,
    }


def cif(l_order, r_order, tail, **more):
    return {"threshold": 1.0, "l_order": l_order, "r_order": r_order, "tail_threshold": tail, **more}


def smooth_noise(frames, dim):
    """Features as CMVN leaves them: mean 0, deviation 1, neighbours alike. [1, frames, dim]"""
    noise = torch.randn(1, dim, frames + 2)
    return (torch.nn.functional.avg_pool1d(noise, 3, 1) * math.sqrt(3)).transpose(1, 2).contiguous()


def greedy(logits, count):
    ids = logits[:count].argmax(-1)
    return ids[ids > 2]  # blank, sos, eos


def margin(stages):
    """Smallest distance between the best and the second logit: below a test's tolerance an id may flip."""
    if "decoder_logits" not in stages:
        return None
    best = stages["decoder_logits"][0].topk(2).values
    return round(float((best[:, 0] - best[:, 1]).min()), 6)


TRAINING_KEYS = {
    "encoder_conf": {
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "selfattention_layer_type": "sanm",
    },
    "decoder_conf": {
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "self_attention_dropout_rate": 0.1,
        "src_attention_dropout_rate": 0.1,
    },
    "seaco_decoder_conf": {"dropout_rate": 0.1, "self_attention_dropout_rate": 0.1},
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
}


def write_checkpoint(directory, config, model, tokens):
    """A FunASR model directory: config.yaml as published (training keys included), model.pt, tokens.json if there are tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    published = {
        k: dict(v) if isinstance(v, dict) else v for k, v in config.items() if k not in ("format_version", "vocab_size")
    }
    for section, keys in TRAINING_KEYS.items():
        if section.startswith("tokenizer"):
            published.setdefault(section, keys)
        elif section in published:
            published[section] |= keys
    if "predictor" in config:
        published["model_conf"] |= {
            "ctc_weight": 0.0,
            "lsm_weight": 0.1,
            "length_normalized_loss": True,
            "predictor_weight": 1.0,
            "predictor_bias": 1,
            "sampling_ratio": 0.75,
        }
    if "seaco_decoder" in config:
        published["model_conf"] |= {"seaco_lsm_weight": 0.1, "seaco_length_normal": True, "train_decoder": False}
    (directory / "config.yaml").write_text(
        yaml.safe_dump(published, allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    if tokens:
        (directory / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False, indent=0), encoding="utf-8")
    torch.save(model.state_dict(), directory / "model.pt")


def token_list(size):
    return ["<blank>", "<s>", "</s>"] + [chr(0x4E00 + i) if i < 20000 else f"w{i}" for i in range(size - 4)] + ["<unk>"]


def kaldi_cmvn(shift, scale):
    """The text of an am.mvn file, with the <Splice> block that a careless reader takes for the shift."""

    def row(values):
        return " ".join(f"{v:.6g}" for v in values)

    dim = len(shift)
    return (
        f"<Nnet> \n<Splice> {dim} {dim} \n[ 0 ]\n<AddShift> {dim} {dim} \n<LearnRateCoef> 0 [ {row(shift)} ]\n"
        f"<Rescale> {dim} {dim} \n<LearnRateCoef> 0 [ {row(scale)} ]\n</Nnet> \n"
    )
