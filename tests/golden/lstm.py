"""Recurrent layers: `torch.nn.LSTM`, each item alone."""

import torch
from common import HERE, seed, write

# name -> (input width, hidden width, layers, bidirectional, steps of each item)
LSTMS = {
    "forward": (5, 4, 1, False, [7, 1, 3]),
    "stacked": (6, 5, 2, False, [4, 9]),
    "both_ways": (4, 4, 1, True, [11, 1, 6, 2]),
    "stacked_both_ways": (3, 4, 3, True, [5, 2, 8]),
    "long": (2, 3, 1, True, [300]),
}


def generate():
    seed("lstm")
    tensors, summary = {}, {}
    for name, (inputs, hidden, layers, bidirectional, steps) in LSTMS.items():
        lstm = torch.nn.LSTM(inputs, hidden, layers, batch_first=True, bidirectional=bidirectional).eval()
        for parameter in lstm.parameters():
            parameter.mul_(3.0)  # as torch draws them, the states hardly feed back
        tensors |= {f"weights.{name}.{key}": tensor for key, tensor in lstm.state_dict().items()}
        for i, count in enumerate(steps):
            x = torch.randn(1, count, inputs)
            tensors |= {f"{name}.item{i}.x": x, f"{name}.item{i}.y": lstm(x)[0]}
        shape = {"inputs": inputs, "hidden": hidden, "layers": layers, "bidirectional": bidirectional}
        summary[name] = shape | {"steps": steps}
    write(HERE / "lstm.safetensors", tensors, cases=summary, **{"class": "torch.nn.LSTM"})
