"""The contenders: loaded once for a model and a number of threads, then opened for a `Work`.

A contender is `Work -> context` of a function `() -> Run`, which does the work once.
"""

import json
import resource
import subprocess
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from models import load_funasr

OURS = "funasr-candle"
FP32, INT8 = "model.onnx", "model_quant.onnx"


@dataclass(frozen=True)
class Run:
    """What a run took and gave."""

    wall: float  # seconds
    cpu: float  # seconds that processors worked for it
    count: int  # of tokens, segments or marks: whether all did the same work


def makers(model, threads, binary):
    """Name -> what loads the contender."""
    own = ours_of(model, threads, binary)
    if model.name == "pipeline":
        files = {"fp32": FP32, "int8": INT8}
        peers = {f"onnxruntime {name}": partial(onnx_pipeline, model, file, threads) for name, file in files.items()}
        return peers | own
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
        wall, cpu = time.perf_counter(), time.process_time()
        count = function(work)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Run(wall, cpu, count() if callable(count) else count)

    return lambda work: nullcontext(partial(run, work))


# --------------------------------------------------------------------------------- acoustic models: features -> logits


def onnx_acoustic(model, file, threads):
    """The export in a session with the options that `funasr-onnx` sets."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(model.directory / file), options, providers=["CPUExecutionProvider"])

    def run(work):
        return partial(count_tokens, model, session.run(None, onnx_feed(model, work)))

    return timed(run)


def onnx_feed(model, work):
    """The inputs of a session by name."""
    import numpy as np

    speech, lengths = (tensor.numpy() for tensor in work.content)
    feed = {"speech": speech, "speech_lengths": lengths.astype(np.int32)}
    if model.name == "sensevoice":
        zeros = np.zeros(len(lengths), np.int32)
        feed |= {"language": zeros, "textnorm": zeros + WITHOUT_ITN}
    return feed


def pytorch_acoustic(model, threads):
    """FunASR's own classes."""
    import torch

    network = load_funasr(model.directory, threads).model.eval()
    forward = {"paraformer": paraformer, "bicif": bicif, "sensevoice": sense_voice}[model.name]

    @torch.no_grad()
    def run(work):
        torch.set_num_threads(threads)
        outputs = forward(network, *work.content)
        return partial(count_tokens, model, [output.numpy() for output in outputs])

    return timed(run)


def paraformer(network, speech, lengths):
    """Logits and numbers of tokens."""
    return decoded(network, *network.encode(speech, lengths))


def decoded(network, encoder_out, encoder_lens):
    """The same from what the encoder gives."""
    embeds, token_num, _alphas, _peaks = network.calc_predictor(encoder_out, encoder_lens)
    token_num = token_num.round().long()
    logits, _ = network.cal_decoder_with_predictor(encoder_out, encoder_lens, embeds, token_num)
    return logits, token_num


def bicif(network, speech, lengths):
    """Logits, numbers of tokens, and the weights that time them."""
    encoder_out, encoder_lens = network.encode(speech, lengths)
    logits, token_num = decoded(network, encoder_out, encoder_lens)
    _alphas, _peaks, us_alphas, us_peaks = network.calc_predictor_timestamp(encoder_out, encoder_lens, token_num)
    return logits, token_num, us_alphas, us_peaks


WITHOUT_ITN = 15  # the row of SenseVoice's embedding that says so


def sense_voice(network, speech, lengths):
    """Logits and numbers of frames."""
    import torch
    from funasr.models.sense_voice.export_meta import export_forward

    language = torch.zeros(len(lengths), dtype=torch.int64)
    return export_forward(network, speech, lengths, language, language + WITHOUT_ITN)


def count_tokens(model, outputs):
    """Tokens of all items, from what a forward pass gives."""
    logits, counts = outputs[0], outputs[1]
    if model.name != "sensevoice":
        return int(counts.sum())
    # CTC: runs of equal ids but blanks, which are 0. The first four frames are language, emotion, event and text norm.
    ids = [item[4:count].argmax(-1) for item, count in zip(logits, counts)]
    return sum(int((item[0] != 0) + ((item[1:] != item[:-1]) & (item[1:] != 0)).sum()) for item in ids)


# ----------------------------------------------------------- voice detection, punctuation, and all of it, as in FunASR


def onnx_options(file, threads):
    """How the classes of `funasr-onnx` are told what to load."""
    return {"quantize": file == INT8, "intra_op_num_threads": threads}


def onnx_vad(model, file, threads):
    """Front end, network and end-point rules of `funasr-onnx`."""
    from funasr_onnx import Fsmn_vad

    detector = Fsmn_vad(str(model.directory), **onnx_options(file, threads))
    return timed(lambda work: sum(len(detector(work.content)[0]) for _ in range(work.items)))


def pytorch_vad(model, threads):
    """The same of FunASR."""
    detector = load_funasr(model.directory, threads)
    return timed(lambda work: sum(len(detector.generate(work.content)[0]["value"]) for _ in range(work.items)))


def onnx_punctuation(model, file, threads):
    """Words, windows and network of `funasr-onnx`."""
    from funasr_onnx import CT_Transformer

    punctuator = CT_Transformer(str(model.directory), **onnx_options(file, threads))
    return timed(lambda work: sum(len(punctuator(work.content)[1]) for _ in range(work.items)))


def pytorch_punctuation(model, threads):
    """The same of FunASR."""
    punctuator = load_funasr(model.directory, threads)
    return timed(lambda work: sum(len(punctuator.generate(work.content)[0]["punc_array"]) for _ in range(work.items)))


def onnx_pipeline(model, file, threads):
    """Segments of Fsmn_vad to Paraformer, one by one, as is its default and faster than batches, which it pads as they
    come; its text to CT_Transformer. Reading the file is timed, too."""
    import inputs
    from funasr_onnx import CT_Transformer, Fsmn_vad, Paraformer

    options = onnx_options(file, threads)
    # In fp32 always, as ours: on processors with VNNI its 8 bits give probabilities of zero, whose logarithm it then takes.
    detector = Fsmn_vad(str(model.detector.directory), **onnx_options(FP32, threads))
    recognizer = Paraformer(str(model.directory), **options)
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


def ours_of(model, threads, binary):
    """Name -> what makes a contender of ours."""
    engine = our_pipeline if model.name == "pipeline" else ours
    engines = {f"{OURS} {dtype}": partial(engine, model, dtype, threads, binary) for dtype in model.converted}
    if model.name == "pipeline":
        return engines
    return engines | {"plain candle f32": partial(ours, model, "f32", threads, binary, "--references")}


def ours(model, dtype, threads, binary, *flags):
    """A process for each work, which waits between its turns."""
    options = ("--model", model.converted[dtype], "--dtype", dtype, "--threads", threads, "--turns", *flags)
    return lambda work: turns([binary, "bench", "--offline", *options, *work.options])


@contextmanager
def turns(command):
    """A function that lets the program do its work once, while it runs."""
    words = [str(word) for word in command]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run():
            before = cpu_seconds(process.pid)
            print(file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"failed: {' '.join(words)}")
            result = json.loads(line)
            return Run(result["seconds"], cpu_seconds(process.pid) - before, result["tokens"])

        yield run


def cpu_seconds(pid):
    """How long the threads of a process have run so far. Linux."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def our_pipeline(model, dtype, threads, binary):
    """A process a turn; a short recording goes before the one that counts. CPU time is that of all it does."""
    options = ("--dtype", dtype, "--threads", threads, "--punc-model", model.punctuation.converted[dtype])
    command = (binary, "transcribe", "--offline", "--format", "json", "--model", model.converted[dtype], *options)

    def run(work):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = call([*command, work.warm_up, work.path])[-1]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        tokens = sum(len(segment["tokens"]) for segment in result["segments"])
        return Run(result["rtf"] * result["duration_ms"] / 1000, cpu, tokens)

    return lambda work: nullcontext(partial(run, work))


def call(command):
    """The JSON lines that a command prints."""
    words = [str(word) for word in command]
    out = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]
