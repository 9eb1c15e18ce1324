"""Plain Paraformer."""

import math

import torch
from common import (
    HERE,
    LONG,
    build,
    cif,
    decoder_conf,
    decoder_stages,
    encoder_stages,
    feature_dim,
    greedy,
    kaldi_cmvn,
    margin,
    recorded,
    sanm,
    seed,
    smooth_noise,
    weights,
    write,
    write_checkpoint,
)
from funasr.models.paraformer.model import Paraformer


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


def spread(layer, z, target):
    """Scales and shifts the output `layer`, which gives logits `z`, so that they deviate by 1 around `target`; untuned ones
    are nearly constant."""
    z = z - layer.bias
    gain = 1.0 / z.std()
    layer.weight.mul_(gain)
    layer.bias.fill_(math.log(target / (1 - target)) - gain * z.mean())


def tune_alphas(model, speech, rate):
    """Makes alphas spread around `rate`."""
    predictor, lengths = model.predictor, torch.tensor([speech.shape[1]])
    with recorded({"z": predictor.cif_output}) as outputs:
        model.calc_predictor(*model.encode(speech, lengths))
    spread(predictor.cif_output, outputs["z"], (rate + predictor.noise_threshold) / predictor.smooth_factor)


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


# What `write_case` and `write_full` need of a family: model class, tuning of its weights to a rate of tokens, dump of items.
PLAIN = (Paraformer, tune_alphas, paraformer_items)


def write_case(name, family, config, rate, frames):
    seed(name)
    model_class, tune, dump = family
    model = build(config, model_class)
    tune(model, smooth_noise(100, feature_dim(config)), rate)
    tensors, summary = dump(model, [smooth_noise(t, feature_dim(config)) for t in frames])
    metadata = {"config": config, "items": summary, "class": config["model"]}
    write(HERE / f"{name}.safetensors", weights(model) | tensors, **metadata)


def full_config(tokens):
    """Paraformer-large's sizes."""
    return paraformer_config(
        (80, 7, 6), sanm(512, 4, 2048, 50, 11, 0), decoder_conf(4, 2048, 16, 16, 11, 0), cif(1, 1, 0.45), len(tokens)
    )


def write_full(directory, family, config, am_mvn, tokens):
    """A FunASR directory and its stages; 150 tokens in 20 s (333 LFR frames)."""
    seed(f"full_{directory.name}")
    model_class, tune, dump = family
    model = build(config, model_class)
    items = [smooth_noise(frames, 560) for frames in (333, 183, 50)]
    tune(model, items[0], 150 / 333)
    write_checkpoint(directory, config, model, tokens)
    text = am_mvn.read_text(encoding="utf-8") if am_mvn else kaldi_cmvn([-12.0] * 560, [0.25] * 560)
    (directory / "am.mvn").write_text(text, encoding="utf-8")
    tensors, summary = dump(model, items)
    metadata = {"config": config, "items": summary, "class": config["model"]}
    write(directory / "stages.safetensors", tensors, **metadata)


def generate():
    for name, (config, rate, frames) in PARAFORMERS.items():
        write_case(name, PLAIN, config, rate, frames)
