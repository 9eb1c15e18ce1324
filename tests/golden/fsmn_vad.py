"""FSMN-VAD scores."""

import torch
from common import HERE, build, feature_dim, recorded, seed, smooth_noise, weights, write
from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming


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
    model = build(config, FsmnVADStreaming)
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


def generate():
    for name, (config, chunks) in VADS.items():
        write_vad(name, config, chunks)
