"""The contenders: each is loaded once for a model and a number of threads, and then is `Work -> (seconds, count)`.

The count (tokens, segments, marks) shows whether all did the same work.
"""

import json
import os
import subprocess
import time
from functools import partial

from models import load_funasr

OURS = "funasr-candle"
FP32, INT8 = "model.onnx", "model_quant.onnx"
PIPELINE_BATCH = 8  # segments in one call of Paraformer


def makers(model, threads, binary, runs):
    """Name -> what loads the contender."""
    own = ours_of(model, threads, binary, runs)
    if model.name == "pipeline":
        return {"onnxruntime int8": partial(onnx_pipeline, model, threads)} | own
    families = {"vad": (onnx_vad, pytorch_vad), "punctuation": (onnx_punctuation, pytorch_punctuation)}
    onnx, pytorch = families.get(model.name, (onnx_acoustic, pytorch_acoustic))
    peers = {
        "onnxruntime fp32": partial(onnx, model, FP32, threads),
        "onnxruntime int8": partial(onnx, model, INT8, threads),
        "pytorch fp32": partial(pytorch, model, threads),
    }
    return peers | own


def timed(function):
    """A contender in Python, from a function `Work -> count`, or `Work -> () -> count` to count off the clock."""

    def run(work):
        start = time.perf_counter()
        count = function(work)
        elapsed = time.perf_counter() - start
        return elapsed, count() if callable(count) else count

    return run


# --------------------------------------------------------------------------------- acoustic models: features -> logits


def onnx_acoustic(model, file, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(model.directory / file), options, providers=["CPUExecutionProvider"])

    def run(work):
        return partial(count_tokens, model, session.run(None, onnx_feed(model, work)))

    return timed(run)


def onnx_feed(model, work):
    import numpy as np

    speech, lengths = (tensor.numpy() for tensor in work.content)
    feed = {"speech": speech, "speech_lengths": lengths.astype(np.int32)}
    if model.name == "sensevoice":
        zeros = np.zeros(len(lengths), np.int32)
        feed |= {"language": zeros, "textnorm": zeros + WITHOUT_ITN}
    return feed


def pytorch_acoustic(model, threads):
    import torch

    network = load_funasr(model.directory, threads).model.eval()
    forward = sense_voice if model.name == "sensevoice" else paraformer

    @torch.no_grad()
    def run(work):
        torch.set_num_threads(threads)
        outputs = forward(network, *work.content)
        return partial(count_tokens, model, [output.numpy() for output in outputs])

    return timed(run)


def paraformer(network, speech, lengths):
    encoder_out, encoder_lens = network.encode(speech, lengths)
    embeds, token_num, _alphas, _peaks = network.calc_predictor(encoder_out, encoder_lens)
    token_num = token_num.round().long()
    logits, _ = network.cal_decoder_with_predictor(encoder_out, encoder_lens, embeds, token_num)
    return logits, token_num


WITHOUT_ITN = 15  # the row of SenseVoice's embedding that says so


def sense_voice(network, speech, lengths):
    import torch
    from funasr.models.sense_voice.export_meta import export_forward

    language = torch.zeros(len(lengths), dtype=torch.int64)
    return export_forward(network, speech, lengths, language, language + WITHOUT_ITN)


def count_tokens(model, outputs):
    logits, counts = outputs[0], outputs[1]
    if model.name == "paraformer":
        return int(counts.sum())
    # CTC: runs of equal ids but blanks, which are 0. The first four frames are language, emotion, event and text norm.
    ids = [item[4:count].argmax(-1) for item, count in zip(logits, counts)]
    return sum(int((item[0] != 0) + ((item[1:] != item[:-1]) & (item[1:] != 0)).sum()) for item in ids)


# ----------------------------------------------------------- voice detection, punctuation, and all of it, as in FunASR


def onnx_options(file, threads):
    return {"quantize": file == INT8, "intra_op_num_threads": threads}


def onnx_vad(model, file, threads):
    from funasr_onnx import Fsmn_vad

    detector = Fsmn_vad(str(model.directory), **onnx_options(file, threads))
    return timed(lambda work: sum(len(detector(work.content)[0]) for _ in range(work.items)))


def pytorch_vad(model, threads):
    detector = load_funasr(model.directory, threads)
    return timed(lambda work: sum(len(detector.generate(work.content)[0]["value"]) for _ in range(work.items)))


def onnx_punctuation(model, file, threads):
    from funasr_onnx import CT_Transformer

    punctuator = CT_Transformer(str(model.directory), **onnx_options(file, threads))
    return timed(lambda work: sum(len(punctuator(work.content)[1]) for _ in range(work.items)))


def pytorch_punctuation(model, threads):
    punctuator = load_funasr(model.directory, threads)
    return timed(lambda work: sum(len(punctuator.generate(work.content)[0]["punc_array"]) for _ in range(work.items)))


def onnx_pipeline(model, threads):
    """Segments of Fsmn_vad, in batches, to Paraformer; its text to CT_Transformer. Reading the file is timed, too."""
    import inputs
    from funasr_onnx import CT_Transformer, Fsmn_vad, Paraformer

    options = onnx_options(INT8, threads)
    detector = Fsmn_vad(str(model.detector.directory), **options)
    recognizer = Paraformer(str(model.directory), batch_size=PIPELINE_BATCH, **options)
    punctuator = CT_Transformer(str(model.punctuation.directory), **options)
    recognizer.load_data = lambda pieces, _rate: pieces  # takes file names or one array, where we have arrays

    def run(work):
        samples = inputs.read(work.path)
        rate = inputs.SAMPLE_RATE // 1000
        pieces = [samples[start * rate : end * rate] for start, end in detector(samples)[0]]
        texts = [result["preds"][0] for result in recognizer(pieces)]
        punctuator("".join(texts))
        return lambda: sum(map(len, texts))

    return timed(run)


# ---------------------------------------------------------------------------------------------------------------- ours


def ours_of(model, threads, binary, runs):
    """One process a turn, which reports the median of its runs, loading and warm-up excluded."""
    if model.name == "pipeline":
        return {f"{OURS} {dtype}": partial(our_pipeline, model, dtype, threads, binary) for dtype in model.converted}
    engines = {f"{OURS} {dtype}": partial(ours, model, dtype, threads, binary, runs) for dtype in model.converted}
    return engines | {"candle f32": partial(ours, model, "f32", threads, binary, 1, {"FUNASR_CANDLE_REFERENCES": "1"})}


def ours(model, dtype, threads, binary, runs, environment=None):
    options = ("--model", model.converted[dtype], "--dtype", dtype, "--threads", threads, "--runs", runs)

    def run(work):
        result = call([binary, "bench", "--offline", *options, *work.options], environment)[-1]
        return result["median_seconds"], result["tokens"]

    return run


def our_pipeline(model, dtype, threads, binary):
    options = ("--dtype", dtype, "--threads", threads, "--punc-model", model.punctuation.converted["f32"])
    command = (binary, "transcribe", "--offline", "--format", "json", "--model", model.converted[dtype], *options)

    def run(work):
        # The same file twice: the first time is to warm up.
        result = call([*command, work.path, work.path])[-1]
        tokens = sum(len(segment["tokens"]) for segment in result["segments"])
        return result["rtf"] * result["duration_ms"] / 1000, tokens

    return run


def call(command, environment=None):
    """The JSON lines that a command prints."""
    words = [str(word) for word in command]
    environment = os.environ | (environment or {})
    out = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]
