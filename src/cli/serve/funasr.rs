//! The flags of `funasr-wss-server` and `funasr-wss-server-2pass`, so that their start scripts go on working.

use std::path::{Path, PathBuf};

use funasr_candle::hub;

use super::super::output::note;

/// See the [module](self). Names and values are theirs; `model-dir` and its kin take what `--model` and its kin take,
/// and ModelScope's ids.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Flags of funasr-wss-server and funasr-wss-server-2pass")]
pub struct FunasrArgs {
    /// As --model; without --online-model-dir recordings only, and mode offline
    #[arg(long, value_name = "D", conflicts_with = "model")]
    pub model_dir: Option<String>,
    /// As --online-model
    #[arg(long, value_name = "D", conflicts_with = "online_model")]
    pub online_model_dir: Option<String>,
    /// As --vad-model
    #[arg(long, value_name = "D", conflicts_with = "vad_model")]
    pub vad_dir: Option<String>,
    /// As --punc-model and --realtime-punc-model
    #[arg(long, value_name = "D", conflicts_with_all = ["punc_model", "realtime_punc_model"])]
    pub punc_dir: Option<String>,
    /// Recordings that are decoded at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub decoder_thread_num: Option<u16>,
    /// Threads that talk to clients
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub io_thread_num: Option<u16>,
    /// As --device cuda:0
    #[arg(long)]
    pub gpu: bool,
    /// Inverse text normalisation rules; reported as not used
    #[arg(long, value_name = "D")]
    itn_dir: Option<String>,
    /// A language model; reported as not used
    #[arg(long, value_name = "D")]
    lm_dir: Option<String>,
    #[arg(long, hide = true)]
    download_model_dir: Option<String>,
    #[arg(long, hide = true)]
    model_revision: Option<String>,
    #[arg(long, hide = true)]
    offline_model_revision: Option<String>,
    #[arg(long, hide = true)]
    online_model_revision: Option<String>,
    #[arg(long, hide = true)]
    vad_revision: Option<String>,
    #[arg(long, hide = true)]
    punc_revision: Option<String>,
    #[arg(long, hide = true)]
    itn_revision: Option<String>,
    #[arg(long, hide = true)]
    lm_revision: Option<String>,
    #[arg(long, hide = true)]
    quantize: Option<String>,
    #[arg(long, hide = true)]
    bladedisc: Option<String>,
    #[arg(long, hide = true)]
    vad_quant: Option<String>,
    #[arg(long, hide = true)]
    punc_quant: Option<String>,
    #[arg(long, hide = true, value_parser = clap::value_parser!(u16))]
    model_thread_num: Option<u16>,
    #[arg(long, hide = true, value_parser = clap::value_parser!(u16))]
    batch_size: Option<u16>,
    #[arg(long, hide = true, value_parser = clap::value_parser!(f32))]
    global_beam: Option<f32>,
    #[arg(long, hide = true, value_parser = clap::value_parser!(f32))]
    lattice_beam: Option<f32>,
    #[arg(long, hide = true, value_parser = clap::value_parser!(f32))]
    am_scale: Option<f32>,
    #[arg(long, hide = true, value_parser = clap::value_parser!(i32), allow_negative_numbers = true)]
    fst_inc_wts: Option<i32>,
}

impl FunasrArgs {
    /// Whether the start script is that of the server for recordings.
    pub fn recordings_only(&self) -> bool {
        self.model_dir.is_some() && self.online_model_dir.is_none()
    }

    /// Says which of the given flags have no effect, and what to do instead.
    pub fn report(&self) {
        let named = |dir: &Option<String>| dir.as_deref().is_some_and(|dir| !is_off(dir));
        let pinned = "downloads are pinned by the lock file, see `funasr-candle models info`";
        let rounded = "weights are used as they are; --dtype int8 computes in 8 bits";
        let needs_lm = "it belongs to the language model";
        let unused = [
            ("lm-dir", named(&self.lm_dir), "this build decodes without language model"),
            (
                "itn-dir",
                named(&self.itn_dir),
                "this build writes numbers as they are spoken, but for SenseVoice",
            ),
            (
                "download-model-dir",
                self.download_model_dir.is_some(),
                "FUNASR_CANDLE_HOME is where models are kept",
            ),
            ("model-revision", self.model_revision.is_some(), pinned),
            ("offline-model-revision", self.offline_model_revision.is_some(), pinned),
            ("online-model-revision", self.online_model_revision.is_some(), pinned),
            ("vad-revision", self.vad_revision.is_some(), pinned),
            ("punc-revision", self.punc_revision.is_some(), pinned),
            ("itn-revision", self.itn_revision.is_some(), pinned),
            ("lm-revision", self.lm_revision.is_some(), pinned),
            ("quantize", self.quantize.is_some(), rounded),
            ("vad-quant", self.vad_quant.is_some(), rounded),
            ("punc-quant", self.punc_quant.is_some(), rounded),
            ("bladedisc", self.bladedisc.is_some(), "there is no TorchScript here"),
            ("model-thread-num", self.model_thread_num.is_some(), "--threads sets the threads of all models"),
            ("batch-size", self.batch_size.is_some(), "batches are bounded by audio: engine.batch_seconds"),
            ("global-beam", self.global_beam.is_some(), needs_lm),
            ("lattice-beam", self.lattice_beam.is_some(), needs_lm),
            ("am-scale", self.am_scale.is_some(), needs_lm),
            ("fst-inc-wts", self.fst_inc_wts.is_some(), needs_lm),
        ];
        for (flag, _, why) in unused.iter().filter(|(_, given, _)| *given) {
            note(&format!("note: --{flag} has no effect: {why}"));
        }
    }
}

/// A folder or file that a script names to have nothing.
fn is_off(value: &str) -> bool {
    matches!(value, "" | "0") || value.eq_ignore_ascii_case("none")
}

/// A file, unless it is named to have none.
pub fn file(path: &Path) -> Option<PathBuf> {
    (!path.to_str().is_some_and(is_off)).then(|| path.to_owned())
}

/// A model by a folder or an id of ModelScope; ids of ONNX exports mean the models that were exported.
pub fn model(dir: &str) -> String {
    if Path::new(dir).is_dir() {
        return dir.to_owned();
    }
    let exported = dir.strip_suffix("-onnx").unwrap_or(dir);
    let owner = exported.replacen("damo/", "iic/", 1);
    let known = [dir, exported, &owner].into_iter().find(|name| hub::card(name).is_ok());
    known.unwrap_or(dir).to_owned()
}
