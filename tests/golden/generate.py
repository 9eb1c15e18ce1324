"""Golden tensors from FunASR's own classes: small random-weight models, every stage dumped.

    pip install funasr==1.4.16 torch==2.11.0 torchaudio==2.11.0 safetensors
    python tests/golden/generate.py                 # rewrites tests/golden/*.safetensors
    python tests/golden/generate.py --full DIR      # published sizes, not committed (2.3 GB)

One case is one file; README.md beside this script lists the names and shapes. Everything is seeded by the name of
the case, f32, dither 0, one thread, eval mode. Tensors are cloned before they are kept: FunASR scales some in place.
"""

import argparse
import json
import math
import os
import zlib
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import funasr
import soundfile
import torch
import torchaudio
import yaml
from funasr.frontends.wav_frontend import WavFrontend, WavFrontendOnline, apply_cmvn, apply_lfr, load_cmvn
from funasr.models.ct_transformer.model import CTTransformer
from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming
from funasr.models.paraformer.cif_predictor import cif_v1
from funasr.models.paraformer.model import Paraformer
from safetensors.torch import save

HERE = Path(__file__).resolve().parent
VERSIONS = {"funasr": "1.4.16", "torch": "2.11.0", "torchaudio": "2.11.0"}
PUNC_LIST = ["<unk>", "_", "，", "。", "？", "、"]
LONG = 200  # frames of the long item: far past one kernel width, still small on disk


# ---------------------------------------------------------------------------------------------- files and models


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


def build(config):
    """A FunASR model in eval mode with random weights; LayerNorm, too, gets weights that show when they are skipped."""
    model_class = {"Paraformer": Paraformer, "FsmnVADStreaming": FsmnVADStreaming, "CTTransformer": CTTransformer}
    parts = {
        k: v
        for k, v in config.items()
        if k not in ("format_version", "model", "model_conf", "frontend", "frontend_conf")
    }
    if config["model"] == "Paraformer":
        parts |= {"input_size": feature_dim(config), "ctc_weight": 0.0}
    model = model_class[config["model"]](**config["model_conf"], **parts).eval()
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


# ----------------------------------------------------------------------------------------------------- Paraformer


def paraformer_config(lfr, encoder, decoder, predictor, vocab_size):
    """`lfr` = (mel bins, m, n). Keys left out of a section keep the class's default."""
    n_mels, m, n = lfr
    return {
        "format_version": 1,
        "model": "Paraformer",
        "model_conf": {},
        "encoder": "SANMEncoder",
        "encoder_conf": {"input_layer": "pe", **encoder},
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": decoder,
        "predictor": "CifPredictorV2",
        "predictor_conf": {"idim": encoder["output_size"], **predictor},
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": n_mels,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": m,
            "lfr_n": n,
        },
        "vocab_size": vocab_size,
    }


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


# name -> (config, mean alpha, frames of each item). The last item of a batch must fire (cif_v1 raises otherwise).
PARAFORMERS = {
    "paraformer_basic": (
        paraformer_config((6, 7, 6), sanm(24, 4, 47, 3, 11, 0), decoder_conf(4, 45, 2, 2, 11, 0), cif(1, 1, 0.45), 40),
        0.3,
        [23, 1, 9, LONG],
    ),
    "paraformer_one_layer": (
        paraformer_config((6, 5, 1), sanm(16, 1, 17, 1, 3, 0), decoder_conf(1, 17, 1, 1, 3, 0), cif(0, 2, 0.45), 20),
        0.4,
        [17, 3, 2, 11],
    ),
    "paraformer_shifted": (  # shifted FSMN, one FSMN-only decoder layer, smoothed and thresholded alphas
        paraformer_config(
            (6, 9, 4),
            sanm(24, 2, 31, 4, 5, 2),
            decoder_conf(2, 45, 3, 2, 5, 1),
            cif(1, 0, 0.45, smooth_factor=0.8, noise_threshold=0.05),
            33,
        ),
        0.35,
        [14, 1, 31],
    ),
    "paraformer_no_tail": (  # three FSMN-only decoder layers; token_num is the raw sum, rounded half to even
        paraformer_config((8, 5, 3), sanm(28, 4, 35, 6, 11, 0), decoder_conf(2, 37, 5, 2, 11, 5), cif(2, 0, 0.0), 27),
        0.25,
        [19, 2, 40],
    ),
    "paraformer_even_kernel": (  # even kernels, layer 0 with a residual (20 -> 20), tail weight in the last column
        paraformer_config(
            (4, 5, 3), sanm(20, 2, 33, 2, 4, 0), decoder_conf(1, 19, 2, 1, 6, 0), cif(1, 1, 0.3, tail_mask=False), 25
        ),
        0.3,
        [25, 6, 13],
    ),
    "paraformer_80_mel": (  # published front end and input width
        paraformer_config((80, 7, 6), sanm(24, 2, 41, 2, 11, 0), decoder_conf(4, 29, 3, 3, 11, 0), cif(1, 1, 0.45), 60),
        0.45,
        [4, 16, 8],
    ),
    "paraformer_silent": (  # token_num 0, 0, then a few
        paraformer_config((6, 7, 6), sanm(16, 2, 25, 2, 5, 0), decoder_conf(2, 21, 1, 1, 5, 0), cif(1, 1, 0.45), 21),
        0.04,
        [6, 1, 70],
    ),
    "paraformer_defaults": (  # sections as short as FunASR accepts: 6 decoder layers of width 21 although num_blocks is 4, no tail
        paraformer_config(
            (8, 7, 6),
            {"output_size": 16, "linear_units": 23, "num_blocks": 2},
            {"linear_units": 18, "num_blocks": 4},
            {"l_order": 1, "r_order": 1},
            24,
        ),
        0.3,
        [30, 8],
    ),
}


def smooth_noise(frames, dim):
    """Features as CMVN leaves them: mean 0, deviation 1, neighbours alike. [1, frames, dim]"""
    noise = torch.randn(1, dim, frames + 2)
    return (torch.nn.functional.avg_pool1d(noise, 3, 1) * math.sqrt(3)).transpose(1, 2).contiguous()


def tune_alphas(model, speech, rate):
    """Scales and shifts the CIF output layer so that alphas spread around `rate`; untuned ones are nearly constant."""
    predictor, lengths = model.predictor, torch.tensor([speech.shape[1]])
    with recorded({"z": predictor.cif_output}) as outputs:
        model.calc_predictor(*model.encode(speech, lengths))
    z = outputs["z"] - predictor.cif_output.bias
    gain = 1.0 / z.std()
    target = (rate + predictor.noise_threshold) / predictor.smooth_factor
    predictor.cif_output.weight.mul_(gain)
    predictor.cif_output.bias.fill_(math.log(target / (1 - target)) - gain * z.mean())


def paraformer_stages(model, speech, lengths):
    """Every stage of `Paraformer.inference`, by its own steps; no decoder stages when no item has a token."""
    with recorded(encoder_stages(model.encoder) | decoder_stages(model.decoder)) as stages:
        encoder_out, encoder_lens = model.encode(speech, lengths)
        embeds, token_num, alphas, peaks = model.calc_predictor(encoder_out, encoder_lens)
        stages |= {"encoder_out": encoder_out, "alphas": alphas, "peaks": peaks, "token_num": token_num}
        count = token_num.round().long()
        if count.max() >= 1:
            logits, _ = model.decoder(encoder_out, encoder_lens, embeds, count)
            stages |= {"acoustic_embeds": embeds, "decoder_logits": logits}
    return {"speech": speech, **stages}, count


def greedy(logits, count):
    ids = logits[:count].argmax(-1)
    return ids[ids > 2]  # blank, sos, eos


def paraformer_items(model, items):
    """One by one (`item<i>.*`), then padded together (`batch.*`), where FunASR's alphas differ at the item's end."""
    tensors, summary = {}, []
    for i, speech in enumerate(items):
        stages, count = paraformer_stages(model, speech, torch.tensor([speech.shape[1]]))
        ids = greedy(stages["decoder_logits"][0], count[0]) if count[0] >= 1 else torch.zeros(0, dtype=torch.int64)
        tensors |= {f"item{i}.{name}": tensor for name, tensor in stages.items()} | {f"item{i}.ids": ids}
        summary.append(
            {"frames": speech.shape[1], "tokens": int(count[0]), "ids": ids.tolist(), "margin": margin(stages)}
        )
    lengths = torch.tensor([speech.shape[1] for speech in items])
    padded = torch.nn.utils.rnn.pad_sequence([speech[0] for speech in items], batch_first=True)
    stages, _ = paraformer_stages(model, padded, lengths)
    kept = ("alphas", "token_num")
    tensors |= {"batch.lengths": lengths} | {f"batch.{name}": stages[name] for name in kept}
    return tensors, summary


def margin(stages):
    """Smallest distance between the best and the second logit: below a test's tolerance an id may flip."""
    if "decoder_logits" not in stages:
        return None
    best = stages["decoder_logits"][0].topk(2).values
    return round(float((best[:, 0] - best[:, 1]).min()), 6)


def write_paraformer(name, config, rate, frames):
    seed(name)
    model = build(config)
    tune_alphas(model, smooth_noise(100, feature_dim(config)), rate)
    tensors, summary = paraformer_items(model, [smooth_noise(t, feature_dim(config)) for t in frames])
    write(
        HERE / f"{name}.safetensors", weights(model) | tensors, config=config, items=summary, **{"class": "Paraformer"}
    )


# ------------------------------------------------------------------------------------------------------- FSMN-VAD


def vad_config(n_mels, lfr_m, sizes, memory):
    """`sizes` = (layers, linear, projection, affine, outputs), `memory` = (lorder, rorder, lstride, rstride)."""
    layers, linear, proj, affine, outputs = sizes
    lorder, rorder, lstride, rstride = memory
    return {
        "format_version": 1,
        "model": "FsmnVADStreaming",
        "model_conf": {"sample_rate": 16000, "sil_pdf_ids": [0]},
        "encoder": "FSMN",
        "encoder_conf": {
            "input_dim": n_mels * lfr_m,
            "input_affine_dim": affine,
            "fsmn_layers": layers,
            "linear_dim": linear,
            "proj_dim": proj,
            "lorder": lorder,
            "rorder": rorder,
            "lstride": lstride,
            "rstride": rstride,
            "output_affine_dim": affine,
            "output_dim": outputs,
        },
        "frontend": "WavFrontendOnline",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": n_mels,
            "frame_length": 25,
            "frame_shift": 10,
            "dither": 0.0,
            "lfr_m": lfr_m,
            "lfr_n": 1,
        },
    }


VADS = {
    "fsmn_vad_causal": (vad_config(8, 5, (4, 25, 13, 14, 9), (20, 0, 1, 0)), [1, 20, 7, 32]),
    "fsmn_vad_strided": (vad_config(4, 5, (2, 16, 8, 11, 5), (5, 0, 2, 1)), [10, 3, 1, 1, 15]),
    "fsmn_vad_lookahead": (vad_config(6, 3, (3, 20, 12, 10, 7), (4, 3, 2, 2)), [25, 2, 13]),
}


def write_vad(name, config, chunks):
    seed(name)
    model = build(config)
    encoder = model.encoder
    for module in encoder.modules():  # default initialisation lets the signal fade from layer to layer
        if isinstance(module, torch.nn.Linear):
            module.weight.mul_(2.0)
    feats = smooth_noise(sum(chunks), feature_dim(config))
    with recorded({"logits": encoder.out_linear2}) as outputs:
        encoder(feats, None)
    encoder.out_linear2.linear.weight.mul_(1.5 / outputs["logits"].std(1).mean())  # scores that move, unsaturated
    stages = {"input": encoder.relu, "logits": encoder.out_linear2} | {
        f"layer_{i}": layer for i, layer in enumerate(encoder.fsmn)
    }
    with recorded(stages) as whole:
        scores = encoder(feats, None)
    tensors = {"feats": feats, "scores": scores, "chunk_frames": torch.tensor(chunks), **whole}
    cache, parts = {}, []
    for i, part in enumerate(feats.split(chunks, dim=1)):
        parts.append(encoder(part, cache))
        tensors |= {f"chunk{i}.{key}": value.clone() for key, value in cache.items()}
    tensors["chunk_scores"] = torch.cat(parts, dim=1)
    write(HERE / f"{name}.safetensors", weights(model) | tensors, config=config, **{"class": "FsmnVADStreaming"})


# -------------------------------------------------------------------------------------------------- CT-Transformer


def punc_config(vocab_size, embed_unit, encoder, punc_list=PUNC_LIST):
    return {
        "format_version": 1,
        "model": "CTTransformer",
        "model_conf": {
            "ignore_id": 0,
            "embed_unit": embed_unit,
            "att_unit": encoder["output_size"],
            "punc_list": punc_list,
            "sentence_end_id": 3,
        },
        "encoder": "SANMEncoder",
        "encoder_conf": {"input_size": embed_unit, "input_layer": "pe", **encoder},
        "vocab_size": vocab_size,
    }


PUNCTUATIONS = {
    "ct_transformer_residual": punc_config(50, 32, sanm(32, 4, 45, 3, 11, 0)),
    "ct_transformer_projected": punc_config(41, 24, sanm(30, 2, 33, 2, 5, 1), ["<unk>", "_", ",", "。", "?", "、"]),
    "ct_transformer_deep": punc_config(35, 20, sanm(20, 1, 27, 5, 3, 0)),
}


def punc_items(model, config, lengths):
    tensors = {}
    for i, length in enumerate(lengths):
        ids = torch.randint(config["vocab_size"], (1, length))
        with recorded(encoder_stages(model.encoder) | {"encoder_out": model.encoder.after_norm}) as stages:
            logits, _ = model.punc_forward(ids, torch.tensor([length]))
        stages |= {"ids": ids[0], "logits": logits, "labels": logits[0].argmax(-1)}
        tensors |= {f"item{i}.{name}": tensor for name, tensor in stages.items()}
    return tensors


def write_punctuation(name, config):
    seed(name)
    model = build(config)
    tensors = punc_items(model, config, [1, 2, 7, 20, 50])
    write(HERE / f"{name}.safetensors", weights(model) | tensors, config=config, **{"class": "CTTransformer"})


# ------------------------------------------------------------------------------------------------------------- CIF


def cif_sequences():
    """name -> (alphas [T], hidden width). Sums lie on, just below and just above integers on purpose."""
    third = torch.full((9,), 1 / 3)
    return {
        "empty_sum": (torch.zeros(4), 3),
        "half": (torch.tensor([0.25, 0.25]), 3),
        "one_and_half": (torch.full((6,), 0.25), 3),
        "two_and_half": (torch.full((10,), 0.25), 3),
        "exact_integers": (torch.tensor([0.5, 0.5, 0.25, 0.75, 1.0, 0.125, 0.875]), 3),
        "thirds": (third, 3),
        "tenths": (torch.full((30,), 0.1), 3),
        "just_below": (torch.tensor([0.5, 0.49999997, 0.5, 0.5]), 3),
        "just_above": (torch.tensor([0.5, 0.50000006, 0.5, 0.49999997]), 3),
        "fire_every_frame": (torch.full((8,), 0.99999994), 3),
        "random_60s": (torch.rand(1000) * 0.9, 4),
        "random_60s_sparse": (torch.rand(1000).pow(6), 4),
        "random_4min": (torch.rand(4000) * 0.9, 1),
    }


def write_cif():
    seed("cif")
    tensors, summary = {}, {}
    for name, (alphas, width) in cif_sequences().items():
        hidden = torch.randn(1, len(alphas), width)
        embeds, fires = cif_v1(hidden, alphas[None], 1.0)
        prefix = alphas.double().cumsum(0).float()
        fired = torch.nonzero(prefix.floor() > torch.cat([torch.zeros(1), prefix[:-1].floor()]))[:, 0]
        total = alphas[None].sum(-1)[0]
        tensors |= {
            f"{name}.alphas": alphas,
            f"{name}.hidden": hidden[0],
            f"{name}.fires": fires[0],
            f"{name}.fire_frames": fired,
        }
        tensors[f"{name}.embeds"] = embeds[0]
        exact = float(alphas.double().sum())
        summary[name] = {
            "floor": int(total.floor()),
            "round": int(total.round()),
            "fires": len(fired),
            # Another order of f32 additions may then give another floor than torch's.
            "near_integer": bool(abs(exact - round(exact)) < 1e-4),
        }
    write(HERE / "cif.safetensors", tensors, sequences=summary, **{"class": "cif_v1"})


# ------------------------------------------------------------------------------------------------------- front end


def kaldi_cmvn(shift, scale):
    """The text of an am.mvn file, with the <Splice> block that a careless reader takes for the shift."""

    def row(values):
        return " ".join(f"{v:.6g}" for v in values)

    dim = len(shift)
    return (
        f"<Nnet> \n<Splice> {dim} {dim} \n[ 0 ]\n<AddShift> {dim} {dim} \n<LearnRateCoef> 0 [ {row(shift)} ]\n"
        f"<Rescale> {dim} {dim} \n<LearnRateCoef> 0 [ {row(scale)} ]\n</Nnet> \n"
    )


def signals(clip, fs):
    """name -> samples in [-1, 1]: a speech clip and everything that makes a front end stumble."""
    time = torch.arange(int(0.2 * fs)) / fs
    window = fs // 40
    named = {
        "speech": clip,
        "noise": torch.randn(int(0.3 * fs)) * 0.1,
        "loud": (torch.randn(int(0.1 * fs)) * 4).clamp(-1, 1),
        "quiet": torch.randn(int(0.1 * fs)) * 1e-5,
        "silence": torch.zeros(int(0.1 * fs)),
        "dc": torch.full((int(0.1 * fs),), 0.5),
        "tone": 0.3 * torch.sin(2 * math.pi * 440 * time),
    }
    # Shorter than one window: the window shrinks to the utterance, one frame comes out (FunASR refuses 1 sample).
    for n in (2, 3, 100, window - 1, window, window + 1, window + fs // 100 - 1, window + fs // 100):
        named[f"short_{n}"] = torch.randn(n) * 0.1
    return named


def write_frontend(clip, fs):
    name = f"frontend_{fs // 1000}k"
    seed(name)
    tensors, summary = {}, {}
    bare = WavFrontend(fs=fs, n_mels=80, dither=0.0)
    stacked = WavFrontend(fs=fs, n_mels=80, dither=0.0, lfr_m=7, lfr_n=6)
    for signal, samples in signals(clip, fs).items():
        fbank, _ = bare(samples[None], [len(samples)])
        tensors |= {f"{signal}.samples": samples, f"{signal}.fbank": fbank[0]}
        summary[signal] = {"samples": len(samples), "frames": fbank.shape[1]}
        if signal in ("speech", "short_100"):
            tensors[f"{signal}.lfr_7_6"] = stacked(samples[None], [len(samples)])[0][0]
    write(HERE / f"{name}.safetensors", tensors, signals=summary, fs=fs, **{"class": "WavFrontend"})


def write_lfr_cmvn():
    """LFR of tiny matrices for every length around the corners, and one CMVN file with its vectors."""
    seed("lfr_cmvn")
    tensors = {}
    for m, n in ((7, 6), (5, 1), (5, 3), (9, 4), (1, 1), (4, 2)):
        for frames in (1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 25):
            fbank = torch.randn(frames, 2)
            tensors |= {f"lfr_{m}_{n}.{frames}.fbank": fbank, f"lfr_{m}_{n}.{frames}.out": apply_lfr(fbank, m, n)}
    text = kaldi_cmvn((torch.randn(14) * 3 - 8).tolist(), (torch.rand(14) * 0.3 + 0.05).tolist())
    path = HERE / "am.mvn.tmp"
    path.write_text(text, encoding="utf-8")
    cmvn = load_cmvn(path)
    path.unlink()
    feats = torch.randn(5, 14) * 4
    tensors |= {
        "cmvn.shift": cmvn[0],
        "cmvn.scale": cmvn[1],
        "cmvn.feats": feats,
        "cmvn.out": apply_cmvn(feats.clone(), cmvn),
    }
    write(HERE / "lfr_cmvn.safetensors", tensors, am_mvn=text, **{"class": "WavFrontend"})


def online_schedules(total):
    """name -> samples per call; the last call is final. Short tails flush the LFR with few or no new frames."""
    schedules = {f"every_{size}": [size] * (total // size) + [total % size] for size in (960, 3200, 5000, 9600)}
    return schedules | {
        "final_empty": [5000, 5000, 0],
        "final_few_frames": [9600, 400, 330],
        "one_final_call": [1000],
        "shorter_than_window": [300],
        "trickle": [100] * 20,
    }


def write_online_frontend(clip):
    """Rows that each call returns, and the rows of all calls together; whole-clip rows are those of `WavFrontend`."""
    n_mels, tensors = 8, {"samples": clip}
    for m, n in ((7, 6), (5, 1)):
        offline, _ = WavFrontend(n_mels=n_mels, dither=0.0, lfr_m=m, lfr_n=n)(clip[None], [len(clip)])
        tensors[f"lfr_{m}_{n}.whole"] = offline[0]
        for name, calls in online_schedules(len(clip)).items():
            frontend, cache, rows, start = WavFrontendOnline(n_mels=n_mels, dither=0.0, lfr_m=m, lfr_n=n), {}, [], 0
            for i, size in enumerate(calls):
                chunk = clip[None, start : start + size]
                start += size
                out, _ = frontend(chunk, [size], cache=cache, is_final=i == len(calls) - 1)
                rows.append(out[0] if out.ndim == 3 else torch.zeros(0, n_mels * m))
            prefix = f"lfr_{m}_{n}.{name}"
            tensors |= {f"{prefix}.calls": torch.tensor(calls), f"{prefix}.rows": torch.tensor([len(r) for r in rows])}
            if start == len(clip):
                torch.testing.assert_close(
                    torch.cat(rows), offline[0], atol=1e-4, rtol=0, msg=f"{prefix}: not the offline features"
                )
            else:
                tensors[f"{prefix}.feats"] = torch.cat(rows)
    write(HERE / "frontend_online.safetensors", tensors, n_mels=n_mels, **{"class": "WavFrontendOnline"})


def write_frontends(audio):
    samples, fs = soundfile.read(audio, dtype="float32")
    assert fs == 16000, f"{audio}: {fs} Hz, wanted 16000"
    clip = torch.from_numpy(samples[8000 : 8000 + 20800].copy())  # 1.3 s
    write_frontend(clip, 16000)
    write_frontend(clip[:12000:2].clone(), 8000)  # aliased on purpose: only the numbers matter
    write_lfr_cmvn()
    write_online_frontend(clip)


# ------------------------------------------------------------------------------------------------------- full size

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
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
}


def write_checkpoint(directory, config, model, tokens):
    """A FunASR model directory: config.yaml as published (training keys included), model.pt, tokens.json."""
    directory.mkdir(parents=True, exist_ok=True)
    published = {
        k: dict(v) if isinstance(v, dict) else v for k, v in config.items() if k not in ("format_version", "vocab_size")
    }
    for section, keys in TRAINING_KEYS.items():
        if section.startswith("tokenizer"):
            published[section] = keys
        elif section in published:
            published[section] |= keys
    if config["model"] == "Paraformer":
        published["model_conf"] = {
            "ctc_weight": 0.0,
            "lsm_weight": 0.1,
            "length_normalized_loss": True,
            "predictor_weight": 1.0,
            "predictor_bias": 1,
            "sampling_ratio": 0.75,
        }
    (directory / "config.yaml").write_text(
        yaml.safe_dump(published, allow_unicode=True, sort_keys=False), encoding="utf-8"
    )
    (directory / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False, indent=0), encoding="utf-8")
    torch.save(model.state_dict(), directory / "model.pt")


def token_list(size):
    return ["<blank>", "<s>", "</s>"] + [chr(0x4E00 + i) if i < 20000 else f"w{i}" for i in range(size - 4)] + ["<unk>"]


def read_tokens(path):
    return [line.rsplit(" ", 1)[0] for line in path.read_text(encoding="utf-8").splitlines()]


def write_full_paraformer(directory, am_mvn, tokens):
    """Paraformer-large's sizes with 150 tokens in 20 s (333 LFR frames)."""
    seed("full_paraformer")
    config = paraformer_config(
        (80, 7, 6), sanm(512, 4, 2048, 50, 11, 0), decoder_conf(4, 2048, 16, 16, 11, 0), cif(1, 1, 0.45), len(tokens)
    )
    model = build(config)
    items = [smooth_noise(frames, 560) for frames in (333, 183, 50)]
    tune_alphas(model, items[0], 150 / 333)
    write_checkpoint(directory, config, model, tokens)
    text = am_mvn.read_text(encoding="utf-8") if am_mvn else kaldi_cmvn([-12.0] * 560, [0.25] * 560)
    (directory / "am.mvn").write_text(text, encoding="utf-8")
    tensors, summary = paraformer_items(model, items)
    write(directory / "stages.safetensors", tensors, config=config, items=summary, **{"class": "Paraformer"})


def write_full_punctuation(directory, vocab_size, encoder):
    seed(directory.name)
    config = punc_config(vocab_size, encoder["output_size"], encoder)
    model = build(config)
    write_checkpoint(directory, config, model, token_list(vocab_size))
    tensors = punc_items(model, config, [1, 20, 220])
    write(directory / "stages.safetensors", tensors, config=config, **{"class": "CTTransformer"})


def write_full(directory, args):
    tokens = read_tokens(args.tokens) if args.tokens else token_list(8404)
    write_full_paraformer(directory / "paraformer", args.am_mvn, tokens)
    if not args.only_paraformer:
        write_full_punctuation(directory / "ct-punc-c", 272727, sanm(256, 8, 1024, 4, 11, 0))
        write_full_punctuation(directory / "ct-punc", 471067, sanm(516, 12, 2048, 12, 11, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--audio",
        type=Path,
        default=HERE.parents[1] / "models/demo/short_00_demo.wav",
        help="16 kHz speech clip of 2 s or more, for the front end",
    )
    parser.add_argument("--full", type=Path, metavar="DIR", help="write published-size random models there instead")
    parser.add_argument("--only-paraformer", action="store_true", help="with --full: leave the punctuation models out")
    parser.add_argument("--am-mvn", type=Path, help="with --full: CMVN file to copy (560 wide)")
    parser.add_argument("--tokens", type=Path, help="with --full: token list, `token id` per line")
    args = parser.parse_args()
    check_versions()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if args.full:
        return write_full(args.full, args)
    for name, (config, rate, frames) in PARAFORMERS.items():
        write_paraformer(name, config, rate, frames)
    for name, (config, chunks) in VADS.items():
        write_vad(name, config, chunks)
    for name, config in PUNCTUATIONS.items():
        write_punctuation(name, config)
    write_cif()
    write_frontends(args.audio)


if __name__ == "__main__":
    main()
