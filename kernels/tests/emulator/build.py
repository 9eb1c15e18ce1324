"""Builds a CUDA driver whose device is the host, with the kernels of kernels/cuda compiled by the host's compiler.

    python kernels/tests/emulator/build.py OUT --cuda CUDA_HOME [--candle DIR] [--externs FILE...]

OUT/libcuda.so.1 then runs what a program built with the feature `cuda` launches:

    LD_PRELOAD=OUT/libcuda.so.1 cargo test -p funasr-kernels --features cuda

It checks the arithmetic of the kernels, their launchers, and where threads wait for each other and reach for memory. It says
nothing of speed, of how warps really interleave, or of what nvcc makes of a kernel: it is no GPU. With --externs it also exports,
as failures, every other function of the driver and of candle's quantised kernels that these files declare, so that programs link.
"""

import argparse
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "cuda"
# Kernels read numbers of 16 bits as vectors of others, which nvcc allows.
CXX = ["g++", "-std=c++17", "-O2", "-fno-strict-aliasing", "-fPIC", "-Wall", "-Wextra", "-Werror"]
NOT_SUPPORTED = 801
# What threads wait by, in the file of a kernel.
WAITS = r"__sync|__shfl|warp_sum|warp_max|wmma|chunk_sum"
# Of candle's kernels, those that models here run.
CANDLE = ["affine", "binary", "cast", "fill", "indexing", "reduce", "ternary", "unary"]


def run(command):
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def compile_kernel(source, language, out, flags):
    """A kernel with what makes its functions known to the driver."""
    flags = ["-I", HERE, "-I", source.parent, *flags]
    text = run([*CXX, *flags, "-E", "-x", "c++", "-include", HERE / language, source])
    names = re.findall(r'extern "C"\s+EMULATED_KERNEL\s+void\s+(\w+)\s*\(', text)
    assert names, f"{source} has no kernel"
    waits = "true" if re.search(WAITS, own_text(source)) else "false"
    known = [
        f'static emulator::Registration of_{name}("{name}", [](void** a) {{ emulator::call({name}, a); }}, {waits});'
        for name in names
    ]
    wrapper, result = out / f"{source.stem}.cpp", out / f"{source.stem}.o"
    wrapper.write_text("\n".join([f'#include "{HERE / language}"', f'#include "{source}"', *known, ""]))
    run([*CXX, *flags, "-DEMULATED_KERNEL=", "-c", wrapper, "-o", result])
    return result


def own_text(source):
    """A kernel with the headers that it shares with few others; what all share has functions that not all call."""
    text = source.read_text()
    names = re.findall(r'#include "(\w+\.cuh)"', text) if source.parent == KERNELS else []
    return text + "".join((KERNELS / name).read_text() for name in names if name != "common.cuh")


def externs(sources):
    """Functions that Rust sources declare, of the driver and of those of candle's kernels that are no PTX."""
    text = "".join(source.read_text() for source in sources)
    return set(re.findall(r"\bfn (cu[A-Z]\w*|(?:launch|candle_launch|moe)_\w+)\s*\(", text))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--cuda", type=Path, required=True, help="where CUDA's headers are, CUDA_HOME")
    parser.add_argument("--candle", type=Path, help="candle's kernels, for programs that run them: src of candle-kernels")
    parser.add_argument("--externs", type=Path, nargs="*", default=[], help="Rust files whose other functions fail")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    headers = ["-isystem", args.cuda / "include", "-isystem", args.cuda / "include/cccl"]
    objects = []
    for name in ["block", "driver", "blas"]:
        objects.append(args.out / f"{name}.o")
        run([*CXX, "-iquote", HERE, *headers, "-c", HERE / f"{name}.cpp", "-o", objects[-1]])
    for source in sorted(KERNELS.glob("*.cu")):
        objects.append(compile_kernel(source, "device.h", args.out, [*headers, "-Wno-unknown-pragmas"]))
    for name in CANDLE if args.candle else []:
        objects.append(compile_kernel(args.candle / f"{name}.cu", "candle.h", args.out, [*headers, "-w"]))
    listed = run(["nm", "--defined-only", *objects])
    missing = sorted(externs(args.externs) - set(re.findall(r"\bT (cu\w+)", listed)))
    stubs = args.out / "stubs.cpp"
    stubs.write_text("".join(f'extern "C" int {name}() {{ return {NOT_SUPPORTED}; }}\n' for name in missing))
    library = args.out / "libcuda.so.1"
    # Each of candle's kernels has the functions of its headers.
    run([*CXX, "-shared", stubs, *objects, "-o", library, "-Wl,-soname,libcuda.so.1,-z,muldefs"])
    link = args.out / "libcuda.so"
    link.unlink(missing_ok=True)
    link.symlink_to(library.name)
    print(f"{library}: {len(missing)} functions fail")


main()
