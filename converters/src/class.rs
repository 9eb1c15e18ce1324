//! The FunASR model classes that this engine knows, and what differs between them on the way in.

/// One model class of FunASR.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) name: &'static str,
    /// Tensors that inference never touches: prefix of the name, reason.
    pub(crate) training_tensors: &'static [(&'static str, &'static str)],
    /// The tensor whose first dimension is the number of tokens.
    pub(crate) vocabulary: Option<&'static str>,
    /// Options of the model that a configuration may also give at its top level.
    pub(crate) options: &'static [&'static str],
    /// Options of `model_conf` that this class stores and never reads.
    pub(crate) unread_options: &'static [&'static str],
}

const CTC: (&str, &str) = ("ctc.", "CTC head, an auxiliary loss in training");
const SAMPLER: (&str, &str) = ("decoder.embed.", "token embedding, read by the training sampler only");

const PARAFORMER: Class = Class {
    name: "Paraformer",
    training_tensors: &[CTC, SAMPLER],
    vocabulary: Some("decoder.output_layer.weight"),
    options: &["blank_id", "eos", "sos"],
    unread_options: &[],
};

const PUNCTUATION: Class = Class {
    name: "CTTransformer",
    training_tensors: &[],
    vocabulary: Some("embed.weight"),
    options: &["att_unit", "embed_unit", "punc_list", "sentence_end_id"],
    unread_options: &["eos", "sos"],
};

const CLASSES: [Class; 9] = [
    PARAFORMER,
    Class { name: "BiCifParaformer", ..PARAFORMER },
    Class { name: "ParaformerStreaming", ..PARAFORMER },
    Class {
        name: "SeacoParaformer",
        // Hotwords are embedded by `decoder.embed`.
        training_tensors: &[CTC],
        options: &["NO_BIAS", "bias_encoder_bid", "bias_encoder_type", "blank_id", "eos", "inner_dim", "sos"],
        ..PARAFORMER
    },
    Class {
        name: "ContextualParaformer",
        training_tensors: &[CTC],
        options: &["bias_encoder_type", "blank_id", "eos", "inner_dim", "sos", "use_decoder_embedding"],
        ..PARAFORMER
    },
    Class {
        name: "SenseVoiceSmall",
        training_tensors: &[],
        vocabulary: Some("ctc.ctc_lo.weight"),
        options: &["blank_id"],
        unread_options: &["eos", "sos"],
    },
    Class {
        name: "FsmnVADStreaming",
        training_tensors: &[],
        vocabulary: None,
        options: &[
            "decibel_thres",
            "detect_mode",
            "do_extend",
            "fe_prior_thres",
            "frame_in_ms",
            "frame_length_ms",
            "lookahead_time_end_point",
            "lookback_time_start_point",
            "max_end_silence_time",
            "max_single_segment_time",
            "max_start_silence_time",
            "noise_frame_num_used_for_snr",
            "sample_rate",
            "sil_pdf_ids",
            "sil_to_speech_time_thres",
            "snr_thres",
            "speech_2_noise_ratio",
            "speech_noise_thres",
            "speech_to_sil_time_thres",
            "window_size_ms",
        ],
        unread_options: &[],
    },
    PUNCTUATION,
    Class { name: "CTTransformerStreaming", ..PUNCTUATION },
];

impl Class {
    /// # Errors
    /// A class that this engine has no code for.
    pub(crate) fn find(name: &str) -> Result<&'static Self, String> {
        CLASSES.iter().find(|class| class.name == name).ok_or_else(|| {
            let known: Vec<_> = CLASSES.iter().map(|class| class.name).collect();
            format!("model class {name:?} (known: {})", known.join(", "))
        })
    }

    /// Why inference does not need this tensor, or `None` if it does.
    pub(crate) fn training_only(&self, tensor: &str) -> Option<&'static str> {
        self.training_tensors.iter().find(|(prefix, _)| tensor.starts_with(prefix)).map(|(_, reason)| *reason)
    }
}
