"""Tokens and texts of FunASR Python, chunk by chunk, for the streaming demo model: `python tests/golden/online.py MODEL_DIR`.

MODEL_DIR is the FunASR directory paraformer-online-tiny. Writes tests/golden/online.json: for each cut `chunk_size/look-backs` and each
clip of tests/data/eval the tokens of each chunk and the text that FunASR makes of them. Dither is set to 0, see demo.py.
"""

import json
import sys
from pathlib import Path

import numpy
import soundfile
import torch
from funasr import AutoModel
from funasr.utils.postprocess_utils import sentence_postprocess

HERE = Path(__file__).parent
EVAL = HERE.parent / "data" / "eval"
CUTS = [([0, 10, 5], 4, 1), ([0, 10, 5], 0, 0), ([5, 10, 5], 4, 1), ([0, 8, 4], 4, 1)]


class Streamer:
    def __init__(self, directory):
        quiet = {"device": "cpu", "disable_update": True, "disable_pbar": True}
        self.model = AutoModel(model=directory, **quiet, frontend_conf={"dither": 0.0})
        frontend = self.model.kwargs["frontend"]
        assert frontend.cmvn is not None and frontend.dither == 0.0
        self.chunks = []
        inner = self.model.model.generate_chunk

        def generate_chunk(*args, **kwargs):
            self.chunks.append(inner(*args, **kwargs))
            return list(self.chunks[-1])

        self.model.model.generate_chunk = generate_chunk

    def run(self, pieces, cut):
        """Tokens of each chunk of a stream that comes in `pieces`, and the text of each call."""
        chunk_size, encoder, decoder = cut
        cache, self.chunks, texts = {}, [], []
        for i, piece in enumerate(pieces):
            result = self.model.generate(
                input=piece,
                cache=cache,
                is_final=i == len(pieces) - 1,
                chunk_size=chunk_size,
                encoder_chunk_look_back=encoder,
                decoder_chunk_look_back=decoder,
            )
            texts.append(result[0]["text"])
        return self.chunks, texts


def main():
    torch.set_num_threads(1)
    streamer = Streamer(sys.argv[1])
    cuts = {}
    for cut in CUTS:
        stride = cut[0][1] * 960
        items = cuts[f"{','.join(map(str, cut[0]))}/{cut[1]}/{cut[2]}"] = {}
        for clip in sorted(EVAL.glob("*.flac")):
            samples, rate = soundfile.read(clip, dtype="float32")
            assert rate == 16000
            chunks, [text] = streamer.run([samples], cut)
            texts = [sentence_postprocess(list(chunk))[0] if chunk else "" for chunk in chunks]
            # Call by call it is the same.
            pieces = [samples[start : start + stride] for start in range(0, len(samples), stride)]
            if len(pieces[-1]) < stride:
                assert streamer.run(pieces, cut) == (chunks, texts), clip
            items[clip.stem] = {"chunks": [" ".join(chunk) for chunk in chunks], "texts": texts, "text": text}
    empty, _ = streamer.run([numpy.zeros(0, dtype=numpy.float32)], CUTS[0])
    print("no audio:", empty)
    out = {"versions": {"funasr": __import__("funasr").__version__, "torch": torch.__version__}, "cuts": cuts}
    (HERE / "online.json").write_text(json.dumps(out, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


main()
