"""Streaming Paraformer, driven from samples by FunASR's own `ParaformerStreaming.inference`."""

import inspect
import sys
import tempfile
import textwrap

import soundfile
import torch
from common import (
    HERE,
    build,
    cif,
    decoder_conf,
    kaldi_cmvn,
    margin,
    recorded,
    sanm,
    seed,
    token_list,
    weights,
    write,
    write_checkpoint,
)
from funasr.frontends.wav_frontend import WavFrontendOnline
from funasr.models.paraformer_streaming.model import ParaformerStreaming
from funasr.register import tables
from paraformer import paraformer_config

CLIP = HERE.parents[1] / "models/demo/short_00_demo.wav"

def online_config(n_mels, encoder, decoder, predictor, vocab_size):
    config = paraformer_config((n_mels, 7, 6), encoder, decoder, predictor, vocab_size)
    config["encoder_conf"] |= {"input_layer": "pe_online"}
    return config | {
        "model": "ParaformerStreaming",
        "encoder": "SANMEncoderChunkOpt",
        "frontend": "WavFrontendOnline",
    }


# name -> (config, mean alpha, [chunk size, encoder look-back, decoder look-back], [first sample, samples] of each stream).
# The caches of the first stream are kept.
ONLINE = {
    "online_basic": (  # as published
        online_config(4, sanm(16, 2, 19, 3, 11, 0), decoder_conf(2, 21, 2, 2, 11, 5), cif(1, 1, 0.45), 30),
        0.3,
        [[0, 10, 5], 4, 1],
        [[8000, 5 * 9600 + 400], [8000, 3 * 9600], [20000, 2 * 9600 + 5000], [9000, 4000], [9000, 959], [9000, 960]],
    ),
    "online_left": (  # unlimited look-back of the encoder, none of the decoder; memories with zeros behind
        online_config(4, sanm(12, 3, 17, 2, 7, 1), decoder_conf(2, 19, 2, 2, 11, 0), cif(1, 1, 0.3), 25),
        0.25,
        [[5, 10, 5], -1, -1],
        [[8000, 4 * 9600], [12000, 9600 + 960], [30000, 700]],
    ),
    "online_no_right": (  # nothing is ever put into the encoder's cache
        online_config(4, sanm(12, 2, 17, 2, 11, 0), decoder_conf(3, 19, 2, 2, 5, 2), cif(2, 0, 0.45), 25),
        0.3,
        [[5, 10, 0], 4, 2],
        [[8000, 3 * 9600 + 1000], [8000, 9600]],
    ),
    "online_residual": (  # first layer 28 -> 28 with a residual, three layers of memory alone, few fires
        online_config(4, sanm(28, 2, 11, 2, 4, 0), decoder_conf(2, 9, 4, 1, 6, 1), cif(1, 1, 0.3), 15),
        0.045,
        [[0, 8, 4], 0, 0],
        [[8000, 5 * 7680 + 300], [16000, 3 * 7680 + 2000]],
    ),
    "online_one_memory": (  # one layer of memory alone
        online_config(4, sanm(12, 2, 17, 2, 11, 0), decoder_conf(2, 19, 3, 2, 11, 5), cif(1, 1, 0.45), 25),
        0.3,
        [[0, 10, 5], 4, 1],
        [[8000, 3 * 9600 + 500], [22000, 9600 + 4000]],
    ),
    "online_narrow": (  # short chunks: the first one leaves more in the cache than the look-back holds
        online_config(4, sanm(12, 2, 17, 2, 11, 0), decoder_conf(2, 19, 2, 2, 11, 5), cif(1, 1, 0.0), 25),
        0.4,
        [[5, 4, 3], 1, 2],
        [[8000, 7 * 3840 + 200], [22000, 3840 * 2 + 3000]],
    ),
}


def run_every_memory_layer():
    """FunASR skips the layers of memory alone if there is exactly one of them (`> 1`); the intended `> 0` runs it."""
    cls = tables.decoder_classes["ParaformerSANMDecoder"]
    scope = sys.modules[cls.__module__].__dict__
    source = textwrap.dedent(inspect.getsource(cls.forward_chunk))
    assert source.count("self.att_layer_num > 1") == 1
    exec(source.replace("self.att_layer_num > 1", "self.att_layer_num > 0"), scope)
    cls.forward_chunk = scope.pop("forward_chunk")


class Tokenizer:
    def ids2tokens(self, ids):
        return [chr(0x4E00 + i) for i in ids]


def rows(cache):
    """`[1, H, M, D / H]` -> `[M, D]`"""
    return cache[0].transpose(0, 1).flatten(1)


def keys_and_values(layers):
    """K and V of each layer side by side, `[layers, M, 2 D]`"""
    return torch.stack([torch.cat([rows(layer["k"]), rows(layer["v"])], 1) for layer in layers])


def caches(cache, kernel):
    encoder, decoder = cache["encoder"], cache["decoder"]
    kept = {
        "feats": encoder["feats"],
        "start_idx": torch.tensor([encoder["start_idx"]]),
        "cif_alphas": encoder["cif_alphas"],
        "cif_hidden": encoder["cif_hidden"],
    }
    if encoder["opt"] is not None:
        kept["encoder_kv"] = keys_and_values(encoder["opt"])
    if decoder["opt"] is not None and decoder["opt"][0] is not None:
        kept["decoder_kv"] = keys_and_values(decoder["opt"])
    if decoder["decode_fsmn"] is not None:
        # What a later call still reads of them: the last K - 1 columns.
        kept["fsmn"] = torch.stack([layer[0, :, 1 - kernel :].T for layer in decoder["decode_fsmn"]])
    return {f"cache.{name}": tensor.clone() for name, tensor in kept.items() if tensor.numel()}


class Drive:
    """Runs streams through `inference` and keeps the stages of every chunk."""

    def __init__(self, model, config, frontend, options):
        self.model, self.config, self.frontend = model, config, frontend
        (self.chunk_size, encoder, decoder) = options
        self.look_back = {"encoder_chunk_look_back": encoder, "decoder_chunk_look_back": decoder}
        self.calls = []
        for part, name in (
            (model.encoder, "forward_chunk"),
            (model.predictor, "forward_chunk"),
            (model.decoder, "forward_chunk"),
            (model, "generate_chunk"),
        ):
            self.wrap(part, name)

    def wrap(self, part, name):
        original = getattr(part, name)

        def call(*args, **kwargs):
            if part is self.model:
                self.calls.append({"is_final": kwargs["is_final"]})
                if not kwargs["cache"]["encoder"]["tail_chunk"]:
                    self.calls[-1]["speech"] = args[0].clone()
                tokens = original(*args, **kwargs)
                kernel = self.config["decoder_conf"]["kernel_size"]
                self.calls[-1] |= caches(kwargs["cache"], kernel)
                self.calls[-1]["ids"] = torch.tensor([ord(token) - 0x4E00 for token in tokens], dtype=torch.int64)
                return tokens
            with recorded({"z": self.model.predictor.cif_output}) as outputs:
                result = original(*args, **kwargs)
            if part is self.model.encoder:
                self.calls[-1]["encoder_out"] = result[0].clone()
            elif part is self.model.predictor:
                self.calls[-1]["z"] = outputs["z"]
                self.calls[-1]["alphas"] = self.masked(outputs["z"], kwargs["is_final"])
                if result[1].max() > 0:
                    self.calls[-1]["acoustic_embeds"] = result[0].clone()
            else:
                self.calls[-1]["decoder_logits"] = result.clone()
            return result

        setattr(part, name, call)

    def masked(self, z, is_final):
        """The weights of the chunk's own frames, as the predictor integrates them."""
        predictor, (left, stride, _) = self.model.predictor, self.chunk_size
        alphas = torch.relu(torch.sigmoid(z) * predictor.smooth_factor - predictor.noise_threshold).squeeze(-1)
        alphas[:, :left] = 0.0
        if not is_final:
            alphas[:, left + stride :] = 0.0
        return alphas

    def stream(self, samples):
        self.calls = []
        self.model.inference(
            [samples.copy()],
            key=["golden"],
            tokenizer=Tokenizer(),
            frontend=self.frontend,
            cache={},
            is_final=True,
            chunk_size=self.chunk_size,
            device="cpu",
            encoder_conf=self.config["encoder_conf"],
            frontend_conf=self.config["frontend_conf"],
            **self.look_back,
        )
        return self.calls


def tune_alphas(drive, samples, rate):
    """Scales and shifts the CIF output layer so that alphas spread around `rate`; untuned ones are nearly constant."""
    predictor = drive.model.predictor
    z = torch.cat([call["z"].flatten() for call in drive.stream(samples)]) - predictor.cif_output.bias
    gain = 1.0 / z.std()
    predictor.cif_output.weight.mul_(gain)
    predictor.cif_output.bias.fill_(float(torch.logit(torch.tensor(rate)) - gain * z.mean()))


def stream_tensors(calls, name, with_caches):
    """Tensors `<name>.chunk<j>.*` and a line of facts for each chunk."""
    tensors, facts = {}, []
    for j, call in enumerate(calls):
        keep_caches = with_caches and j in (0, 1, len(calls) - 1)
        for stage, value in call.items():
            if stage not in ("z", "is_final") and (keep_caches or not stage.startswith("cache.")):
                tensors[f"{name}.chunk{j}.{stage}"] = value
        kind = "next" if not call["is_final"] else "last" if "speech" in call else "tail"
        facts.append({"kind": kind, "ids": call["ids"].tolist(), "margin": margin(call)})
    return tensors, facts


def read_clip():
    samples, rate = soundfile.read(CLIP, dtype="float32")
    assert rate == 16000
    return samples


def front_end(config, shift, scale):
    with tempfile.NamedTemporaryFile("w", suffix=".mvn", encoding="utf-8") as cmvn:
        cmvn.write(kaldi_cmvn(shift, scale))
        cmvn.flush()
        return WavFrontendOnline(cmvn_file=cmvn.name, dither=0.0, **config["frontend_conf"])


def case(name, config, rate, options, streams, samples):
    """Model, tensors and facts of one case."""
    seed(name)
    model = build(config, ParaformerStreaming)
    model.decoder.output_layer.bias[:3] -= 1.0  # few of the ids that are left out of the result
    width = 7 * config["frontend_conf"]["n_mels"]
    cmvn = {"shift": [-13.0] * width, "scale": [0.25] * width}
    drive = Drive(model, config, front_end(config, **cmvn), options)
    tune_alphas(drive, samples, rate)
    tensors, facts = {}, []
    for i, (start, count) in enumerate(streams):
        found, chunks = stream_tensors(drive.stream(samples[start : start + count]), f"stream{i}", i == 0)
        tensors |= found
        facts.append({"start": start, "samples": count, "chunks": chunks})
    tensors |= {f"frontend.cmvn_{part}": torch.tensor(values) for part, values in cmvn.items()}
    metadata = {"config": config, "streams": facts, "options": options, "class": "ParaformerStreaming"}
    return model, tensors, metadata


def write_full_online(directory, am_mvn, tokens):
    """Paraformer-large's sizes, a few chunks of the clip."""
    config = online_config(
        80, sanm(512, 4, 2048, 50, 11, 0), decoder_conf(4, 2048, 16, 16, 11, 5), cif(1, 1, 0.45), len(tokens)
    )
    streams = [[8000, 3 * 9600 + 400], [20000, 9600 + 5000]]
    options = [[0, 10, 5], 4, 1]
    model, tensors, metadata = case("full_paraformer_online", config, 0.3, options, streams, read_clip())
    tensors = {k: v for k, v in tensors.items() if ".cache." not in k}
    write_checkpoint(directory, config, model, tokens)
    text = am_mvn.read_text(encoding="utf-8") if am_mvn else kaldi_cmvn([-13.0] * 560, [0.25] * 560)
    (directory / "am.mvn").write_text(text, encoding="utf-8")
    write(directory / "stages.safetensors", tensors, **metadata)


def generate():
    run_every_memory_layer()
    samples = read_clip()
    for name, (config, rate, options, streams) in ONLINE.items():
        model, tensors, metadata = case(name, config, rate, options, streams, samples)
        write(HERE / f"{name}.safetensors", weights(model) | tensors, **metadata)
