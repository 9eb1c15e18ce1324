"""What 8 bits cost: how far the results of ours and of ONNX Runtime move from their own in 32 bits."""

import subprocess
import tempfile
from pathlib import Path
from statistics import mean

import inputs
from contenders import FP32, INT8, OURS, call, onnx_feed

# Acoustic model -> the output of its encoder in the export and the name of its logits with us.
STAGES = {
    "paraformer": ("/encoder/after_norm/Add_1_output_0", "decoder_logits"),
    "bicif": ("/encoder/after_norm/Add_1_output_0", "decoder_logits"),
    "sensevoice": ("/encoder/tp_norm/Add_1_output_0", "ctc_logits"),
}
SECONDS = (5, 6, 7, 8, 20)  # of the inputs
TRAINED = ("demo", "demo-sensevoice")


def errors(model, folder, binary):
    """Relative errors of 8 bits, the mean over several inputs: stage -> engine -> error."""
    works = [inputs.features(folder, [seconds]) for seconds in SECONDS]
    engines = {
        "onnxruntime": [onnx_stages(model, file, works) for file in (FP32, INT8)],
        OURS: [[our_stages(model, dtype, work, binary) for work in works] for dtype in ("f32", "int8")],
    }

    def error(stage, exact, rounded):
        return mean(relative_error(a[stage], b[stage]) for a, b in zip(exact, rounded, strict=True))

    stages = ("encoder_out", "logits")
    return {stage: {name: error(stage, *pair) for name, pair in engines.items()} for stage in stages}


def onnx_stages(model, file, works):
    """Stage -> rows, for each work, of ONNX Runtime."""
    import onnx
    import onnxruntime

    graph = onnx.load(model.directory / file)
    encoder_out, _ = STAGES[model.name]
    value = onnx.helper.make_tensor_value_info(encoder_out, onnx.TensorProto.FLOAT, None)
    graph.graph.output.append(value)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = [session.run(None, onnx_feed(model, work)) for work in works]
    return [{"encoder_out": output[-1][0], "logits": centred(output[0][0])} for output in outputs]


def our_stages(model, dtype, work, binary):
    """Stage -> rows, of ours."""
    from safetensors.numpy import load_file

    _, logits = STAGES[model.name]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stages.safetensors"
        options = ("--model", model.converted[dtype], "--dtype", dtype, *work.options, "--out", out)
        command = [binary, "inspect", "--offline", *options]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        stages = load_file(out)
    return {"encoder_out": stages["encoder_out"][0], "logits": centred(stages[logits][0])}


def centred(logits):
    """Less the mean of each row: Paraformer's export gives log-probabilities, which are logits less a number a row."""
    return logits - logits.mean(-1, keepdims=True)


def relative_error(exact, rounded):
    """Distance over length; of the rows that both have, which the number of tokens decides."""
    import numpy as np

    rows = min(len(exact), len(rounded))
    return float(np.linalg.norm(rounded[:rows] - exact[:rows]) / np.linalg.norm(exact[:rows]))


def kept_tokens(name, binary):
    """How many of the tokens that a trained model finds in the evaluation clips it finds in 8 bits too: (kept, all)."""
    clips = sorted(inputs.EVAL.glob("*.flac"))
    options = ("--no-vad", "--no-punc", "--format", "json", "--model", name)
    exact, rounded = (
        [tokens(line) for line in call([binary, "transcribe", "--offline", *options, "--dtype", dtype, *clips])]
        for dtype in ("f32", "int8")
    )
    total = sum(map(len, exact))
    return total - sum(distance(a, b) for a, b in zip(exact, rounded, strict=True)), total


def tokens(transcript):
    """Of all segments of a recording."""
    return [token["text"] for segment in transcript["segments"] for token in segment["tokens"]]


def distance(a, b):
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
