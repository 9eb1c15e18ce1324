//! n-gram language models: files, graphs, the search, and what they do for the demo models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use funasr_candle::audio::read_all;
use funasr_candle::decode::lm::arpa::Arpa;
use funasr_candle::decode::lm::build::{BuildOptions, Built, build};
use funasr_candle::decode::lm::fst::{Arc, Fst};
use funasr_candle::decode::lm::{LanguageModel, Lexicon};
use funasr_candle::decode::search::{Rows, Search, SearchOptions};
use funasr_candle::decode::spelling::Speller;
use funasr_candle::decode::tokens::TokenList;
use funasr_candle::pipeline::Request;
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::bias::{CLIPS, recognize, recognizer};
use crate::regression::clip;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lm").join(name)
}

fn tokens() -> TokenList {
    TokenList::from_json("tokens.json", include_str!("golden/lm/tokens.json")).unwrap()
}

fn built(arpa: &str, lexicon: &Lexicon, tokens: &TokenList, options: BuildOptions) -> Built {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), arpa).unwrap();
    let arpa = Arpa::read(file.path()).unwrap();
    build(&arpa, lexicon, tokens, &Speller::new(tokens, None), options).unwrap()
}

fn small() -> Built {
    let lexicon = Lexicon::read(golden("lexicon.txt")).unwrap();
    built(include_str!("golden/lm/lm.arpa"), &lexicon, &tokens(), BuildOptions::default())
}

// ------------------------------------------------------------------------------------------------------------ search

/// What Kaldi's decoder found; `tests/golden/lm.py` made it.
#[derive(Deserialize)]
struct Case {
    kind: String,
    am_scale: f32,
    ids: Vec<u32>,
}

#[test]
fn best_paths_are_kaldis() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("golden/lm/best_paths.json")).unwrap();
    let bytes = std::fs::read(golden("logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let graphs = [
        ("composed by Kaldi's tools", Fst::read(golden("TLG.fst")).unwrap()),
        ("the same as const", Fst::read(golden("const.fst")).unwrap()),
        ("built here", small().graph),
    ];
    let vocab = tokens().len();
    assert_eq!(cases.len(), 40);
    for (number, case) in cases.iter().enumerate() {
        let data = tensors.tensor(&format!("{number:02}")).unwrap().data().to_vec();
        let logits: Vec<f32> =
            data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        for (name, graph) in &graphs {
            let options =
                SearchOptions { am_scale: case.am_scale, global_beam: 1e4, ..SearchOptions::default() };
            let search = Search { graph: Some(graph), bias: None, options };
            let rows = Rows::All { logits: &logits, vocab };
            let found = match case.kind.as_str() {
                "ctc" => search.frames(rows, 0),
                _ => search.tokens(rows, logits.len() / vocab),
            };
            let found = found.unwrap().unwrap();
            let ids: Vec<u32> = found.iter().map(|emission| emission.id).collect();
            assert_eq!(ids, case.ids, "case {number} ({}), {name}", case.kind);
            assert!(found.windows(2).all(|pair| pair[0].position < pair[1].position));
            assert!(found.iter().all(|emission| emission.log_prob <= 0.0));
        }
    }
}

// ------------------------------------------------------------------------------------------------------------- files

#[test]
fn files_of_openfst_are_read_and_written() {
    let fst = Fst::read(golden("TLG.fst")).unwrap();
    assert_eq!(fst, Fst::read(golden("const.fst")).unwrap());
    let file = tempfile::NamedTempFile::new().unwrap();
    fst.write(file.path()).unwrap();
    assert_eq!(fst, Fst::read(file.path()).unwrap());
    // OpenFST's file says more of its properties and not how many arcs there are; all else is the same.
    let (ours, theirs) = (std::fs::read(file.path()).unwrap(), std::fs::read(golden("TLG.fst")).unwrap());
    let [properties, arcs, states] = [34, 58, 66];
    assert_eq!(ours[..properties], theirs[..properties]);
    assert_eq!(ours[properties + 8..arcs], theirs[properties + 8..arcs]);
    assert_eq!(ours[states..], theirs[states..]);
}

#[test]
fn broken_graphs_are_refused() {
    let good = std::fs::read(golden("TLG.fst")).unwrap();
    let constant = std::fs::read(golden("const.fst")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let read = |bytes: &[u8]| {
        std::fs::write(file.path(), bytes).unwrap();
        Fst::read(file.path()).map_err(|error| error.to_string())
    };
    for bytes in [&good, &constant] {
        for end in (0..bytes.len()).step_by(7) {
            let error = read(&bytes[..end]).unwrap_err();
            assert!(error.starts_with(file.path().to_str().unwrap()), "{error}");
            assert!(error.contains("truncated") || error.contains("not an OpenFST file"), "{end}: {error}");
        }
        // Whatever byte is damaged, the file is read or refused.
        for at in 0..bytes.len().min(400) {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = read(&damaged);
            }
        }
    }
    let with = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        read(&bytes).unwrap_err()
    };
    let cases: &[(&str, String)] = &[
        ("not an OpenFST file", read(b"RIFF1234").unwrap_err()),
        ("of type \"vectos\"", with(8, b"vectos")),
        ("arcs of type \"standare\"", with(18, b"standare")),
        ("starts in state 99999", with(42, &99_999i64.to_le_bytes())),
        ("truncated: 99999999 states are announced", with(50, &99_999_999i64.to_le_bytes())),
        ("truncated: 1000000 arcs are announced", with(70, &1_000_000i64.to_le_bytes())),
        ("a weight is NaN", with(66, &f32::NAN.to_le_bytes())),
        ("input label is below 0", with(78, &(-1i32).to_le_bytes())),
        ("an arc leads to state 70000", with(90, &70_000i32.to_le_bytes())),
    ];
    for (expected, error) in cases {
        assert!(error.contains(expected), "{error}: {expected}");
    }
}

#[test]
fn broken_arpa_files_are_refused_by_line() {
    let head = "\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-1 <s> -0.5\n-1 </s>\n-1 a -0.2\n\n";
    let cases: &[(String, &str)] = &[
        (String::new(), "line 0: the file ends without \\end\\"),
        ("no model\n".into(), "line 1: the file ends without"),
        ("\\data\\\n\\end\\\n".into(), "line 2: ends before the 0-grams"),
        ("\\data\\\nngram 1=x\n".into(), "line 2: no count"),
        ("\\data\\\nngram 2=1\n".into(), "line 2: no count"),
        ("\\data\\\nngram 1=1\n\\2-grams:\n".into(), "line 3: unexpected section"),
        ("\\data\\\nngram 1=2\n\\1-grams:\n-1 a\n\\end\\\n".into(), "line 5: 1 1-grams, but 2 are announced"),
        (
            "\\data\\\nngram 1=1\n\\1-grams:\n0.5 a\n".into(),
            "line 4: \"0.5\" is no logarithm of a probability",
        ),
        ("\\data\\\nngram 1=1\n\\1-grams:\nx a\n".into(), "line 4: \"x\" is no logarithm"),
        ("\\data\\\nngram 1=1\n\\1-grams:\nnan a\n".into(), "line 4: \"nan\" is no logarithm"),
        ("\\data\\\nngram 1=1\n\\1-grams:\n-1 a b c\n".into(), "line 4: 4 fields, where a 1-gram has 2 or 3"),
        ("\\data\\\nngram 1=1\n\\1-grams:\n-1 a b\n".into(), "line 4: back-off \"b\" is no number"),
        (format!("{head}\\2-grams:\n-1 <s> b\n"), "line 11: \"b\" is no 1-gram"),
        (format!("{head}\\2-grams:\n-1 b a\n"), "line 11: \"b\" is no 1-gram"),
        (format!("{head}\\2-grams:\n-1 <s> a\n-1 <s> a\n"), "line 12: \"<s> a\" is listed twice"),
        (format!("{head}\\2-grams:\n-1 <s> a\n"), "line 11: the file ends without"),
        (format!("{head}\\end\\\n"), "line 10: ends before the 2-grams"),
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    for (text, expected) in cases {
        std::fs::write(file.path(), text).unwrap();
        let error = Arpa::read(file.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}: {expected}");
    }
}

#[test]
fn a_language_model_has_to_fit_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    small().write(folder.path()).unwrap();
    let open =
        |tokens: &TokenList| LanguageModel::open(folder.path(), tokens).map_err(|error| error.to_string());
    open(&tokens()).unwrap();
    let list = |tokens: &[&str]| TokenList::from_json("t", &serde_json::to_string(tokens).unwrap()).unwrap();
    let error = open(&list(&["<blank>", "<s>", "</s>", "a", "<unk>"])).unwrap_err();
    assert!(error.contains("TLG.fst: reads label") && error.contains("the model has 5 tokens"), "{error}");
    let other = ["<blank>", "<s>", "</s>", "t", "二", "一", "op", "e", "x", "d", "c", "b", "a", "y", "<unk>"];
    let error = open(&list(&other)).unwrap_err();
    assert!(error.contains("TLG.fst: reads token") && error.contains("another token list"), "{error}");

    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let lexicon = std::fs::read_to_string(folder.path().join("lexicon.txt")).unwrap();
    write("lexicon.txt", "word\n");
    assert!(open(&tokens()).unwrap_err().ends_with("lexicon.txt: line 1: \"word\" has no tokens"));
    write("lexicon.txt", &lexicon);
    write("config.yaml", "token_list:\n- \"<eps>\"\n- \"a\"\n");
    assert!(open(&tokens()).unwrap_err().contains("but config.yaml lists 2 words"));
    write("config.yaml", "tokens:\n");
    assert!(open(&tokens()).unwrap_err().ends_with("config.yaml: no words under token_list:"));
    for name in ["TLG.fst", "lexicon.txt", "config.yaml"] {
        small().write(folder.path()).unwrap();
        std::fs::remove_file(folder.path().join(name)).unwrap();
        assert!(open(&tokens()).unwrap_err().contains(name));
    }
}

#[test]
fn what_the_ngrams_do_not_know() {
    let arpa = "\\data\\\nngram 1=6\nngram 2=1\n\\1-grams:\n-9 <s> -0.5\n-1 </s>\n-1 a -0.2\n-2 <unk>\n-1 zebra\n-1 b\n\
                \\2-grams:\n-0.1 a zebra\n\\end\\\n";
    let known = tokens();
    let built = |closed| built(arpa, &Lexicon::default(), &known, BuildOptions { closed });
    let (open, closed) = (built(false), built(true));
    assert_eq!(
        (open.report.words, open.report.unspelled, &open.report.examples[..]),
        (2, 1, &["zebra".into()][..])
    );
    // All but a, b, and the four special tokens.
    assert_eq!((open.report.unknown_tokens, closed.report.unknown_tokens), (9, 0));
    let say = |built: &Built, token: &str| {
        let mut logits = vec![-20.0; known.len()];
        logits[known.id(token) as usize] = 0.0;
        let search = Search { graph: Some(&built.graph), bias: None, options: SearchOptions::default() };
        search.tokens(Rows::All { logits: &logits, vocab: known.len() }, 1).unwrap().unwrap()[0].id
    };
    assert_eq!(say(&open, "二"), known.id("二"));
    assert!([known.id("a"), known.id("b")].contains(&say(&closed, "二")));
}

#[test]
fn a_graph_that_ends_nowhere_gives_no_path_and_one_that_gains_forever_an_error() {
    let arc = |ilabel, weight, next| Arc { ilabel, olabel: 0, weight, next };
    let logits = [0.0, 0.0, 0.0, 1.0].repeat(2);
    let search = |graph: &Fst| {
        let options = SearchOptions::default();
        Search { graph: Some(graph), bias: None, options }
            .tokens(Rows::All { logits: &logits, vocab: 4 }, 2)
            .map_err(|error| error.to_string())
    };
    let dead = Fst::new(0, [(f32::INFINITY, vec![arc(4, 0.0, 1)]), (f32::INFINITY, vec![])]);
    assert_eq!(search(&dead), Ok(None));
    let cycle = Fst::new(0, [(0.0, vec![arc(0, -1.0, 1), arc(4, 0.0, 1)]), (0.0, vec![arc(0, -1.0, 0)])]);
    assert!(search(&cycle).unwrap_err().contains("cycle"), "{:?}", search(&cycle));
}

// ------------------------------------------------------------------------------------------------------------ speech

/// Clips of `tests/data/eval` and `tests/data/hotwords` with what is said in them.
fn speech() -> Vec<(String, Vec<f32>)> {
    let texts: BTreeMap<String, String> = serde_json::from_str(include_str!("data/eval/texts.json")).unwrap();
    let eval = texts.into_iter().map(|(name, text)| (text, read_all(&clip(&name), 16_000, None).unwrap()));
    eval.chain(CLIPS[..40].iter().map(|clip| (clip.text.clone(), clip.samples.clone()))).collect()
}

/// White noise at this distance below the speech in dB; the same in each run.
fn add_noise(samples: &mut [f32], snr_db: f32, seed: u32) {
    let power = samples.iter().map(|x| x * x).sum::<f32>() / samples.len() as f32;
    let amplitude = (3.0 * power / 10f32.powf(snr_db / 10.0)).sqrt();
    let mut state = seed.wrapping_mul(2_654_435_761);
    for sample in samples {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *sample += amplitude * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0);
    }
}

/// Insertions, deletions and substitutions of letters; spaces do not count.
fn errors(said: &str, heard: &str) -> usize {
    let [said, heard] = [said, heard].map(|text| text.chars().filter(|c| *c != ' ').collect::<Vec<char>>());
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, a) in said.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in heard.iter().enumerate() {
            let least = (diagonal + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[heard.len()]
}

/// A language model of the domain mends what noise hides. Letters that are wrong, of 711: with demo 173 without and 126 with
/// it, with demo-sensevoice 175 and 144.
#[test]
fn a_language_model_lowers_the_error_rate_in_noise() {
    let mut speech = speech();
    for (seed, (_, samples)) in (0..).zip(&mut speech) {
        add_noise(samples, 5.0, seed);
    }
    let letters: usize = speech.iter().map(|(text, _)| text.chars().filter(|c| *c != ' ').count()).sum();
    let arpa = Arpa::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lm/demo.arpa")).unwrap();
    for (name, [without, with]) in [("demo", [173, 126]), ("demo-sensevoice", [175, 144])] {
        let recognizer = recognizer(name);
        let folder = tempfile::tempdir().unwrap();
        let (tokens, speller) = (recognizer.vocabulary(), recognizer.speller());
        let built = build(&arpa, &Lexicon::default(), tokens, &speller, BuildOptions::default()).unwrap();
        assert_eq!((built.report.words, built.report.unspelled), (654, 0));
        built.write(folder.path()).unwrap();
        let wrong = |request: &Request| -> usize {
            let heard = |samples: &[f32]| recognize(&recognizer, samples, request).joined.text;
            speech.iter().map(|(text, samples)| errors(text, &heard(samples))).sum()
        };
        let mut request = Request::default();
        let plain = wrong(&request);
        request.lm = Some(std::sync::Arc::new(recognizer.open_lm(folder.path()).unwrap()));
        recognizer.check(&request).unwrap();
        let mended = wrong(&request);
        // Another processor may round otherwise.
        let near = |count: usize, expected: usize| count.abs_diff(expected) <= expected / 20;
        assert!(
            near(plain, without) && near(mended, with),
            "{name}: {plain} and {mended} of {letters} letters"
        );
    }
}
