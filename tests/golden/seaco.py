"""SeACo Paraformer: one model a file, every utterance with several hotword lists."""

from contextlib import ExitStack, contextmanager

import torch
from bicif import PUBLISHED, as_bicif
from common import cif, decoder_conf, greedy, sanm
from funasr.models.seaco_paraformer.model import SeacoParaformer
from paraformer import full_config as full_paraformer_config
from paraformer import paraformer_config, tune_alphas, write_case

SENTINEL = [1]  # `<s>`, last entry of every list
# Hotwords of each list, as in the Rust tests. From 50 on the sentinel makes more than 50 entries, and the filter runs.
LISTS = {"none": None, "empty": 0, "one": 1, "three": 3, "fifty": 50, "sixty": 60, "thousand": 1000}


def as_seaco(config, seaco_decoder, no_bias, **model_conf):
    """`seaco_decoder` keeps the class's six layers with attention unless it says otherwise."""
    return as_bicif(config, upsample_type="cnn_blstm", **PUBLISHED) | {
        "model": "SeacoParaformer",
        "model_conf": {
            "inner_dim": config["encoder_conf"]["output_size"],
            "bias_encoder_type": "lstm",
            "bias_encoder_bid": False,
            "NO_BIAS": no_bias,
            **model_conf,
        },
        "seaco_decoder": "ParaformerSANMDecoder",
        "seaco_decoder_conf": {"use_output_layer": False, "wo_input_layer": True, **seaco_decoder},
    }


# name -> (config, mean alpha, frames of each item)
SEACOS = {
    "seaco_basic": (
        as_seaco(
            paraformer_config(
                (6, 7, 6), sanm(16, 2, 17, 2, 11, 0), decoder_conf(4, 21, 2, 2, 11, 0), cif(1, 1, 0.45), 40
            ),
            {"attention_heads": 4, "linear_units": 13, "num_blocks": 4, "kernel_size": 21, "sanm_shfit": 0},
            37,
        ),
        0.3,
        [23, 1, 41],
    ),
    "seaco_bidirectional": (  # a seventh layer with attention, which the filter does not read, and one without
        as_seaco(
            paraformer_config(
                (8, 5, 3), sanm(16, 4, 15, 2, 5, 0), decoder_conf(2, 19, 3, 2, 5, 1), cif(1, 1, 0.45), 31
            ),
            decoder_conf(2, 11, 8, 7, 5, 2),
            5,
            bias_encoder_bid=True,
        ),
        0.35,
        [17, 29],
    ),
}


def hotword_ids(count, vocab_size):
    """`count` hotwords of 1 to 5 ids from a linear congruential generator, which the Rust test repeats."""
    state, words = 1, []
    for k in range(count):
        ids = []
        for _ in range(1 + k % 5):
            state = (state * 1103515245 + 12345) % 2**31
            ids.append(3 + (state >> 16) % (vocab_size - 3))
        words.append(ids)
    return words


@contextmanager
def calls(*methods):
    """Yields a dict of lists that receive what each (owner, method name) returns while the block runs."""
    results = {name: [] for _, name in methods}

    def recording(method, kept):
        def run(*args, **kwargs):
            result = method(*args, **kwargs)
            kept.append((result[0] if isinstance(result, tuple) else result).clone())
            return result

        return run

    with ExitStack() as undo:
        for owner, name in methods:
            setattr(owner, name, recording(getattr(owner, name), results[name]))
            undo.callback(delattr, owner, name)
        yield results


def seaco_hotwords(model, encoded, words):
    """The bias path of FunASR for one utterance and one list; every stage, and the ids."""
    encoder_out, lengths, embeds, count = encoded
    recorded = calls(
        (model, "_hotword_representation"),
        (model.seaco_decoder, "forward_asf6"),
        (model.seaco_decoder, "forward"),
        (model.hotword_output_layer, "forward"),
    )
    # Both modules' `forward`s land in one list: cif_attended, dec_attended, dha.
    with recorded as outputs:
        merged = model._seaco_decode_with_ASF(encoder_out, lengths, embeds, count, hw_list=words)
    stages = {"decoder_log_probs": merged, "ids": greedy(merged[0], count[0])}
    if words is not None:
        cif_attended, dec_attended, dha = outputs["forward"]
        stages |= {"cif_attended": cif_attended, "dec_attended": dec_attended, "dha": dha.log_softmax(-1)}
    if outputs["forward_asf6"]:
        stages["hotword_scores"] = outputs["forward_asf6"][0][0].sum(0).sum(0)
    return stages, (outputs["_hotword_representation"] or [None])[0]


def seaco_item(model, speech, lists):
    """One utterance alone. Returns (stages, hotword embeddings by list, tokens)."""
    lengths = torch.tensor([speech.shape[1]])
    encoder_out, lengths = model.encode(speech, lengths)
    embeds, token_num, alphas, peaks = model.calc_predictor(encoder_out, lengths)
    count = token_num.round().long()
    stages = {"speech": speech, "encoder_out": encoder_out, "alphas": alphas, "peaks": peaks, "token_num": token_num}
    hotwords = {}
    if count.max() >= 1:
        _, hidden, _ = model.decoder(encoder_out, lengths, embeds, count, return_hidden=True, return_both=True)
        _, _, us_alphas, us_peaks = model.calc_predictor_timestamp(encoder_out, lengths, count)
        stages |= {"acoustic_embeds": embeds, "decoder_hidden": hidden, "us_alphas": us_alphas, "us_peaks": us_peaks}
        for name, words in lists.items():
            biased, hotwords[name] = seaco_hotwords(model, (encoder_out, lengths, embeds, count), words)
            stages |= {f"{name}.{stage}": tensor for stage, tensor in biased.items()}
    return stages, hotwords, int(count[0])


def filter_margin(scores):
    """How far the last entry that passes the filter is from the first that does not, relative to the largest."""
    ranked = scores.sort(descending=True).values
    return float((ranked[49] - ranked[50]) / ranked[0])


def seaco_items(model, items):
    tensors, summary, lists = {}, [], hotword_lists(model.vocab_size)
    for i, speech in enumerate(items):
        stages, hotwords, tokens = seaco_item(model, speech, lists)
        tensors |= {f"item{i}.{name}": tensor for name, tensor in stages.items()}
        # Embeddings depend on the list alone; those of the longest list would only take room.
        kept = {name: e for name, e in hotwords.items() if e is not None and len(e) <= 61}
        tensors |= {f"{name}.hotwords": embeds for name, embeds in kept.items()}
        margins = {n: filter_margin(stages[f"{n}.hotword_scores"]) for n in lists if f"{n}.hotword_scores" in stages}
        summary.append({"frames": speech.shape[1], "tokens": tokens, "filter_margin": margins})
    return tensors, summary


def sharpen(modules, gain):
    """Larger weights: untrained hotwords are nearly alike, and attention to them nearly even."""
    for module in modules:
        for name, weight in module.named_parameters():
            if "weight" in name and weight.dim() == 2:
                weight.mul_(gain)


def tune(model, speech, rate):
    """Makes alphas spread around `rate` and hotwords differ, and half of the tokens of `speech` take NO_BIAS."""
    tune_alphas(model, speech, rate)
    sharpen([model.bias_encoder, *(layer.src_attn for layer in model.seaco_decoder.decoders)], 2.5)
    stages, _, _ = seaco_item(model, speech, {"tune": hotword_lists(model.vocab_size)["three"]})
    dha = stages["tune.dha"][0]
    others = dha.clone()
    others[:, model.NO_BIAS] = float("-inf")
    missing = (others.max(-1).values - dha[:, model.NO_BIAS]).sort().values
    # Between two tokens: on one of them, its two best scores would be equal.
    middle = len(missing) // 2
    model.hotword_output_layer.bias[model.NO_BIAS] += (missing[middle - 1] + missing[middle]) / 2


def hotword_lists(vocab_size):
    return {name: n if n is None else [*hotword_ids(n, vocab_size), SENTINEL] for name, n in LISTS.items()}


SEACO = (SeacoParaformer, tune, seaco_items)


def full_config(tokens):
    """The sizes of paraformer-zh."""
    seaco_decoder = {"attention_heads": 4, "linear_units": 1024, "num_blocks": 4, "kernel_size": 21, "sanm_shfit": 0}
    return as_seaco(full_paraformer_config(tokens), seaco_decoder, 8377)


def generate():
    for name, (config, rate, frames) in SEACOS.items():
        write_case(name, SEACO, config, rate, frames)
