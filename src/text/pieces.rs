//! SentencePiece tokens to text (`SentencePieceProcessor::Decode`; FunASR `tokenizer/sentencepiece_tokenizer.py`).

use serde::Deserialize;

/// Begins a piece that starts a word, and stands for a space: U+2581.
pub(super) const SPACE: char = '▁';
/// The piece of every text that the model cannot write.
const UNKNOWN: &str = "<unk>";

/// How the pieces of a vocabulary become text. The names are those of the settings of a sentencepiece model, from which
/// the converter copies them to `tokenizer_conf.sentencepiece`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PieceRules {
    /// Pieces without text.
    pub control_symbols: Vec<String>,
    /// Text of `<unk>`.
    pub unk_surface: String,
    /// A space was put before the text, and is taken away again.
    pub add_dummy_prefix: bool,
    /// Spaces at the start of the text are dropped.
    pub remove_extra_whitespaces: bool,
}

impl Default for PieceRules {
    fn default() -> Self {
        Self {
            control_symbols: vec!["<s>".to_owned(), "</s>".to_owned()],
            unk_surface: " ⁇ ".to_owned(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
        }
    }
}

impl PieceRules {
    /// The text of `pieces`: `▁` is a space, bytes such as `<0xE4>` are joined to UTF-8, with U+FFFD for each that belongs
    /// to no character, and tags such as `<|zh|>` stay.
    pub fn decode<'a>(&self, pieces: impl IntoIterator<Item = &'a str>) -> String {
        let mut text = String::new();
        let mut bytes: Vec<u8> = Vec::new();
        let mut at_start = true;
        for piece in pieces {
            if let Some(byte) = byte(piece) {
                bytes.push(byte);
                continue;
            }
            push_bytes(&mut text, &mut bytes);
            at_start &= text.is_empty();
            if piece == UNKNOWN {
                text.push_str(&self.unk_surface);
            } else if !self.control_symbols.iter().any(|symbol| symbol == piece) {
                let bare = piece.strip_prefix(SPACE).filter(|_| at_start && self.drops_first_space());
                // A lone dummy prefix is dropped once, extra spaces as often as they come.
                at_start &= bare.is_none() || self.remove_extra_whitespaces;
                text.extend(bare.unwrap_or(piece).chars().map(|c| if c == SPACE { ' ' } else { c }));
            }
        }
        push_bytes(&mut text, &mut bytes);
        text
    }

    fn drops_first_space(&self) -> bool {
        self.add_dummy_prefix || self.remove_extra_whitespaces
    }
}

/// The byte that a piece `<0x00>` to `<0xFF>` stands for.
pub(super) fn byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)
}

/// Moves collected bytes to the text. Every byte of a broken character is one U+FFFD, where
/// [`String::from_utf8_lossy`] has one for several.
fn push_bytes(text: &mut String, bytes: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    bytes.clear();
}
