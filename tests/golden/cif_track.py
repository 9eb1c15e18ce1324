"""Where CIF fires."""

import torch
from common import HERE, cif, seed, write
from funasr.models.paraformer.cif_predictor import cif_v1


def cif_sequences():
    """name -> (alphas [T], hidden width). Sums lie on, just below and just above integers on purpose."""
    third = torch.full((9,), 1 / 3)
    return {
        "empty_sum": (torch.zeros(4), 3),
        "half": (torch.tensor([0.25, 0.25]), 3),
        "one_and_half": (torch.full((6,), 0.25), 3),
        "two_and_half": (torch.full((10,), 0.25), 3),
        "exact_integers": (torch.tensor([0.5, 0.5, 0.25, 0.75, 1.0, 0.125, 0.875]), 3),
        "thirds": (third, 3),
        "tenths": (torch.full((30,), 0.1), 3),
        "just_below": (torch.tensor([0.5, 0.49999997, 0.5, 0.5]), 3),
        "just_above": (torch.tensor([0.5, 0.50000006, 0.5, 0.49999997]), 3),
        "fire_every_frame": (torch.full((8,), 0.99999994), 3),
        "random_60s": (torch.rand(1000) * 0.9, 4),
        "random_60s_sparse": (torch.rand(1000).pow(6), 4),
        "random_4min": (torch.rand(4000) * 0.9, 1),
    }


def generate():
    seed("cif")
    tensors, summary = {}, {}
    for name, (alphas, width) in cif_sequences().items():
        hidden = torch.randn(1, len(alphas), width)
        embeds, fires = cif_v1(hidden, alphas[None], 1.0)
        prefix = alphas.double().cumsum(0).float()
        fired = torch.nonzero(prefix.floor() > torch.cat([torch.zeros(1), prefix[:-1].floor()]))[:, 0]
        total = alphas[None].sum(-1)[0]
        tensors |= {
            f"{name}.alphas": alphas,
            f"{name}.hidden": hidden[0],
            f"{name}.fires": fires[0],
            f"{name}.fire_frames": fired,
        }
        tensors[f"{name}.embeds"] = embeds[0]
        exact = float(alphas.double().sum())
        summary[name] = {
            "floor": int(total.floor()),
            "round": int(total.round()),
            "fires": len(fired),
            # Another order of f32 additions may then give another floor than torch's.
            "near_integer": bool(abs(exact - round(exact)) < 1e-4),
        }
    write(HERE / "cif.safetensors", tensors, sequences=summary, **{"class": "cif_v1"})
