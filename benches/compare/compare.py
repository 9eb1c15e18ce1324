"""Paraformer-large on one feature tensor: this engine beside ONNX Runtime and FunASR's PyTorch, in one run.

    python benches/compare/compare.py [--seconds 20] [--threads 1] [--ours target/release/funasr-candle]

All contenders have the same random weights, are loaded before the clock starts and take turns, so that a busy machine
slows all of them. Prints a table of medians and writes them as JSON. See README.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FEATURES = 560  # 80 mels, 7 frames stacked


# ------------------------------------------------------------------------------------------------ what is compared


def prepare(work):
    """FunASR model directory and its ONNX exports; made once, minutes and 4 GB."""
    directory, onnx_dir = work / "paraformer", work / "onnx"
    if not (directory / "model.pt").exists():
        generate = [sys.executable, ROOT / "tests/golden/generate.py", "--full", work, "--only", "paraformer"]
        subprocess.run(generate, check=True)
    if not (onnx_dir / "model_quant.onnx").exists():
        export_onnx(directory, onnx_dir)
    return directory, onnx_dir


def load_funasr(directory, threads):
    from funasr import AutoModel

    return AutoModel(model=str(directory), device="cpu", ncpu=threads, disable_update=True, disable_log=True)


def export_onnx(directory, onnx_dir):
    """FunASR's own export, fp32 and dynamic int8. It was written for the tracing exporter, no longer torch's default."""
    import torch

    torch.onnx.export = partial(torch.onnx.export, dynamo=False)
    load_funasr(directory, 1).export(type="onnx", quantize=True, output_dir=str(onnx_dir))


def make_features(work, seconds):
    """[1, T, 560] of unit variance, as CMVN leaves them; T frames of 60 ms. Also written for the engine to read."""
    import torch
    from safetensors.torch import save_file

    fbank_frames = (seconds * 16000 - 400) // 160 + 1
    frames = -(-fbank_frames // 6)
    speech = torch.randn(1, frames, FEATURES, generator=torch.Generator().manual_seed(seconds))
    path = work / f"features_{seconds}s.safetensors"
    save_file({"speech": speech, "speech_lengths": torch.tensor([frames])}, path)
    return speech, path


# ------------------------------------------------------------------------------------- contenders: () -> seconds, tokens


def onnx_runtime(path, speech, threads):
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {"speech": speech.numpy(), "speech_lengths": np.array([speech.shape[1]], np.int32)}

    def run():
        start = time.perf_counter()
        _logits, token_num = session.run(None, feed)
        return time.perf_counter() - start, int(token_num[0])

    return run


def pytorch(directory, speech, threads):
    import torch

    model = load_funasr(directory, threads).model.eval()
    torch.set_num_threads(threads)
    lengths = torch.tensor([speech.shape[1]])

    @torch.no_grad()
    def run():
        start = time.perf_counter()
        encoder_out, encoder_lens = model.encode(speech, lengths)
        embeds, token_num, _alphas, _peaks = model.calc_predictor(encoder_out, encoder_lens)
        token_num = token_num.round().long()
        model.cal_decoder_with_predictor(encoder_out, encoder_lens, embeds, token_num)
        return time.perf_counter() - start, int(token_num[0])

    return run


def ours(binary, directory, features, threads, dtype, runs):
    """One process per turn; the engine reports the median of its own runs, loading and warm-up excluded."""
    converted = directory.parent / "converted"
    if not converted.exists():
        subprocess.run([binary, "convert", directory, converted], check=True)
    command = [binary, "bench", "--model", converted, "--features", features, "--threads", threads]
    command += ["--runs", runs, "--dtype", dtype]

    def run():
        out = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
        result = json.loads(out.splitlines()[-1])
        return result["median_seconds"], result.get("tokens")

    return run


def contenders(args, directory, onnx_dir, speech, features):
    makers = {
        "onnxruntime fp32": partial(onnx_runtime, onnx_dir / "model.onnx", speech, args.threads),
        "onnxruntime int8": partial(onnx_runtime, onnx_dir / "model_quant.onnx", speech, args.threads),
        "pytorch fp32": partial(pytorch, directory, speech, args.threads),
    }
    if args.ours.exists():
        for dtype in args.dtypes:
            makers[f"funasr-candle {dtype}"] = partial(
                ours, args.ours, directory, features, args.threads, dtype, args.runs
            )
    else:
        print(f"{args.ours} does not exist: comparing the others only", file=sys.stderr)
    return {name: make() for name, make in makers.items() if not any(word in name for word in args.skip)}


# --------------------------------------------------------------------------------------------------------- measuring


def take_turns(runners, args):
    """name -> (seconds of every run, tokens). One round = every contender once more; ours and PyTorch need fewer."""
    seconds = {name: [] for name in runners}
    tokens = {}
    for name, run in runners.items():
        if not name.startswith("funasr-candle"):
            run()  # warm-up
    for _ in range(args.rounds):
        for name, run in runners.items():
            for _ in range(args.runs if name.startswith("onnxruntime") else 1):
                elapsed, tokens[name] = run()
                seconds[name].append(elapsed)
    return seconds, tokens


def report(seconds, tokens, args):
    base = statistics.median(seconds["onnxruntime fp32"]) if "onnxruntime fp32" in seconds else None
    rows = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        rows[name] = {
            "median_seconds": median,
            "min_seconds": min(values),
            "max_seconds": max(values),
            "rtf": median / args.seconds,
            "ratio_to_onnxruntime_fp32": median / base if base else None,
            "tokens": tokens[name],
            "samples": len(values),
        }
    return rows


def print_table(rows, args):
    print(
        f"\nParaformer-large, {args.seconds} s of audio, {args.threads} thread(s); ratio = time / ONNX Runtime fp32\n"
    )
    print(f"| {'engine':18} | median s | min..max s     | RTF    | ratio | tokens |")
    print(f"| {'-' * 18} | -------- | -------------- | ------ | ----- | ------ |")
    for name, row in rows.items():
        ratio = row["ratio_to_onnxruntime_fp32"]
        spread = f"{row['min_seconds']:.3f}..{row['max_seconds']:.3f}"
        print(
            f"| {name:18} | {row['median_seconds']:8.3f} | {spread:14} | {row['rtf']:.4f} | {f'{ratio:.2f}' if ratio else '-':>5} | {row['tokens']!s:>6} |"
        )
    exact = {row["tokens"] for name, row in rows.items() if "int8" not in name}
    if len(exact) > 1:
        print(f"\nWARNING: token counts differ ({exact}): the engines did not do the same work")


def machine():
    import onnxruntime
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=20, help="audio length: 6, 20, 60, ...")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every contender")
    parser.add_argument("--runs", type=int, default=5, help="runs per turn (PyTorch: 1)")
    parser.add_argument("--ours", type=Path, default=ROOT / "target/release/funasr-candle")
    parser.add_argument("--dtypes", nargs="+", default=["f32"], help="weights of ours: f32, bf16, int8, ...")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out contenders whose name contains one of these")
    parser.add_argument("--work", type=Path, default=ROOT / "target/compare", help="models and features are kept here")
    parser.add_argument("--json", type=Path, help="result file (default: WORK/result_<seconds>s_<threads>t.json)")
    return parser.parse_args()


def main():
    args = parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    args.work.mkdir(parents=True, exist_ok=True)
    directory, onnx_dir = prepare(args.work)
    speech, features = make_features(args.work, args.seconds)
    seconds, tokens = take_turns(contenders(args, directory, onnx_dir, speech, features), args)
    rows = report(seconds, tokens, args)
    print_table(rows, args)
    path = args.json or args.work / f"result_{args.seconds}s_{args.threads}t.json"
    result = {"audio_seconds": args.seconds, "threads": args.threads, "machine": machine(), "engines": rows}
    path.write_text(json.dumps(result, indent=1))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
