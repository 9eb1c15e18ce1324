//! From FunASR's `config.yaml` to `config.json`: what inference reads, under the same names.

use std::path::Path;

use serde_json::{Map, Value};
use serde_saphyr::options::NonFiniteFloatPolicy;

use crate::{
    class::Class,
    error::{Error, Result},
    source::read_text,
};

/// The parts a model is put together from; each has a class under this name and options under `*_conf`.
const SECTIONS: [&str; 6] = ["encoder", "decoder", "predictor", "seaco_decoder", "frontend", "tokenizer"];

/// Top-level keys that only training, or FunASR's own loading, reads.
const TRAINING_SECTIONS: [&str; 25] = [
    "batch_size",
    "ctc",
    "ctc_conf",
    "dataset",
    "dataset_conf",
    "device",
    "hub",
    "init_param",
    "input_size",
    "jieba_usr_dict",
    "log_interval",
    "model_path",
    "ncpu",
    "ngpu",
    "normalize",
    "normalize_conf",
    "optim",
    "optim_conf",
    "scheduler",
    "scheduler_conf",
    "seed",
    "specaug",
    "specaug_conf",
    "train_conf",
    "vocab_size",
];

/// Options that change nothing once training is over, for every class: losses, regularisation, sampling, reports,
/// tensor names of another framework, and the dither that this engine never adds.
const TRAINING_OPTIONS: [(&str, &[&str]); 8] = [
    (
        "model_conf",
        &[
            "bias_encoder_dropout_rate",
            "crit_attn_smooth",
            "crit_attn_weight",
            "ctc_conf",
            "ctc_weight",
            "decoder_attention_chunk_type",
            "dropout_rate",
            "extract_feats_in_collect_stats",
            "ignore_id",
            "length_normalized_loss",
            "lsm_weight",
            "predictor_bias",
            "predictor_weight",
            "punc_weight",
            "report_cer",
            "report_wer",
            "sampling_ratio",
            "seaco_length_normal",
            "seaco_length_normalized_loss",
            "seaco_lsm_weight",
            "seaco_weight",
            "share_embedding",
            "specaug",
            "specaug_conf",
            "sym_blank",
            "sym_space",
            "target_buffer_length",
            "train_decoder",
            "use_1st_decoder_loss",
            // Read by no line of FunASR's VAD.
            "dcd_block_size",
            "do_end_point_detection",
            "do_start_point_detection",
            "nn_eval_block_size",
            "output_frame_probs",
            "silence_pdf_num",
            "snr_mode",
            "speech_noise_thresh_high",
            "speech_noise_thresh_low",
        ],
    ),
    ("encoder_conf", LAYER_TRAINING_OPTIONS),
    // The chunks that a streaming encoder was trained with: in use the request says how a stream is cut.
    (
        "encoder_conf",
        &["chunk_size", "decoder_att_look_back_factor", "encoder_att_look_back_factor", "pad_left", "stride"],
    ),
    ("decoder_conf", LAYER_TRAINING_OPTIONS),
    ("seaco_decoder_conf", LAYER_TRAINING_OPTIONS),
    ("predictor_conf", &["dropout", "tf2torch_tensor_name_prefix_tf", "tf2torch_tensor_name_prefix_torch"]),
    ("frontend_conf", &["cmvn_file", "dither", "filter_length_max", "filter_length_min"]),
    // The files lie beside config.json and are listed under "files".
    ("tokenizer_conf", &["bpemodel", "seg_dict", "seg_dict_file", "token_list"]),
];

const LAYER_TRAINING_OPTIONS: &[&str] = &[
    "attention_dropout_rate",
    "dropout_rate",
    "lora_alpha",
    "lora_dropout",
    "lora_list",
    "lora_rank",
    "positional_dropout_rate",
    "self_attention_dropout_rate",
    "src_attention_dropout_rate",
    "stochastic_depth_rate",
    "tf2torch_tensor_name_prefix_tf",
    "tf2torch_tensor_name_prefix_torch",
];

/// Options of which this engine knows only some values: section ("" is the top level), key, supported values.
/// A missing key means FunASR's default, which is supported but for `encoder_conf.input_layer`.
const SUPPORTED: [(&str, &str, &[&str]); 19] = [
    ("", "normalize", &["null"]),
    ("", "tokenizer", &["CharTokenizer", "SentencepiecesTokenizer"]),
    ("", "lm_file", &["null"]),
    ("", "decoding_ctc_weight", &["null", "0", "0.0"]),
    ("model_conf", "bias_encoder_type", &["lstm"]),
    ("model_conf", "share_embedding", &["null", "false"]),
    ("encoder_conf", "lora_list", &["null", "[]"]),
    ("encoder_conf", "concat_after", &["false"]),
    ("encoder_conf", "normalize_before", &["true"]),
    ("encoder_conf", "positionwise_layer_type", &["linear"]),
    ("encoder_conf", "input_layer", &["pe", "pe_online"]),
    ("decoder_conf", "lora_list", &["null", "[]"]),
    ("decoder_conf", "concat_after", &["false"]),
    ("decoder_conf", "normalize_before", &["true"]),
    ("decoder_conf", "input_layer", &["embed"]),
    ("seaco_decoder_conf", "lora_list", &["null", "[]"]),
    ("seaco_decoder_conf", "concat_after", &["false"]),
    ("seaco_decoder_conf", "normalize_before", &["true"]),
    ("predictor_conf", "upsample_type", &["cnn", "cnn_blstm"]),
];

/// The one encoder without an input layer; for the others FunASR's default is a convolution that nothing here has.
const FSMN: &str = "FSMN";

/// A model's configuration, reduced to what inference reads.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) class: &'static Class,
    /// `model`, `model_conf`, and class and `*_conf` of every section.
    pub(crate) sections: Map<String, Value>,
    /// Top-level keys that nothing is known of.
    pub(crate) ignored: Vec<String>,
}

/// Reads a YAML mapping as PyYAML does: YAML 1.1 booleans, a repeated key is an error.
pub(crate) fn read_yaml(path: &Path) -> Result<Map<String, Value>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
    };
    let text = read_text(path)?;
    let value: Value = serde_saphyr::from_str_with_options(&text, options)
        .map_err(|cause| Error::config(path, cause.to_string().lines().next().unwrap_or_default()))?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(Error::config(path, "not a YAML mapping")),
    }
}

impl Config {
    /// Takes a parsed `config.yaml` apart; `path` is for messages.
    ///
    /// # Errors
    /// An unknown class, a value that this engine does not support, or a section that is no mapping.
    pub(crate) fn distil(mut yaml: Map<String, Value>, path: &Path) -> Result<Self> {
        yaml.retain(|_, value| !value.is_null());
        let class = match yaml.remove("model") {
            Some(Value::String(name)) => {
                Class::find(&name).map_err(|cause| Error::unsupported(path, cause))?
            }
            _ => return Err(Error::config(path, "no `model` class")),
        };
        check_supported(&yaml).map_err(|cause| Error::unsupported(path, cause))?;
        let mut sections = Map::from_iter([("model".to_owned(), class.name.into())]);
        let mut model_conf = take_options(&mut yaml, "model_conf", path)?;
        for name in SECTIONS {
            let conf = format!("{name}_conf");
            let options = take_options(&mut yaml, &conf, path)?;
            match yaml.remove(name) {
                Some(Value::String(part)) => {
                    sections.insert(name.to_owned(), part.into());
                    sections.insert(conf, options.into());
                }
                Some(_) => return Err(Error::unsupported(path, format!("`{name}` is not one class"))),
                None => {}
            }
        }
        // FunASR builds the model from model_conf overlaid with everything at the top level.
        let ignored = overlay(&mut model_conf, yaml, class);
        check_supported(&Map::from_iter([("model_conf".to_owned(), model_conf.clone().into())]))
            .map_err(|cause| Error::unsupported(path, cause))?;
        sections.insert("model_conf".to_owned(), model_conf.into());
        drop_training_options(&mut sections, class);
        Ok(Self { class, sections, ignored })
    }

    /// A string of the configuration, such as `("tokenizer_conf", "unk_symbol")`.
    pub(crate) fn text(&self, section: &str, key: &str) -> Option<&str> {
        self.sections.get(section)?.get(key)?.as_str()
    }

    /// Whether the tokens are the pieces of a sentencepiece model.
    pub(crate) fn has_pieces(&self) -> bool {
        self.sections.get("tokenizer").is_some_and(|class| class == "SentencepiecesTokenizer")
    }

    /// Width of the stacked features, `n_mels * lfr_m`, with FunASR's defaults.
    pub(crate) fn feature_size(&self) -> Option<u64> {
        let number =
            |key, default| self.sections.get("frontend_conf")?.get(key).map_or(Some(default), Value::as_u64);
        number("n_mels", 80)?.checked_mul(number("lfr_m", 1)?)
    }
}

fn take_options(yaml: &mut Map<String, Value>, name: &str, path: &Path) -> Result<Map<String, Value>> {
    match yaml.remove(name) {
        Some(Value::Object(options)) => Ok(options),
        None => Ok(Map::new()),
        Some(_) => Err(Error::config(path, format!("`{name}` is not a mapping"))),
    }
}

/// Moves the top-level keys that are options of the model into `model_conf`; returns the unknown ones.
fn overlay(model_conf: &mut Map<String, Value>, yaml: Map<String, Value>, class: &Class) -> Vec<String> {
    let mut ignored = Vec::new();
    for (key, value) in yaml {
        if TRAINING_SECTIONS.contains(&key.as_str()) {
            continue;
        }
        if model_conf.contains_key(&key) || class.options.contains(&key.as_str()) {
            model_conf.insert(key, value);
        } else if !is_training_option("model_conf", &key) {
            ignored.push(key);
        }
    }
    ignored.sort();
    ignored
}

fn drop_training_options(sections: &mut Map<String, Value>, class: &Class) {
    for (name, section) in sections.iter_mut() {
        if let Value::Object(options) = section {
            let dropped = |key: &str| {
                is_training_option(name, key) || (name == "model_conf" && class.unread_options.contains(&key))
            };
            options.retain(|key, _| !dropped(key));
        }
    }
}

fn is_training_option(section: &str, key: &str) -> bool {
    TRAINING_OPTIONS.iter().any(|(name, keys)| *name == section && keys.contains(&key))
}

fn check_supported(yaml: &Map<String, Value>) -> std::result::Result<(), String> {
    let input_layer = yaml.get("encoder_conf").and_then(|options| options.get("input_layer"));
    if input_layer.is_none() && yaml.get("encoder").is_some_and(|encoder| encoder != FSMN) {
        return Err("encoder_conf.input_layer is missing, which means conv2d".to_owned());
    }
    for (section, key, supported) in SUPPORTED {
        let (value, name) = match section {
            "" => (yaml.get(key), key.to_owned()),
            _ => (yaml.get(section).and_then(|options| options.get(key)), format!("{section}.{key}")),
        };
        let Some(value) = value else { continue };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if !supported.contains(&value.as_str()) {
            return Err(format!("{name}: {value} (only {})", supported.join(" or ")));
        }
    }
    Ok(())
}
