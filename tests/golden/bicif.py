"""BiCIF Paraformer: a second weight for each third of a frame, and the token times made of it."""

import paraformer
import torch
from common import cif, decoder_conf, greedy, margin, recorded, sanm, token_list
from funasr.models.bicif_paraformer.model import BiCifParaformer
from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard
from paraformer import paraformer_config, paraformer_stages, spread, tune_alphas, write_case


def as_bicif(config, **head):
    """`head` = options of the second weight; what is left out keeps the class's default."""
    predictor_conf = config["predictor_conf"] | head
    return config | {"model": "BiCifParaformer", "predictor": "CifPredictorV3", "predictor_conf": predictor_conf}


def small(predictor, **head):
    encoder, decoder = sanm(16, 2, 19, 1, 5, 0), decoder_conf(2, 17, 1, 1, 5, 0)
    return as_bicif(paraformer_config((4, 5, 3), encoder, decoder, predictor, 37), **head)


PUBLISHED = {"smooth_factor2": 0.25, "noise_threshold2": 0.01, "upsample_times": 3, "use_cif1_cnn": False}

# name -> (config, mean alpha, frames of each item)
BICIFS = {
    "bicif_published": (small(cif(1, 1, 0.45), upsample_type="cnn_blstm", **PUBLISHED), 0.35, [31, 1, 9, 120]),
    "bicif_blstm_cif1": (
        small(cif(0, 2, 0.45), upsample_type="cnn_blstm", **PUBLISHED | {"use_cif1_cnn": True}),
        0.75,
        [17, 1, 40],
    ),
    "bicif_cnn": (
        small(cif(1, 1, 0.3, smooth_factor=0.9, noise_threshold=0.05), upsample_type="cnn", **PUBLISHED),
        0.4,
        [24, 2, 11],
    ),
    "bicif_twice": (  # two weights a frame, by the convolution of the first head
        small(cif(1, 0, 0.45), smooth_factor2=0.5, upsample_times=2),
        0.4,
        [19, 6, 45],
    ),
    "bicif_no_tail": (small(cif(1, 1, 0.0), upsample_type="cnn", **PUBLISHED), 0.3, [22, 3, 38]),
    "bicif_silent": (  # token_num 0, 0, then a few
        small(cif(1, 1, 0.45), upsample_type="cnn_blstm", **PUBLISHED),
        0.04,
        [6, 1, 70],
    ),
    "bicif_defaults": (small({"l_order": 1, "r_order": 1}), 0.3, [21, 13]),  # five weights a frame, no tail
}


def tune(model, speech, rate):
    """Makes both weights spread."""
    tune_alphas(model, speech, rate)
    lengths = torch.tensor([speech.shape[1]])
    with recorded({"z": model.predictor.cif_output2}) as outputs:
        model.calc_predictor_timestamp(*model.encode(speech, lengths), torch.tensor([1]))
    spread(model.predictor.cif_output2, outputs["z"], 0.4)


def bicif_stages(model, speech):
    """What `BiCifParaformer.inference` does with one utterance; the layers are those of the plain Paraformer."""
    lengths = torch.tensor([speech.shape[1]])
    stages, count = paraformer_stages(model, speech, lengths)
    stages = {k: v for k, v in stages.items() if "_layer_" not in k and k != "encoder_embed"}
    if count[0] < 1:
        return stages, 0
    predictor = model.predictor
    last = predictor.blstm if predictor.upsample_type == "cnn_blstm" else predictor.upsample_cnn
    with recorded({"upsampled": last}) as head:
        _, _, alphas, peaks = model.calc_predictor_timestamp(stages["encoder_out"], lengths, count)
    if predictor.upsample_type == "cnn":
        head["upsampled"] = head["upsampled"].transpose(1, 2)
    return stages | head | {"us_alphas": alphas, "us_peaks": peaks}, int(count[0])


def token_times(stages, frames, tokens):
    """`[[start, end], ..]`, called as the inference does. FunASR scales the weights in place."""
    alphas, peaks = (stages[name][0][: frames * 3].clone() for name in ("us_alphas", "us_peaks"))
    return ts_prediction_lfr6_standard(alphas, peaks, list(tokens))[1]


def bicif_items(model, items):
    """One by one. `timestamps` are those of the tokens; `timestamps_eos` those when the last token alone is `</s>`, as
    trained models emit it: then the peaks suffice, and FunASR scales no weights."""
    tensors, summary = {}, []
    names = token_list(model.vocab_size)
    for i, speech in enumerate(items):
        stages, count = bicif_stages(model, speech)
        ids = greedy(stages["decoder_logits"][0], count) if count else torch.zeros(0, dtype=torch.int64)
        item = {"frames": speech.shape[1], "tokens": count, "ids": ids.tolist(), "margin": margin(stages)}
        if count:
            tokens = [names[id] for id in ids.tolist()]
            item["timestamps"] = token_times(stages, speech.shape[1], tokens)
            item["timestamps_eos"] = token_times(stages, speech.shape[1], ["x"] * (count - 1))
        tensors |= {f"item{i}.{name}": tensor for name, tensor in stages.items()} | {f"item{i}.ids": ids}
        summary.append(item)
    return tensors, summary


BICIF = (BiCifParaformer, tune, bicif_items)


def full_config(tokens):
    """The published sizes and options."""
    return as_bicif(paraformer.full_config(tokens), upsample_type="cnn_blstm", **PUBLISHED)


def generate():
    for name, (config, rate, frames) in BICIFS.items():
        write_case(name, BICIF, config, rate, frames)
