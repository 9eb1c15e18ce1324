"""CT-Transformer labels."""

import torch
from common import HERE, build, encoder_stages, recorded, sanm, seed, token_list, weights, write, write_checkpoint
from funasr.models.ct_transformer.model import CTTransformer

PUNC_LIST = ["<unk>", "_", "，", "。", "？", "、"]


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
    model = build(config, CTTransformer)
    tensors = punc_items(model, config, [1, 2, 7, 20, 50])
    write(HERE / f"{name}.safetensors", weights(model) | tensors, config=config, **{"class": "CTTransformer"})


def write_full_punctuation(directory, vocab_size, encoder):
    seed(directory.name)
    config = punc_config(vocab_size, encoder["output_size"], encoder)
    model = build(config, CTTransformer)
    write_checkpoint(directory, config, model, token_list(vocab_size))
    tensors = punc_items(model, config, [1, 20, 220])
    write(directory / "stages.safetensors", tensors, config=config, **{"class": "CTTransformer"})


def generate():
    for name, config in PUNCTUATIONS.items():
        write_punctuation(name, config)
