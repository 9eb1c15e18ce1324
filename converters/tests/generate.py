"""Writes tests/checkpoints/*.pt: every container and wrapper that torch.load accepts, each with a handful of numbers.

Needs torch (made with 2.x). Run from anywhere: python generate.py
The tests compute what must come out; `a` and `b` below are the two tensors that most files hold.
"""

import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent / "checkpoints"

A = torch.arange(6, dtype=torch.float32).reshape(2, 3) * 0.5 - 1.0
B = torch.tensor([0.1, -2.5e-3, 7.0])


def state():
    return OrderedDict([("a", A.clone()), ("b", B.clone())])


def module_state():
    """The state dict of a real module: an OrderedDict with `_metadata` and parameters."""
    module = torch.nn.Module()
    module.a, module.b = torch.nn.Parameter(A.clone()), torch.nn.Parameter(B.clone())
    return module.state_dict()


def trained():
    """What FunASR's trainer writes: the state dict among epochs, scores and the optimizer."""
    module = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "state_dict": state(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"base_lrs": [2e-4], "last_epoch": 1, "verbose": False, "name": None},
        "val_acc_step_or_epoch": {"model.pt.ep1": 0.75, "model.pt.ep2": float("nan")},
        "huge": 1 << 200,
        "device": torch.device("cpu"),
        "shape": torch.Size([2, 3]),
        "steps": (1, 2, 3, -4, 70000, 1 << 40, True, b"bytes"),
    }


def dtypes():
    values = [1.5, -2.0, 0.0]
    floats = {str(t).split(".")[1]: torch.tensor(values, dtype=t) for t in
              (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
    whole = {str(t).split(".")[1]: torch.tensor([1, 2, 100], dtype=t) for t in
             (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)}
    return {**floats, **whole, "bool": torch.tensor([True, False, True])}


def strides():
    base = torch.arange(24, dtype=torch.float32)
    cube = base.reshape(2, 3, 4)
    return {
        "transposed": cube.permute(2, 0, 1),
        "offset": base[5:9],
        "column": cube[1, :, 2],
        "every_third": base[::3],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "shared": cube,
        "one": cube[1:, 1:2, 1:2],
    }


def save(name, value, **options):
    torch.save(value, HERE / f"{name}.pt", **options)


def big_endian(source, target):
    """Rewrites a checkpoint as a big-endian machine would have saved it (all its storages are f32)."""
    with zipfile.ZipFile(HERE / f"{source}.pt") as old, zipfile.ZipFile(HERE / f"{target}.pt", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in entry.filename:
                content = b"".join(content[i:i + 4][::-1] for i in range(0, len(content), 4))
            new.writestr(zipfile.ZipInfo(entry.filename), content)


def main():
    HERE.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save("ordered", state())
    save("plain", dict(state()))
    save("module", module_state())
    save("parameters", {name: torch.nn.Parameter(value) for name, value in state().items()})
    save("state_dict", {"state_dict": state()})
    save("model_state_dict", {"model_state_dict": state(), "step": 7})
    save("model", {"model": state()})
    save("nested", {"state_dict": {"model": state()}})
    save("parallel", OrderedDict(("module." + name, value) for name, value in state().items()))
    save("both_prefixes", {"a": torch.zeros(2, 3), "module.a": A, "b": B, "note": "text", "none": None})
    save("trained", trained())
    save("protocol4", state(), pickle_protocol=4)
    save("legacy", state(), _use_new_zipfile_serialization=False)
    save("legacy_trained", trained(), _use_new_zipfile_serialization=False)
    save("legacy_strides", strides(), _use_new_zipfile_serialization=False)
    save("legacy_dtypes", dtypes(), _use_new_zipfile_serialization=False)
    save("dtypes", dtypes())
    save("strides", strides())
    save("heads", {**state(), "ctc.ctc_lo.weight": A, "decoder.embed.0.weight": A,
                   "decoder.output_layer.weight": torch.ones(4, 2)})
    big_endian("ordered", "big_endian")
    # Written in memory, the archive's folder is called `archive`, as on the hubs.
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    (HERE / "archive.pt").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main()
