//! What the commands share: how models are named, found and run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use funasr_candle::audio::Input;
use funasr_candle::decode::hotwords::{HotwordReport, Hotwords, MAX_WEIGHT, Rejected, SEPARATORS};
use funasr_candle::decode::search::SearchOptions;
use funasr_candle::device::{Compute, DeviceName, Precision};
use funasr_candle::hub::{self, Hub, HubOptions, Progress};
use funasr_candle::pipeline::{Language, Recognizer, Request, open_model};
use funasr_candle::text::itn::Itn;
use funasr_candle::weights::ModelFiles;
use funasr_candle::{Error, Result};
use indicatif::ProgressBar;

use super::output::{note, progress_bar, report_error};

/// Rejected hotwords that are named on stderr; a report in JSON names all.
const MAX_NOTES: usize = 20;

/// Where models come from.
#[derive(Debug, Clone, Args)]
pub struct HubArgs {
    /// Never use the network
    #[arg(long, global = true)]
    offline: bool,
    /// Where to download from: hf (Hugging Face), ms (ModelScope), auto (one after the other)
    #[arg(long, global = true, default_value = "auto")]
    hub: Hub,
}

impl HubArgs {
    /// The environment's settings with these choices, showing downloads as bars.
    pub fn options(&self) -> Result<HubOptions> {
        let progress = Arc::new(DownloadBars::default());
        Ok(HubOptions { offline: self.offline, hub: self.hub, progress, ..HubOptions::from_env()? })
    }
}

/// Where models run.
#[derive(Debug, Clone, Args)]
pub struct ComputeArgs {
    /// cpu, cuda:N or metal
    #[arg(long, default_value = "cpu")]
    pub device: DeviceName,
    /// f32; on the CPU int8, where voice detection takes bf16 if the CPU has it; on a GPU bf16 or f16
    #[arg(long, default_value = "f32")]
    pub dtype: Precision,
    /// Threads to compute with [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl ComputeArgs {
    /// Sets the number of threads and opens the device.
    pub fn open(&self) -> Result<Compute> {
        if let Some(threads) = self.threads {
            funasr_kernels::set_threads(usize::from(threads))
                .map_err(|e| Error::Device(format!("{threads} threads: {e}")))?;
        }
        Compute::open(self.device, self.dtype)
    }
}

/// What is asked of a recognition model.
#[derive(Debug, Clone, Args)]
pub struct RequestArgs {
    /// Words to listen for: a file with one a line, or a list such as "阿里巴巴 20,通义"; a number is a weight
    #[arg(long, value_name = "FILE|WORDS")]
    hotwords: Option<String>,
    /// Language of the speech, for models that are told (SenseVoice): auto, zh, en, yue, ja, ko
    #[arg(long, default_value_t)]
    language: Language,
    /// Write numbers in digits: SenseVoice by itself, punctuation included, other models by rules
    #[arg(long)]
    itn: bool,
    /// n-gram language model: a folder of `lm build` or of FunASR (TLG.fst, config.yaml, lexicon.txt)
    #[arg(long, value_name = "DIR")]
    lm: Option<PathBuf>,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    rules: ItnArgs,
}

/// How an n-gram model and hotword graphs are searched, by the names of FunASR's C++ runtime.
#[derive(Debug, Clone, Args)]
struct SearchArgs {
    /// Weight of the network's log-probabilities in a search with --lm or a hotword graph
    #[arg(long, value_name = "X", default_value_t = 10.0, value_parser = positive)]
    am_scale: f32,
    /// How much worse than the best a path may be in that search
    #[arg(long, value_name = "X", default_value_t = 3.0, value_parser = positive)]
    global_beam: f32,
    /// Taken as FunASR takes it, without effect: it thins lattices, and only the best path is used
    #[arg(long, value_name = "X", default_value_t = 3.0, value_parser = positive)]
    lattice_beam: f32,
    /// Bonus for each token of a hotword, besides its weight; also puts hotwords into a graph for models that
    /// attend to them themselves [default: 20, and a graph for other models and with --lm]
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = bonus)]
    fst_inc_wts: Option<f32>,
}

fn positive(text: &str) -> std::result::Result<f32, String> {
    within(text, 0.0, 10_000.0)
}

fn bonus(text: &str) -> std::result::Result<f32, String> {
    within(text, -MAX_WEIGHT, MAX_WEIGHT)
}

fn within(text: &str, least: f32, most: f32) -> std::result::Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("not a number from {least} to {most}"))
}

/// The rules of text normalisation.
#[derive(Debug, Clone, Args)]
pub struct ItnArgs {
    /// Folder of rules: zh_itn_tagger.fst, zh_itn_verbalizer.fst, and the same for en [default: WeTextProcessing's]
    #[arg(long, value_name = "DIR")]
    itn_dir: Option<PathBuf>,
    /// Write numbers in digits even inside words such as 十分感谢 or "first of all"
    #[arg(long)]
    no_idioms: bool,
}

impl ItnArgs {
    /// Reads the rules.
    pub fn load(&self) -> Result<Itn> {
        let rules = self.itn_dir.as_deref().map_or_else(Itn::embedded, Itn::open)?;
        Ok(if self.no_idioms { rules.with_idioms(None) } else { rules })
    }

    fn given(&self) -> bool {
        self.itn_dir.is_some() || self.no_idioms
    }
}

impl RequestArgs {
    /// Whether digits are asked for that the recogniser does not write itself.
    pub fn needs_rules(&self, recognizer: &Recognizer) -> bool {
        self.itn && !recognizer.normalizes()
    }

    /// The rules that write digits, if digits are asked for and the recogniser does not write them itself.
    pub fn itn(&self, recognizer: &Recognizer) -> Result<Option<Arc<Itn>>> {
        if self.needs_rules(recognizer) {
            return self.rules.load().map(|rules| Some(Arc::new(rules)));
        }
        if self.rules.given() {
            let message =
                "--itn-dir and --no-idioms are for --itn of models that do not write digits by themselves";
            return Err(Error::Unsupported(message.into()));
        }
        Ok(None)
    }

    /// Fails if anything is asked of what cannot be asked: a model, `origin`, or a first pass alone.
    pub fn refuse(&self, origin: &str) -> Result<()> {
        let itn = self.itn || self.rules.given();
        if self.hotwords.is_none() && self.language == Language::Auto && !itn && self.lm.is_none() {
            return Ok(());
        }
        let message = "takes no --hotwords, --language, --itn or --lm; offline recognition models do";
        Err(Error::Unsupported(format!("{origin}: {message}")))
    }

    /// The request, checked against the model; what becomes of hotwords is told on stderr and returned.
    pub fn read(&self, recognizer: &Recognizer) -> Result<(Request, Option<HotwordReport>)> {
        let mut request = Request::default();
        (request.language, request.itn) = (self.language, self.itn);
        let SearchArgs { am_scale, global_beam, fst_inc_wts, .. } = self.search;
        let defaults = SearchOptions::default();
        let fst_inc_wts = fst_inc_wts.unwrap_or(defaults.fst_inc_wts);
        request.search = SearchOptions { am_scale, global_beam, fst_inc_wts };
        request.graph_hotwords = self.search.fst_inc_wts.is_some();
        request.lm = self.lm.as_ref().map(|folder| recognizer.open_lm(folder).map(Arc::new)).transpose()?;
        recognizer.check(&request)?;
        let Some(hotwords) = &self.hotwords else { return Ok((request, None)) };
        let hotwords = if is_file(hotwords) { Hotwords::read(hotwords)? } else { Hotwords::parse(hotwords) };
        let report = recognizer.bias(&mut request, &hotwords)?;
        for Rejected { word, why } in report.rejected.iter().take(MAX_NOTES) {
            note(&format!("warning: hotword {word:?} is not used: {why}"));
        }
        if report.rejected.len() > MAX_NOTES {
            note(&format!("warning: {} hotwords more are not used", report.rejected.len() - MAX_NOTES));
        }
        Ok((request, Some(report)))
    }
}

/// Whether hotwords are given as a file: one that exists, or a text that looks like a path, since a misspelt
/// path should be an error and not a hotword.
fn is_file(hotwords: &str) -> bool {
    let is_list = hotwords.starts_with(['{', '[']) || hotwords.contains(SEPARATORS);
    let is_path = || hotwords.contains(std::path::is_separator) || hotwords.to_lowercase().ends_with(".txt");
    Path::new(hotwords).is_file() || (!is_list && is_path())
}

/// What a model is for, and so which one is meant when none is named.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// Speech recognition.
    Recognition,
    /// Recognition of speech that goes on.
    Streaming,
    /// Voice activity detection.
    VoiceDetection,
    /// Punctuation of whole texts.
    Punctuation,
    /// Punctuation of text that goes on.
    RealtimePunctuation,
}

impl Role {
    /// Registry names to prefer if installed, and the embedded model.
    fn defaults(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Recognition => (&["paraformer-zh", "paraformer-large", "sensevoice-small"], "demo"),
            Self::Streaming => (&["paraformer-zh-streaming"], "demo-online"),
            Self::VoiceDetection => (&[], "fsmn-vad"),
            Self::Punctuation => (&["ct-punc-c"], "demo-punc"),
            Self::RealtimePunctuation => (&["ct-punc-realtime"], "demo-punc-realtime"),
        }
    }
}

/// Opens the model `name`, or the default one for `role`; returns the name with the files.
pub fn open(name: Option<&str>, role: Role, options: &HubOptions) -> Result<(String, ModelFiles)> {
    let name = name.map_or_else(|| default_name(role, options), str::to_owned);
    let files = open_model(&hub::resolve(&name, options)?)?;
    Ok((name, files))
}

fn default_name(role: Role, options: &HubOptions) -> String {
    let (preferred, embedded) = role.defaults();
    if let Some(name) = preferred.iter().find(|name| hub::locate(name, options).is_some()) {
        return (*name).to_owned();
    }
    match role {
        Role::Recognition | Role::Streaming => note(&format!(
            "note: no model is named or installed, so this is the embedded demonstration model `{embedded}` (synthetic \
             speech, closed vocabulary); see `funasr-candle models list`",
        )),
        Role::Punctuation | Role::RealtimePunctuation => note(&format!(
            "note: no punctuation model is named or installed, so this is the embedded demonstration model `{embedded}`",
        )),
        Role::VoiceDetection => {}
    }
    embedded.to_owned()
}

/// Does `work` for every input that can be had; reports what fails at once, and sums it up as an error at the end.
pub fn for_each(inputs: Vec<Result<Input>>, mut work: impl FnMut(&Input) -> Result<()>) -> Result<()> {
    let total = inputs.len();
    let mut failed = Vec::new();
    for input in inputs {
        if total == 1 {
            return input.and_then(|input| work(&input));
        }
        let name = input.as_ref().map_or_else(culprit, Input::name);
        if let Err(error) = input.and_then(|input| work(&input)) {
            report_error(&error);
            failed.push(name);
        }
    }
    match failed.len() {
        0 => Ok(()),
        count => Err(Error::Failed(format!("{count} of {total} inputs failed: {}", failed.join(", ")))),
    }
}

/// What an input that could not even be listed is called in the summary: its error begins with its name.
fn culprit(error: &Error) -> String {
    let text = error.to_string();
    text.split(": ").next().unwrap_or_default().to_owned()
}

/// One bar a file.
#[derive(Debug, Default)]
struct DownloadBars(Mutex<HashMap<String, ProgressBar>>);

impl Progress for DownloadBars {
    fn progress(&self, file: &str, done: u64, total: Option<u64>) {
        let mut bars = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(file.to_owned()).or_insert_with(|| progress_bar(file, total));
        bar.set_position(done);
        if total == Some(done) {
            bar.finish();
        }
    }
}
