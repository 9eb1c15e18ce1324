//! Who may import whom, read from the sources (see ARCHITECTURE.md).

use std::path::Path;

/// Folder or file under `src/` (or a crate), and what its code must not name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("src/audio", &["candle_", "crate::{not-error}"]),
    ("src/frontend", &["candle_", "tokio", "crate::nn", "crate::models", "crate::device"]),
    ("src/decode", &["candle_", "tokio", "crate::nn", "crate::models", "crate::device", "crate::pipeline"]),
    ("src/text", &["candle_", "tokio", "crate::nn", "crate::models", "crate::device", "crate::pipeline"]),
    ("src/vad.rs", &["candle_", "tokio", "crate::nn", "crate::models", "crate::device", "crate::pipeline"]),
    ("src/punctuation.rs", &["candle_", "tokio", "crate::nn", "crate::device", "crate::pipeline"]),
    (
        "src/nn",
        &[
            "tokio",
            "std::fs",
            "crate::models",
            "crate::pipeline",
            "crate::text",
            "crate::hub",
            "crate::weights",
        ],
    ),
    (
        "src/models",
        &[
            "tokio",
            "std::fs",
            "std::thread",
            "crate::text",
            "crate::pipeline",
            "crate::hub",
            "crate::weights",
            "crate::audio",
        ],
    ),
    ("src/pipeline", &["tokio", "ureq", "std::fs", "crate::engine", "crate::server"]),
    ("src/weights", &["tokio", "crate::pipeline", "crate::models", "crate::nn"]),
    (
        "src/engine",
        &["candle_", "tokio", "axum", "crate::nn", "crate::models", "crate::hub", "crate::server"],
    ),
    ("src/server", &["candle_", "crate::nn", "crate::models", "crate::weights", "crate::hub"]),
    ("src/hub", &["candle_", "crate::pipeline", "crate::models", "crate::nn"]),
    ("src/error.rs", &["crate::"]),
    ("kernels/src", &["funasr_candle", "tokio", "std::fs"]),
    ("converters/src", &["candle_", "funasr_candle", "tokio"]),
];

/// Words that may stand in these places alone.
const CONFINED: &[(&str, &[&str])] = &[
    ("unsafe {", &["kernels/"]),
    ("allow(unsafe_code)", &["kernels/"]),
    ("feature = \"cuda\"", &["kernels/", "src/device.rs"]),
    ("feature = \"metal\"", &["kernels/", "src/device.rs"]),
    ("TensorFile", &["src/weights.rs", "src/weights/"]),
    ("ureq", &["src/hub/"]),
    ("tokio::", &["src/server/", "src/hub/", "src/cli/"]),
    ("axum::", &["src/server/"]),
    ("crate::engine", &["src/engine/", "src/server/"]),
    ("static mut", &[]),
    ("println!", &[]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Sources below `place`: path relative to the root, and code without comments.
fn sources(place: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(place)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((relative(&path), code(&std::fs::read_to_string(&path).unwrap())));
        }
    }
    assert!(!found.is_empty(), "{place} holds no source: mend the table");
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

fn code(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn imports_point_downwards() {
    let mut faults = Vec::new();
    for (place, forbidden) in FORBIDDEN {
        for (file, code) in sources(place) {
            for (number, line) in code.lines().enumerate() {
                let names = |word: &&&str| match **word {
                    "crate::{not-error}" => {
                        line.contains("use crate::") && !line.contains("use crate::error")
                    }
                    word => line.contains(word),
                };
                if let Some(word) = forbidden.iter().find(names) {
                    faults.push(format!("{file}: code line {}: `{word}` in `{}`", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn confined_words_stay_where_they_are_allowed() {
    let mut faults = Vec::new();
    for place in ["src", "kernels/src", "converters/src"] {
        for (file, code) in sources(place) {
            for (word, allowed) in CONFINED {
                if code.contains(word) && !allowed.iter().any(|place| file.starts_with(place)) {
                    faults.push(format!("{file}: `{word}`"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for place in ["src", "kernels/src", "converters/src"] {
        for (file, _) in sources(place) {
            let text = std::fs::read_to_string(root().join(&file)).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("unsafe {")) {
                let above = &lines[number.saturating_sub(4)..number];
                assert!(
                    above.iter().any(|line| line.contains("// SAFETY:")),
                    "{file}:{}: {line}",
                    number + 1
                );
            }
        }
    }
}

#[test]
fn the_program_stays_thin_and_models_small() {
    let lines = |file: &str| std::fs::read_to_string(root().join(file)).unwrap().lines().count();
    assert!(lines("src/main.rs") < 200);
    for (file, _) in sources("src/models") {
        assert!(lines(&file) <= 500, "{file} has {} lines: a model is one file of at most 500", lines(&file));
    }
}
