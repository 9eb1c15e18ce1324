//! What the arguments of a command stand for: files, standard input, directories and Kaldi `wav.scp` lists.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::AudioReader;
use crate::error::{Error, Result};

/// Extensions that a directory is searched for. A file named on its own may have any.
const EXTENSIONS: [&str; 26] = [
    "aac", "aif", "aifc", "aiff", "amr", "ape", "caf", "flac", "flv", "m4a", "m4b", "mka", "mkv", "mov",
    "mp2", "mp3", "mp4", "mpga", "oga", "ogg", "opus", "pcm", "raw", "wav", "webm", "wma",
];
/// Directories below directories that are entered.
const MAX_DEPTH: usize = 32;

/// Where the bytes of an input are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputSource {
    /// A file.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

/// One recording to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The utterance name: the key of a `wav.scp` line, else the file name without extension. Unique in a run.
    pub key: String,
    /// Where to read.
    pub source: InputSource,
}

impl Input {
    /// The path, or `-` for standard input.
    pub fn name(&self) -> String {
        match &self.source {
            InputSource::Path(path) => path.display().to_string(),
            InputSource::Stdin => "-".to_owned(),
        }
    }

    /// Opens the recording; samples come out at `sample_rate` Hz.
    ///
    /// # Errors
    /// As [`AudioReader::open`].
    pub fn open(&self, sample_rate: u32) -> Result<AudioReader> {
        match &self.source {
            InputSource::Path(path) => AudioReader::open(path, sample_rate),
            InputSource::Stdin => AudioReader::from_source("stdin", std::io::stdin(), sample_rate),
        }
    }

    fn file(path: PathBuf) -> Self {
        let key = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self { key, source: InputSource::Path(path) }
    }
}

/// Turns command arguments into recordings, in order.
///
/// `-` is standard input; a directory stands for the audio files in it and below it, sorted by path; a `.scp` file
/// for the recordings it lists, one `key path` a line; anything else for itself. What fails stands in its place as an
/// error, so that the rest can still be worked on. Names that occur again get `-2`, `-3`, ...
pub fn expand_inputs(args: &[String]) -> Vec<Result<Input>> {
    let mut inputs: Vec<Result<Input>> = args.iter().flat_map(|arg| expand(arg)).collect();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for input in inputs.iter_mut().flatten() {
        let count = seen.entry(input.key.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            input.key = format!("{}-{count}", input.key);
        }
    }
    inputs
}

fn expand(arg: &str) -> Vec<Result<Input>> {
    if arg == "-" {
        return vec![Ok(Input { key: "stdin".into(), source: InputSource::Stdin })];
    }
    let path = Path::new(arg);
    match fs::metadata(path) {
        Err(e) => vec![Err(Error::io(path, e))],
        Ok(metadata) if metadata.is_dir() => directory(path),
        Ok(_) if has_extension(path, &["scp"]) => list(path),
        Ok(_) => vec![Ok(Input::file(path.into()))],
    }
}

fn directory(path: &Path) -> Vec<Result<Input>> {
    let mut found = Vec::new();
    collect(path, 0, &mut found);
    if found.is_empty() {
        return vec![Err(Error::audio(path.display(), "there are no audio files in this directory"))];
    }
    found
}

/// Appends the audio files below `directory`. Links to directories are not followed: they can form circles.
fn collect(directory: &Path, depth: usize, found: &mut Vec<Result<Input>>) {
    let entries: std::io::Result<Vec<PathBuf>> =
        fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths = match entries {
        Ok(paths) => paths,
        Err(e) => return found.push(Err(Error::io(directory, e))),
    };
    paths.sort();
    for path in paths {
        let is_link = path.is_symlink();
        if path.is_dir() && !is_link && depth < MAX_DEPTH {
            collect(&path, depth + 1, found);
        } else if path.is_file() && has_extension(&path, &EXTENSIONS) {
            found.push(Ok(Input::file(path)));
        }
    }
}

fn has_extension(path: &Path, known: &[&str]) -> bool {
    path.extension().is_some_and(|extension| known.iter().any(|k| extension.eq_ignore_ascii_case(k)))
}

/// The recordings of a Kaldi `wav.scp`. Relative paths start at the working directory, as in Kaldi.
fn list(path: &Path) -> Vec<Result<Input>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) => return vec![Err(Error::io(path, e))],
    };
    let mut inputs = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let place = format!("{}:{}", path.display(), number + 1);
        let Ok(line) = line else {
            inputs.push(Err(Error::audio(place, "is not text")));
            break;
        };
        if !line.trim().is_empty() {
            inputs.push(list_entry(line.trim()).map_err(|fault| Error::audio(place, fault)));
        }
    }
    if inputs.is_empty() {
        return vec![Err(Error::audio(path.display(), "lists no recordings"))];
    }
    inputs
}

fn list_entry(line: &str) -> std::result::Result<Input, &'static str> {
    let (key, path) = line.split_once(char::is_whitespace).ok_or("is not of the form `key path`")?;
    let path = path.trim_start();
    if path.ends_with('|') {
        return Err("is a command (it ends in `|`); commands are not run, list audio files");
    }
    Ok(Input { key: key.to_string(), source: InputSource::Path(path.into()) })
}
