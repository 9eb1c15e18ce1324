"""Paraformer and SenseVoice of the published sizes on one GPU: this engine beside FunASR's PyTorch modules, in one run.

    python benches/gpu/compare.py [--binary target/release/funasr-candle] [--out table.md]

Needs an NVIDIA GPU, a binary built with `--features cuda`, and benches/compare/requirements.txt with a torch for that GPU. Both have
the same random weights and features in 16 bits, are loaded and warm before the clock starts, and give the ids of all tokens to the
host. The engine also pads and uploads within its time; PyTorch's features lie on the GPU. Fails where the engine takes more than the
ratios named below. torch.compile is tried as well, and told where it does not work. Last, a wav file of ten minutes goes through voice
detection and recognition of both, in f32, which is what FunASR's pipeline runs in.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches/compare"))
WIDTH = 560
BATCHES = (1, 8, 32, 128)
SECONDS = (6, 20, 60)
SESSIONS = (1, 64, 512)
# Most that the engine may take, as a share of eager PyTorch in bf16, by batch.
MOST = {1: 0.7, 32: 0.8}
MODELS = ("paraformer", "sensevoice")


def prepare(work, binary):
    for name in (*MODELS, "paraformer-online"):
        if not (work / name).exists():
            generate = [sys.executable, ROOT / "tests/golden/generate.py", "--full", work, "--only", name]
            subprocess.run(generate, check=True)
        if not (work / f"{name}-converted").exists():
            subprocess.run([binary, "convert", work / name, work / f"{name}-converted"], check=True)


def features(work, seconds, batch):
    frames = -(-((seconds * 16000 - 400) // 160 + 1) // 6)
    speech = torch.randn(batch, frames, WIDTH, generator=torch.Generator().manual_seed(seconds))
    path = work / "features.safetensors"
    save_file({"speech": speech, "speech_lengths": torch.tensor([frames] * batch)}, path)
    return speech, path


def ours(binary, model, runs, *options):
    command = [binary, "bench", "--offline", "--model", model, "--device", "cuda:0", "--runs", runs, *options]
    out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])["median_seconds"]


def load_torch(directory, dtype):
    from funasr import AutoModel

    model = AutoModel(model=str(directory), device="cuda:0", disable_update=True, disable_log=True).model
    return model.eval().to(dtype)


def paraformer(model, speech, lengths):
    encoder_out, encoder_lens = model.encode(speech, lengths)
    embeds, token_num, _alphas, _peaks = model.calc_predictor(encoder_out, encoder_lens)
    token_num = token_num.round().long()
    logits, _ = model.cal_decoder_with_predictor(encoder_out, encoder_lens, embeds, token_num)
    return logits.argmax(-1)


def sensevoice(model, speech, lengths):
    encoder_out, _ = model.encoder(speech, lengths)
    return model.ctc.log_softmax(encoder_out).argmax(-1)


def time_torch(run, runs):
    seconds = []
    with torch.inference_mode():
        for i in range(runs + 3):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run().cpu()
            if i >= 3:
                seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def compiled(forward, model, speech, lengths, runs):
    """Seconds, or nothing where torch cannot compile the model."""
    try:
        model.encoder.forward = torch.compile(model.encoder.forward)
        return time_torch(lambda: forward(model, speech, lengths), runs)
    except Exception as error:  # noqa: BLE001  whatever the compiler raises
        print(f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def offline(args, name, forward, dtype, rows):
    dtypes = {"bf16": torch.bfloat16, "f16": torch.float16}
    model = load_torch(args.work / name, dtypes[dtype])
    for seconds in SECONDS:
        for batch in BATCHES:
            speech, path = features(args.work, seconds, batch)
            on_gpu = speech.to("cuda:0", dtypes[dtype])
            lengths = torch.tensor([speech.shape[1]] * batch, device="cuda:0")
            try:
                theirs = time_torch(lambda x=on_gpu, n=lengths: forward(model, x, n), args.runs)
            except torch.cuda.OutOfMemoryError:
                theirs = None
            torch.cuda.empty_cache()
            mine = ours(args.binary, args.work / f"{name}-converted", args.runs, "--dtype", dtype, "--features", path)
            rows.append((name, dtype, seconds, batch, mine, theirs, "eager"))
    if dtype == "bf16":
        speech, path = features(args.work, 20, 32)
        lengths = torch.tensor([speech.shape[1]] * 32, device="cuda:0")
        theirs = compiled(forward, model, speech.to("cuda:0", dtypes[dtype]), lengths, args.runs)
        mine = ours(args.binary, args.work / f"{name}-converted", args.runs, "--dtype", dtype, "--features", path)
        rows.append((name, dtype, 20, 32, mine, theirs, "compiled"))


def end_to_end(args, device="cuda:0", seconds=600):
    """A row for a wav file, from its name to its text; a short one goes before the one that counts."""
    from funasr import AutoModel
    from inputs import recording
    from models import write_vad

    detector = args.work / "fsmn-vad"
    if not detector.exists():
        write_vad(detector)
    warm_up, path = (str(recording(args.work, length)) for length in (6, seconds))
    options = {"device": device, "disable_update": True, "disable_log": True, "disable_pbar": True}
    model = AutoModel(model=str(args.work / "paraformer"), vad_model=str(detector), **options)
    model.generate(input=warm_up)
    start = time.perf_counter()
    model.generate(input=path, batch_size_s=300)
    theirs = time.perf_counter() - start
    command = [args.binary, "transcribe", "--offline", "--no-punc", "--format", "json", "--device", device]
    command += ["--model", args.work / "paraformer-converted", "--batch-seconds", 300, warm_up, path]
    out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    last = json.loads(out.splitlines()[-1])
    return "paraformer, wav", "f32", seconds, 1, last["rtf"] * last["duration_ms"] / 1000, theirs, "pipeline"


def show(rows):
    lines = [
        "| model | dtype | s | batch | ours, ms | PyTorch, ms | | ratio | x real time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, dtype, seconds, batch, mine, theirs, kind in rows:
        other = f"{theirs * 1e3:.2f} | {kind} | {mine / theirs:.2f}" if theirs else f"none | {kind} | "
        speed = seconds * batch / mine
        lines.append(f"| {name} | {dtype} | {seconds} | {batch} | {mine * 1e3:.2f} | {other} | {speed:.0f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/funasr-candle")
    parser.add_argument("--work", type=Path, default=ROOT / "target/gpu/models", help="where models are made, 5 GB")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU that this torch can use")
    args.work.mkdir(parents=True, exist_ok=True)
    prepare(args.work, args.binary)
    rows = []
    for dtype in ("bf16", "f16"):
        offline(args, "paraformer", paraformer, dtype, rows)
        offline(args, "sensevoice", sensevoice, dtype, rows)
    for sessions in SESSIONS:
        options = ("--dtype", "bf16", "--seconds", 6, "--batch", sessions)
        seconds = ours(args.binary, args.work / "paraformer-online-converted", 3, *options)
        rows.append(("paraformer-online", "bf16", 6, sessions, seconds, None, "steps of 600 ms"))
    rows.append(end_to_end(args))
    table = f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}\n\n{show(rows)}\n"
    print(table)
    if args.out:
        args.out.write_text(table)
    slow = [r for r in rows if r[1] == "bf16" and r[6] == "eager" and r[5] and r[4] > MOST.get(r[3], 1e9) * r[5]]
    if slow:
        sys.exit(f"slower than the ratios {MOST} allow:\n{show(slow)}")


main()
