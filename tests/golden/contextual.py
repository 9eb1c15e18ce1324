"""Contextual Paraformer: one model a file, every utterance with several hotword lists."""

import torch
from common import cif, decoder_conf, greedy, recorded, sanm
from funasr.models.contextual_paraformer.model import ContextualParaformer
from paraformer import full_config as full_paraformer_config
from paraformer import paraformer_config, tune_alphas, write_case
from seaco import hotword_lists, sharpen


def as_contextual(config, **model_conf):
    return config | {
        "model": "ContextualParaformer",
        "model_conf": {"inner_dim": config["encoder_conf"]["output_size"], **model_conf},
        "decoder": "ContextualParaformerDecoder",
    }


# name -> (config, mean alpha, frames of each item)
CONTEXTUALS = {
    "contextual_basic": (
        as_contextual(
            paraformer_config(
                (6, 7, 6), sanm(16, 2, 17, 2, 11, 0), decoder_conf(4, 21, 3, 3, 11, 0), cif(1, 1, 0.45), 40
            )
        ),
        0.3,
        [23, 1, 41],
    ),
    "contextual_deep": (  # two FSMN-only layers after the bias, shifted, hotwords through the decoder's embedding
        as_contextual(
            paraformer_config(
                (8, 5, 3), sanm(16, 4, 15, 2, 5, 0), decoder_conf(2, 19, 4, 2, 5, 1), cif(0, 2, 0.45), 31
            ),
            use_decoder_embedding=True,
        ),
        0.35,
        [17, 29],
    ),
    "contextual_half_shift": (  # no shift given: half the kernel; no tail frame
        as_contextual(
            paraformer_config(
                (6, 5, 1), sanm(12, 1, 11, 1, 3, 0), decoder_conf(1, 13, 1, 2, 3, None), cif(1, 1, 0.0), 20
            )
        ),
        0.4,
        [11, 3],
    ),
}


def contextual_hotwords(model, encoded, words):
    encoder_out, lengths, embeds, count = encoded
    decoder = model.decoder
    modules = {f"decoder_layer_{i}": layer for i, layer in enumerate(decoder.decoders)}
    modules |= {"decoder_bias": decoder.bias_decoder}
    with recorded(modules) as stages:
        last = []
        hook = decoder.last_decoder.register_forward_hook(lambda _module, _args, out: last.extend(out[2:]))
        log_probs, _ = model.cal_decoder_with_predictor(encoder_out, lengths, embeds, count, hw_list=words)
        hook.remove()
    stages |= {"decoder_self": last[0], "decoder_src": last[1]}
    return stages | {"decoder_log_probs": log_probs, "ids": greedy(log_probs[0], count[0])}


def hotword_embeds(model, words):
    """One by one, each the last state."""
    embed = model.decoder.embed if model.use_decoder_embedding else model.bias_embed
    states = [model.bias_encoder(embed(torch.tensor([ids])))[1][0][0, 0] for ids in words]
    return torch.stack(states)


def contextual_item(model, speech, lists):
    encoder_out, lengths = model.encode(speech, torch.tensor([speech.shape[1]]))
    embeds, token_num, alphas, peaks = model.calc_predictor(encoder_out, lengths)
    count = token_num.round().long()
    stages = {"speech": speech, "encoder_out": encoder_out, "alphas": alphas, "peaks": peaks, "token_num": token_num}
    if count.max() >= 1:
        stages["acoustic_embeds"] = embeds
        for name, words in lists.items():
            biased = contextual_hotwords(model, (encoder_out, lengths, embeds, count), words)
            stages |= {f"{name}.{stage}": tensor for stage, tensor in biased.items()}
    return stages, int(count[0])


def contextual_items(model, items):
    lists = hotword_lists(model.vocab_size)
    kept = {name: words for name, words in lists.items() if words and len(words) <= 61}
    tensors = {f"{name}.hotwords": hotword_embeds(model, words) for name, words in kept.items()}
    summary = []
    for i, speech in enumerate(items):
        stages, tokens = contextual_item(model, speech, lists)
        tensors |= {f"item{i}.{name}": tensor for name, tensor in stages.items()}
        summary.append({"frames": speech.shape[1], "tokens": tokens})
    return tensors, summary


def tune(model, speech, rate):
    """Makes alphas spread around `rate` and hotwords differ."""
    tune_alphas(model, speech, rate)
    sharpen([model.bias_encoder, model.decoder.bias_decoder], 2.5)


CONTEXTUAL = (ContextualParaformer, tune, contextual_items)


def full_config(tokens):
    """The sizes of the published model."""
    return as_contextual(full_paraformer_config(tokens))


def generate():
    for name, (config, rate, frames) in CONTEXTUALS.items():
        write_case(name, CONTEXTUAL, config, rate, frames)
