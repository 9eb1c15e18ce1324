"""Golden tensors from FunASR's own classes: small random-weight models, every stage dumped.

    pip install funasr==1.4.16 torch==2.11.0 torchaudio==2.11.0 safetensors soundfile
    python tests/golden/generate.py                 # rewrites tests/golden/*.safetensors
    python tests/golden/generate.py --full DIR      # published sizes, not committed (7.1 GB)

One case is one file; README.md beside this script lists the names and shapes. Everything is seeded by the name of
the case, f32, dither 0, one thread, eval mode. Tensors are cloned before they are kept: FunASR scales some in place.
"""

import argparse
from pathlib import Path

import bicif
import cif_track
import contextual
import ct_transformer
import ct_transformer_streaming
import frontend
import fsmn_vad
import hotwords
import lstm
import paraformer
import paraformer_online
import seaco
import sense_voice
import torch
from common import HERE, check_versions, sanm, token_list


def read_tokens(path):
    return [line.rsplit(" ", 1)[0] for line in path.read_text(encoding="utf-8").splitlines()]


# Directories of `--full`.
FULL = (
    "paraformer", "paraformer-online", "bicif", "seaco", "contextual", "sensevoice", "ct-punc-c", "ct-punc", "ct-punc-realtime",
)  # fmt: skip


def write_full(directory, name, args):
    tokens = read_tokens(args.tokens) if args.tokens else token_list(8404)
    families = {
        "paraformer": (paraformer, paraformer.PLAIN),
        "bicif": (bicif, bicif.BICIF),
        "seaco": (seaco, seaco.SEACO),
        "contextual": (contextual, contextual.CONTEXTUAL),
    }
    if name in families:
        script, family = families[name]
        paraformer.write_full(directory, family, script.full_config(tokens), args.am_mvn, tokens)
    elif name == "paraformer-online":
        paraformer_online.write_full_online(directory, args.am_mvn, tokens)
    elif name == "sensevoice":
        sense_voice.write_full_sense_voice(directory, args.am_mvn)
    elif name == "ct-punc-c":
        ct_transformer.write_full_punctuation(directory, 272727, sanm(256, 8, 1024, 4, 11, 0))
    elif name == "ct-punc":
        ct_transformer.write_full_punctuation(directory, 471067, sanm(516, 12, 2048, 12, 11, 0))
    else:
        ct_transformer_streaming.write_full_realtime(directory)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--audio",
        type=Path,
        default=HERE.parents[1] / "models/demo/short_00_demo.wav",
        help="16 kHz speech clip of 2 s or more, for the front end",
    )
    parser.add_argument("--full", type=Path, metavar="DIR", help="write published-size random models there instead")
    parser.add_argument("--only", nargs="+", choices=FULL, default=FULL, help="with --full: these directories alone")
    parser.add_argument("--am-mvn", type=Path, help="with --full: CMVN file to copy (560 wide)")
    parser.add_argument("--tokens", type=Path, help="with --full: token list, `token id` per line")
    args = parser.parse_args()
    check_versions()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if args.full:
        for name in args.only:
            write_full(args.full / name, name, args)
        return
    families = (
        paraformer, bicif, seaco, contextual, hotwords, paraformer_online, fsmn_vad,
        ct_transformer, ct_transformer_streaming, sense_voice, cif_track, lstm,
    )  # fmt: skip
    for family in families:
        family.generate()
    frontend.generate(args.audio)


if __name__ == "__main__":
    main()
