//! Models compiled into the program (feature `embedded-models`).

/// A converted model inside the binary. The weights are not aligned for any element type.
#[derive(Debug)]
pub struct Embedded {
    /// Name it answers to.
    pub name: &'static str,
    /// What it is, in a line.
    pub description: &'static str,
    /// Text of `config.json`.
    pub config: &'static str,
    /// Bytes of `model.safetensors`.
    pub weights: &'static [u8],
    /// Text of `tokens.json`; empty for a model without tokens.
    pub tokens: &'static str,
    /// Bytes of a safetensors file: the stages that FunASR gives for [`SelftestInput`].
    pub selftest: &'static [u8],
}

/// What models are tested on.
#[derive(Debug)]
pub struct SelftestInput {
    /// A FLAC file: 1.5 s of speech at 16 kHz.
    pub speech: &'static [u8],
    /// A text without punctuation.
    pub text: &'static str,
}

/// One entry is `"demo": "what it is" with "tokens.json"`, without the last part for a model without tokens; the files
/// are `models/<name>/{config.json,model.safetensors}`, the named token list and `models/selftest/<name>.safetensors`.
#[cfg(feature = "embedded-models")]
macro_rules! embedded {
    ($($name:literal: $description:literal $(with $tokens:literal)?),* $(,)?) => {
        &[$(Embedded {
            name: $name,
            description: $description,
            config: include_str!(concat!("../../models/", $name, "/config.json")),
            weights: include_bytes!(concat!("../../models/", $name, "/model.safetensors")),
            tokens: concat!($(include_str!(concat!("../../models/", $name, "/", $tokens)))?),
            selftest: include_bytes!(concat!("../../models/selftest/", $name, ".safetensors")),
        }),*]
    };
}

#[cfg(feature = "embedded-models")]
const EMBEDDED: &[Embedded] = embedded![
    "demo": "Demonstration Paraformer: synthetic Mandarin, closed vocabulary" with "tokens.json",
    "demo-online": "Demonstration streaming Paraformer: as `demo`" with "tokens.json",
    "demo-punc": "Demonstration punctuation for the texts of `demo`" with "tokens.json",
    "demo-punc-realtime": "Demonstration punctuation while a text goes on, for the texts of `demo`" with "tokens.json",
    "demo-sensevoice": "Demonstration SenseVoice: as `demo`, with language, emotion and event" with "tokens.json",
    "fsmn-vad": "Voice activity detection, the published FunASR weights",
];
#[cfg(not(feature = "embedded-models"))]
const EMBEDDED: &[Embedded] = &[];

#[cfg(feature = "embedded-models")]
const SELFTEST_INPUT: Option<SelftestInput> = Some(SelftestInput {
    speech: include_bytes!("../../models/selftest/speech.flac"),
    text: include_str!("../../models/selftest/text.txt"),
});
#[cfg(not(feature = "embedded-models"))]
const SELFTEST_INPUT: Option<SelftestInput> = None;

/// Every embedded model of this build.
pub fn embedded_models() -> &'static [Embedded] {
    EMBEDDED
}

/// The input that the recordings of the embedded models were made of; without embedded models none.
pub fn selftest_input() -> Option<SelftestInput> {
    SELFTEST_INPUT
}

/// The embedded model of that exact name.
pub fn embedded(name: &str) -> Option<&'static Embedded> {
    EMBEDDED.iter().find(|model| model.name == name)
}
