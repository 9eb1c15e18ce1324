//! Which files count, what goes into `config.json`, and what is refused.

use std::fs;

use funasr_convert::{ConvertOptions, Dtype, is_funasr_dir};
use safetensors::SafeTensors;
use serde_json::json;

use crate::{BARE, Case, fixture, tensors};

/// A Paraformer that fits the tensors of the fixture `heads`: four tokens, features of 2 * 1.
const PARAFORMER: &str = r#"
model: Paraformer
model_conf:
    ctc_weight: 0.0
    lsm_weight: 0.1     # a comment
    predictor_bias: 1
    sos: 1
encoder: SANMEncoder
encoder_conf:
    output_size: 4
    dropout_rate: 1e-1
    input_layer: pe
    normalize_before: yes
    new_option: 1e-4
decoder: ParaformerSANMDecoder
decoder_conf: {attention_heads: 2, src_attention_dropout_rate: .1, kernel_size: 0xB}
predictor: CifPredictorV2
predictor_conf:
    tail_threshold: 0.45
    dropout: 0.1
frontend: WavFrontend
frontend_conf:
    n_mels: 2
    dither: 0.0
    cmvn_file: null
tokenizer: CharTokenizer
tokenizer_conf:
    unk_symbol: <unk>
eos: 3
specaug: SpecAugLFR
specaug_conf: {apply_time_warp: false}
train_conf:
    max_epoch: .inf
normalize: null
mystery: 1
"#;
const TOKENS: &str = "<blank>\n<s>\n</s>\n<unk>\n";
const CMVN: &str =
    "<AddShift> 2 2\n<LearnRateCoef> 0 [ -8.5 1 ]\n\n<Rescale> 2 2\n<LearnRateCoef> 0 [ 0.5 .25 ]\n";

fn paraformer() -> Case {
    Case::new(PARAFORMER, &fixture("heads"))
        .file("tokens.txt", TOKENS.as_bytes())
        .file("am.mvn", CMVN.as_bytes())
}

#[test]
fn config_holds_what_inference_reads() {
    let case = paraformer().file("seg_dict", "你 你\n".as_bytes());
    let options = ConvertOptions {
        origin: Some("hub/model@1".to_owned()),
        licence: Some("MIT".to_owned()),
        ..Default::default()
    };
    let report = case.convert(&options).unwrap();
    let mut config = case.config();
    let origin = config["origin"].take();
    let expected = json!({
        "format_version": 1,
        "model": "Paraformer",
        "model_conf": { "sos": 1, "eos": 3 },
        "encoder": "SANMEncoder",
        "encoder_conf": { "output_size": 4, "input_layer": "pe", "normalize_before": true, "new_option": 1e-4 },
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": { "attention_heads": 2, "kernel_size": 11 },
        "predictor": "CifPredictorV2",
        "predictor_conf": { "tail_threshold": 0.45 },
        "frontend": "WavFrontend",
        "frontend_conf": { "n_mels": 2 },
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": { "unk_symbol": "<unk>" },
        "vocab_size": 4,
        "files": { "tokens": "tokens.json", "seg_dict": "seg_dict" },
        "origin": null,
    });
    assert_eq!(config, expected);
    assert_eq!((origin["source"].as_str(), origin["licence"].as_str()), (Some("hub/model@1"), Some("MIT")));
    let files: Vec<_> = origin["sha256"].as_object().unwrap().keys().collect();
    assert_eq!(files, ["am.mvn", "config.yaml", "model.pt", "seg_dict", "tokens.txt"]);
    assert_eq!(report.ignored, ["mystery"]);
    let skipped: Vec<_> = report.skipped.iter().map(|skipped| skipped.name.as_str()).collect();
    assert_eq!(skipped, ["ctc.ctc_lo.weight", "decoder.embed.0.weight"]);
    let tokens: Vec<String> = serde_json::from_slice(&case.read("tokens.json")).unwrap();
    assert_eq!(tokens, ["<blank>", "<s>", "</s>", "<unk>"]);
    assert_eq!(case.read("seg_dict"), "你 你\n".as_bytes());
    let size: u64 =
        fs::read_dir(case.target()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(report.bytes_written, size);
}

#[test]
fn a_timestamp_head_keeps_its_options() {
    let predictor = "predictor: CifPredictorV3
predictor_conf: {idim: 4, dropout: 0.1, tail_threshold: 0.45, tf2torch_tensor_name_prefix_tf: seq2seq/cif,
    smooth_factor2: 0.25, noise_threshold2: 0.01, upsample_times: 3, use_cif1_cnn: false, upsample_type: cnn_blstm}
";
    let (start, end) = (PARAFORMER.find("predictor: ").unwrap(), PARAFORMER.find("frontend: ").unwrap());
    let config = format!("{}{predictor}{}", &PARAFORMER[..start], &PARAFORMER[end..]);
    let config = config.replace("model: Paraformer", "model: BiCifParaformer");
    let case = paraformer().file("config.yaml", config.as_bytes());
    case.converted();
    let config = case.config();
    assert_eq!(
        (&config["model"], &config["predictor"]),
        (&json!("BiCifParaformer"), &json!("CifPredictorV3"))
    );
    let expected = json!({
        "idim": 4,
        "tail_threshold": 0.45,
        "smooth_factor2": 0.25,
        "noise_threshold2": 0.01,
        "upsample_times": 3,
        "use_cif1_cnn": false,
        "upsample_type": "cnn_blstm",
    });
    assert_eq!(config["predictor_conf"], expected);
}

#[test]
fn the_chunks_of_training_are_left_out() {
    let chunks = "    chunk_size: [12, 15]\n    stride: [8, 10]\n    pad_left: [0, 0]\n    \
                  encoder_att_look_back_factor: [4, 4]\n    decoder_att_look_back_factor: [1, 1]\n";
    let config = PARAFORMER
        .replace("model: Paraformer\n", "model: ParaformerStreaming\n")
        .replace("encoder: SANMEncoder\n", "encoder: SANMEncoderChunkOpt\n")
        .replace("    input_layer: pe\n", &format!("    input_layer: pe_online\n{chunks}"));
    let case = paraformer().file("config.yaml", config.as_bytes());
    case.converted();
    let options = &case.config()["encoder_conf"];
    let expected =
        json!({ "output_size": 4, "input_layer": "pe_online", "normalize_before": true, "new_option": 1e-4 });
    assert_eq!((options, &case.config()["model"]), (&expected, &json!("ParaformerStreaming")));
}

#[test]
fn pieces_of_a_sentencepiece_model_are_the_tokens() {
    let config = "model: SenseVoiceSmall\nencoder: SenseVoiceEncoderSmall\nencoder_conf: {input_layer: pe}\n\
                  tokenizer: SentencepiecesTokenizer\ntokenizer_conf: {bpemodel: null}\n";
    // <unk> of type 2, "é"; the dummy prefix off.
    let model = b"\x0a\x09\x0a\x05<unk>\x18\x02\x0a\x04\x0a\x02\xc3\xa9\x1a\x02\x18\0";
    let case = Case::new(config, &fixture("heads"))
        .file("bpe.model", model)
        .file("tokens.json", br#"["left", "unread"]"#);
    case.convert(&ConvertOptions::default()).unwrap();
    let tokens: Vec<String> = serde_json::from_slice(&case.read("tokens.json")).unwrap();
    assert_eq!(tokens, ["<unk>", "é"]);
    let config = case.config();
    assert_eq!(config["vocab_size"], 2);
    assert_eq!(config["files"], json!({ "tokens": "tokens.json", "bpe_model": "bpe.model" }));
    let rules = json!({
        "control_symbols": [],
        "unk_surface": " ⁇ ",
        "add_dummy_prefix": false,
        "remove_extra_whitespaces": true,
    });
    assert_eq!(config["tokenizer_conf"], json!({ "sentencepiece": rules }));
    assert_eq!(case.read("bpe.model"), model);
}

#[test]
fn hotword_models_keep_their_options_embedding_and_dictionary() {
    let seaco = "
seaco_decoder: ParaformerSANMDecoder
seaco_decoder_conf: {attention_heads: 4, linear_units: 1024, num_blocks: 4, dropout_rate: 0.1, kernel_size: 21,
    sanm_shfit: 0, use_output_layer: false, wo_input_layer: true}
";
    let seaco_conf = "{inner_dim: 4, bias_encoder_type: lstm, bias_encoder_bid: false, seaco_lsm_weight: 0.1,
    seaco_length_normal: true, train_decoder: false, NO_BIAS: 2, ctc_weight: 0.0}";
    let contextual_conf = "{inner_dim: 4, sampling_ratio: 0.75, crit_attn_weight: 0.0}";
    let cases = [
        (
            ("SeacoParaformer", seaco_conf, seaco),
            json!({"inner_dim": 4, "bias_encoder_type": "lstm", "bias_encoder_bid": false, "NO_BIAS": 2}),
            json!({"attention_heads": 4, "linear_units": 1024, "num_blocks": 4, "kernel_size": 21,
                "sanm_shfit": 0, "use_output_layer": false, "wo_input_layer": true}),
        ),
        (("ContextualParaformer", contextual_conf, ""), json!({"inner_dim": 4}), json!(null)),
    ];
    let rest = PARAFORMER[PARAFORMER.find("encoder: ").unwrap()..].replace("eos: 3\n", "");
    for ((class, model_conf, more), options, second_decoder) in cases {
        let config = format!("model: {class}\nmodel_conf: {model_conf}\n{rest}{more}");
        let metas = r#"{"file_path_metas": {"init_param": "model.pt", "config": "config.yaml",
            "tokenizer_conf": {"token_list": "tokens.txt", "seg_dict_file": "seg_dict"}}}"#;
        let case = paraformer()
            .file("config.yaml", config.as_bytes())
            .file("configuration.json", metas.as_bytes())
            .file("seg_dict", "你 你\n".as_bytes());
        let report = case.converted();
        // The CTC head goes, the embedding of the hotwords stays.
        assert_eq!(report.skipped.len(), 1, "{:?}", report.skipped);
        assert!(tensors(&case.read("model.safetensors")).contains_key("decoder.embed.0.weight"));
        let config = case.config();
        assert_eq!(config["model"], class);
        assert_eq!(config["model_conf"], options);
        assert_eq!(config["seaco_decoder_conf"], second_decoder);
        assert_eq!(config["files"], json!({"tokens": "tokens.json", "seg_dict": "seg_dict"}));
    }
}

#[test]
fn weights_carry_normalisation_and_origin() {
    let case = paraformer();
    let options = ConvertOptions { dtype: Dtype::F16, licence: Some("MIT".to_owned()), ..Default::default() };
    case.convert(&options).unwrap();
    let file = case.read("model.safetensors");
    let tensors = tensors(&file);
    assert_eq!(tensors["frontend.cmvn_shift"], ("F32".into(), vec![2], vec![-8.5, 1.0]));
    assert_eq!(tensors["frontend.cmvn_scale"], ("F32".into(), vec![2], vec![0.5, 0.25]));
    assert_eq!(tensors["a"].0, "F16");
    let (_, header) = SafeTensors::read_metadata(&file).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    for (key, value) in [
        ("format", "funasr-candle"),
        ("format_version", "1"),
        ("model", "Paraformer"),
        ("licence", "MIT"),
        ("dtype", "f16"),
    ] {
        assert_eq!(metadata[key], value);
    }
    assert_eq!(metadata["sha256.model.pt"], case.config()["origin"]["sha256"]["model.pt"]);
    assert!(!metadata.contains_key("origin"));
}

#[test]
fn the_same_input_gives_the_same_bytes_and_replaces_an_older_conversion() {
    let (first, second) = (paraformer(), paraformer());
    first.converted();
    second.convert(&ConvertOptions { dtype: Dtype::BF16, ..Default::default() }).unwrap();
    second.converted();
    for name in ["config.json", "model.safetensors", "tokens.json"] {
        assert_eq!(first.read(name), second.read(name), "{name}");
    }
    assert_eq!(fs::read_dir(second.target()).unwrap().count(), 3);
}

#[test]
fn configuration_json_names_the_files() {
    let metas = |tokens: &str| {
        format!(
            r#"{{"file_path_metas": {{"init_param": "weights.pb", "config": "c.yaml",
                "tokenizer_conf": {{"token_list": "{tokens}", "seg_dict_file": "absent"}}}}}}"#
        )
    };
    let case = |tokens: &str| {
        Case::new("not: used", b"not used")
            .file("c.yaml", PARAFORMER.as_bytes())
            .file("weights.pb", &fixture("heads"))
            .file("list.txt", TOKENS.as_bytes())
            .file("am.mvn", b"not used: configuration.json does not name it")
            .file("configuration.json", metas(tokens).as_bytes())
    };
    let good = case("list.txt");
    assert!(is_funasr_dir(&good.source()));
    good.converted();
    assert!(!tensors(&good.read("model.safetensors")).contains_key("frontend.cmvn_shift"));
    assert_eq!(good.config()["files"], json!({ "tokens": "tokens.json" }));
    for (tokens, cause) in [
        ("absent.json", "absent.json: named by the configuration, but not there"),
        ("../list.txt", "\"../list.txt\", outside the directory"),
        ("/etc/hostname", "\"/etc/hostname\", outside the directory"),
    ] {
        let message = case(tokens).refusal();
        assert!(message.contains(cause), "{message}");
    }
    // Without file_path_metas the usual names count.
    paraformer().file("configuration.json", br#"{"task": "auto-speech-recognition"}"#).converted();
}

#[test]
fn a_directory_is_a_model_only_with_config_and_checkpoint() {
    let case = Case::new(BARE, b"");
    assert!(is_funasr_dir(&case.source()));
    fs::rename(case.source().join("model.pt"), case.source().join("model.pb")).unwrap();
    assert!(is_funasr_dir(&case.source()));
    fs::remove_file(case.source().join("model.pb")).unwrap();
    assert!(!is_funasr_dir(&case.source()));
    assert!(case.refusal().ends_with("not a FunASR model directory: no model.pt or model.pb"));
    assert!(!case.target().exists(), "a directory for nothing");
    assert!(!is_funasr_dir(&case.source().join("absent")));
}

#[test]
fn unsupported_options_and_faulty_files_are_refused() {
    let changed = |from: &str, to: &str| {
        assert!(PARAFORMER.contains(from), "{from}");
        PARAFORMER.replace(from, to)
    };
    for (config, cause) in [
        (
            changed("model: Paraformer", "model: MonotonicAligner"),
            "unsupported: model class \"MonotonicAligner\" (known:",
        ),
        (changed("model: Paraformer", "mdl: Paraformer"), "no `model` class"),
        (
            changed("input_layer: pe", "input_layer: conv2d"),
            "encoder_conf.input_layer: conv2d (only pe or pe_online)",
        ),
        (changed("    input_layer: pe\n", ""), "encoder_conf.input_layer is missing, which means conv2d"),
        (changed("normalize_before: yes", "normalize_before: no"), "encoder_conf.normalize_before: false"),
        (changed("new_option: 1e-4", "lora_list: [q]"), "encoder_conf.lora_list: [\"q\"]"),
        (changed("new_option: 1e-4", "concat_after: true"), "encoder_conf.concat_after: true"),
        (changed("new_option: 1e-4", "positionwise_layer_type: conv1d"), "positionwise_layer_type: conv1d"),
        (changed("dropout: 0.1", "upsample_type: cnn_attn"), "predictor_conf.upsample_type: cnn_attn"),
        (changed("sos: 1", "share_embedding: true"), "model_conf.share_embedding: true"),
        (changed("sos: 1", "bias_encoder_type: mean"), "model_conf.bias_encoder_type: mean"),
        (changed("normalize: null", "normalize: global_mvn"), "normalize: global_mvn"),
        (
            changed("tokenizer: CharTokenizer", "tokenizer: HuggingfaceTokenizer"),
            "tokenizer: HuggingfaceTokenizer (only CharTokenizer or SentencepiecesTokenizer)",
        ),
        (changed("frontend: WavFrontend", "frontend: [A, B]"), "`frontend` is not one class"),
        (changed("predictor_conf:\n", "predictor_conf: 3\nx:\n"), "`predictor_conf` is not a mapping"),
        (changed("sos: 1", "sos: 1\n    sos: 2"), "duplicate"),
        (changed("sos: 1", "sos: ["), "config.yaml: "),
        ("- a\n".to_owned(), "not a YAML mapping"),
        ("a: &a [*a]\n".to_owned(), "config.yaml: "),
    ] {
        let message = paraformer().file("config.yaml", config.as_bytes()).refusal();
        assert!(message.contains(cause), "{message} for {cause}");
    }
    for (file, content, cause) in [
        (
            "am.mvn",
            "<AddShift> 1 1\n<LearnRateCoef> 0 [ 1 ]\n<Rescale> 1 1\n<LearnRateCoef> 0 [ 1 ]\n",
            "1 values, but frontend_conf makes features of 2",
        ),
        ("am.mvn", "", "am.mvn: no <AddShift>"),
        (
            "tokens.txt",
            "<unk>\n",
            "tokens.txt: 1 tokens, but tensor `decoder.output_layer.weight` has 4 rows",
        ),
        ("tokens.txt", "a\n", "no \"<unk>\" among the 1 tokens"),
        ("tokens.json", "{}", "tokens.json: "),
        ("bpe.model", "text", "bpe.model: not a sentencepiece model"),
        ("configuration.json", "{", "configuration.json: "),
    ] {
        let message = paraformer().file(file, content.as_bytes()).refusal();
        assert!(message.contains(cause), "{message} for {cause}");
    }
    let message = Case::new(PARAFORMER, &fixture("heads")).refusal();
    assert!(
        message.ends_with("the model has no token list (tokens.json, tokens.txt, bpe.model)"),
        "{message}"
    );
    let message = Case::new(PARAFORMER, &fixture("plain")).file("tokens.txt", TOKENS.as_bytes()).refusal();
    assert!(
        message.ends_with("tensor `decoder.output_layer.weight`: missing from the checkpoint"),
        "{message}"
    );
}

#[test]
fn source_and_destination_must_differ() {
    let case = paraformer();
    let error = funasr_convert::convert(&case.source(), &case.source(), &Default::default()).unwrap_err();
    assert!(error.to_string().ends_with("the destination is the source directory"));
}
