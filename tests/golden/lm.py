"""Decoding graphs by Kaldi's tools and what Kaldi's decoder finds in them on random posteriors -> tests/golden/lm/.

    pip install kaldilm==1.15.5 kaldifst==1.8.3 kaldi-decoder==0.3.2 numpy safetensors
    python tests/golden/lm.py

The graph is composed step by step as in FunASR's runtime/tools/fst (make_decode_graph.sh, compile_dict_token.sh,
ctc_token_fst.py). For Paraformer, FunASR's decoder passes over arcs that lead back to their own state; here they are taken out.
For CTC the tokens T are the strict topology, in which a token is not said twice without a blank between.
"""

import json
import random
from pathlib import Path

import kaldi_decoder
import kaldifst
import kaldilm
import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).parent / "lm"
TOKENS = ["<blank>", "<s>", "</s>", "a", "b", "c", "d", "e", "st@@", "op", "ar@@", "t", "一", "二", "<unk>"]
LEXICON = {
    "a": "a",
    "b": "b",
    "ab": "a b",
    "abc": "a b c",
    "abd": "a b d",
    "dab": "d a b",
    "same": "c d",
    "saym": "c d",
    "same.": "c d e",
    "art": "ar@@ t",
    "start": "st@@ ar@@ t",
    "stop": "st@@ op",
    "一": "一",
    "二": "二",
    "一二": "一 二",
    "e": "e",
}
CASES = 40


def arpa(r):
    """A random back-off trigram model; some histories have no back-off weight."""
    words = ["<s>", "</s>", *LEXICON]
    grams = [{("<s>",): -99.0} | {(w,): -r.uniform(0.5, 3) for w in words[1:]}]
    for order in (2, 3):
        histories = [g for g in grams[-1] if g[-1] != "</s>" and (order == 2 or g[1] != "<s>")]
        chosen = {}
        while len(chosen) < 60:
            history, word = r.choice(histories), r.choice(words[1:])
            if order == 2 or (history[1], word) in grams[1]:
                chosen[(*history, word)] = -r.uniform(0.1, 1.5)
        grams.append(dict(sorted(chosen.items())))
    text = "made by tests/golden/lm.py\n\n\\data\\\n"
    text += "".join(f"ngram {n}={len(g)}\n" for n, g in enumerate(grams, 1))
    for n, listed in enumerate(grams, 1):
        text += f"\n\\{n}-grams:\n"
        for gram, prob in listed.items():
            backoff = f"\t{-r.uniform(-0.2, 1):.4f}" if n < 3 and gram[-1] != "</s>" and r.random() < 0.8 else ""
            text += f"{prob:.4f}\t{' '.join(gram)}{backoff}\n"
    return text + "\n\\end\\\n"


def symbols(names):
    return {name: i for i, name in enumerate(names)}


def grammar(path, words):
    """make_decode_graph.sh: back-off arcs read #0, sentence marks nothing."""
    table = OUT / "words.txt"
    table.write_text("".join(f"{w} {i}\n" for w, i in words.items()))
    text = kaldilm.arpa2fst(str(path), read_symbol_table=str(table))
    table.unlink()
    lines = []
    for fields in map(str.split, text.splitlines()):
        if len(fields) >= 4:
            if fields[2] == "0":
                fields[2] = str(words["#0"])
            marks = {str(words["<s>"]), str(words["</s>"])}
            fields[2], fields[3] = ["0" if f in marks else f for f in fields[2:4]]
        lines.append("\t".join(fields))
    fst = kaldifst.compile("\n".join(lines), acceptor=False)
    kaldifst.rmepsilon(fst)
    kaldifst.arcsort(fst, sort_type="ilabel")
    return fst


def lexicon(tokens, words, disambig):
    """add_lex_disambig.pl, make_lexicon_fst.pl, fstaddselfloops."""
    spelled = list(LEXICON.values())
    parts = [s.split() for s in spelled]
    prefixes = {tuple(p[:n]) for p in parts for n in range(1, len(p))}
    lines, state, count = [], 1, {}
    for word, spelling in LEXICON.items():
        path = spelling.split()
        if tuple(path) in prefixes or spelled.count(spelling) > 1:
            count[spelling] = count.get(spelling, 0) + 1
            path = [*path, disambig[count[spelling]]]
        at, label = 0, words[word]
        for i, token in enumerate(path):
            to = 0 if i == len(path) - 1 else state
            state += to == state
            lines.append(f"{at} {to} {tokens[token]} {label}")
            at, label = to, 0
    lines.append("0")
    fst = kaldifst.compile("\n".join(lines), acceptor=False)
    kaldifst.add_self_loops(fst, isyms=[tokens["#0"]], osyms=[words["#0"]])
    kaldifst.arcsort(fst, sort_type="olabel")
    return fst


def token_graph(tokens, disambig, strict):
    """ctc_token_fst.py, or the strict topology."""
    lines = [f"0 0 {tokens['<blank>']} 0"]
    names = [t for t in tokens if t not in ("<eps>", "<blank>", *disambig)]
    states = {name: i for i, name in enumerate(names, 1)}
    for name, state in states.items():
        label = tokens[name]
        lines += [f"0 {state} {label} {label}", f"{state} {state} {label} 0"]
        if strict:
            lines += [f"{state} {to} {tokens[other]} {tokens[other]}" for other, to in states.items() if to != state]
            lines += [f"{state} 0 {tokens['<blank>']} 0", f"{state} {state} 0 {tokens['#0']}", f"{state}"]
            lines += [f"{state} {state} 0 {tokens[d]}" for d in disambig if d != "#0"]
        else:
            lines.append(f"{state} 0 0 0")
    lines += [f"0 0 0 {tokens[d]}" for d in disambig] + ["0"]
    fst = kaldifst.compile("\n".join(lines), acceptor=False)
    kaldifst.arcsort(fst, sort_type="olabel")
    return fst


def without_loops(fst):
    out = kaldifst.StdVectorFst()
    for _ in kaldifst.StateIterator(fst):
        out.add_state()
    out.start = fst.start
    for state in kaldifst.StateIterator(fst):
        out.set_final(state, fst.final(state).value)
        for arc in kaldifst.ArcIterator(fst, state):
            if arc.nextstate != state:
                out.add_arc(state, kaldifst.StdArc(arc.ilabel, arc.olabel, arc.weight.value, arc.nextstate))
    return out


def decode(graph, posteriors, scale):
    options = kaldi_decoder.FasterDecoderOptions(beam=1e4, min_active=20)
    decoder = kaldi_decoder.FasterDecoder(graph, options)
    decoder.decode(kaldi_decoder.DecodableCtc(posteriors * scale))
    assert decoder.reached_final()
    ok, lattice = decoder.get_best_path()
    assert ok
    _, labels, words, cost = kaldifst.get_linear_symbol_sequence(lattice)
    return [i - 1 for i in labels], list(words), cost.value1 + cost.value2


def collapse(ids):
    return [i for n, i in enumerate(ids) if i != 0 and (n == 0 or ids[n - 1] != i)]


def main():
    OUT.mkdir(exist_ok=True)
    r = random.Random(6)
    (OUT / "lm.arpa").write_text(arpa(r))
    (OUT / "lexicon.txt").write_text("".join(f"{w}\t{s}\n" for w, s in LEXICON.items()))
    disambig = [f"#{n}" for n in range(4)]
    tokens = symbols(["<eps>", *TOKENS, *disambig])
    words = symbols(["<eps>", *sorted(LEXICON), "#0", "<s>", "</s>"])
    (OUT / "tokens.json").write_text(json.dumps(TOKENS, ensure_ascii=False) + "\n")
    (OUT / "config.yaml").write_text("token_list:\n" + "".join(f'- "{w}"\n' for w in words))
    lg = kaldifst.compose(lexicon(tokens, words, disambig), grammar(OUT / "lm.arpa", words))
    kaldifst.determinize_star(lg, use_log=True)
    kaldifst.minimize_encoded(lg)
    kaldifst.arcsort(lg, sort_type="ilabel")
    tlg = kaldifst.compose(token_graph(tokens, disambig, False), lg)
    tlg.write(str(OUT / "TLG.fst"))
    kaldifst.StdConstFst(tlg).write(str(OUT / "const.fst"))
    graphs = {"paraformer": without_loops(tlg), "ctc": kaldifst.compose(token_graph(tokens, disambig, True), lg)}
    rng = np.random.default_rng(6)
    cases, tensors = [], {}
    for n in range(CASES):
        kind, scale = ("paraformer", "ctc")[n % 2], (1.0, 3.0)[n // 2 % 2]
        logits = rng.standard_normal((8 + n % 7, len(TOKENS))).astype(np.float32) * 2
        if kind == "ctc":
            logits[:, 0] += 1
        else:
            logits[:, :3] -= 20  # rows of special tokens say nothing
        posteriors = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        ids, labels, cost = decode(graphs[kind], posteriors, scale)
        ids = collapse(ids) if kind == "ctc" else ids
        tensors[f"{n:02}"] = logits
        names = [list(words)[label] for label in labels]
        cases.append({"kind": kind, "am_scale": scale, "ids": ids, "words": names, "cost": round(float(cost), 4)})
    save_file(tensors, OUT / "logits.safetensors")
    (OUT / "best_paths.json").write_text("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]\n")


main()
