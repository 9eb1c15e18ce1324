//! Token lists: `tokens.json`, `tokens.txt`, and the pieces of a sentencepiece model.

use std::{collections::HashSet, path::Path};

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    source::{read, read_text},
};

/// Reads a token list; the index of a token is its id. A `.json` file is a list of strings, any other has one token a
/// line, trailing white space dropped (`funasr/tokenizer/abs_tokenizer.py`).
///
/// # Errors
/// A file that is no such list, a token that comes twice, or no `unknown` token.
pub(crate) fn read_tokens(path: &Path, unknown: &str) -> Result<Vec<String>> {
    let tokens: Vec<String> = if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_slice(&read(path)?).map_err(|cause| Error::asset(path, cause))?
    } else {
        read_text(path)?.lines().map(|line| line.trim_end().to_owned()).collect()
    };
    check_tokens(&tokens, unknown).map_err(|cause| Error::asset(path, cause))?;
    Ok(tokens)
}

fn check_tokens(tokens: &[String], unknown: &str) -> std::result::Result<(), String> {
    let mut seen = HashSet::new();
    if let Some(twice) = tokens.iter().find(|token| !seen.insert(token.as_str())) {
        return Err(format!("token {twice:?} comes twice"));
    }
    if !seen.contains(unknown) {
        return Err(format!("no {unknown:?} among the {} tokens", tokens.len()));
    }
    Ok(())
}

/// A sentencepiece model, as far as turning ids into text needs it.
#[derive(Debug, PartialEq)]
pub(crate) struct SentencePiece {
    /// Pieces by id.
    pub(crate) pieces: Vec<String>,
    /// How pieces become text, under the names of the model's own settings.
    pub(crate) rules: Value,
}

/// Reads a sentencepiece model, a `ModelProto` message (`sentencepiece_model.proto`).
///
/// # Errors
/// A file that is no such message, has no pieces or one whose name hides what it is, or changes the joined text.
pub(crate) fn read_sentencepiece(path: &Path) -> Result<SentencePiece> {
    sentencepiece(&read(path)?).map_err(|cause| Error::asset(path, cause))
}

const BROKEN: &str = "not a sentencepiece model, or a truncated one";

fn sentencepiece(bytes: &[u8]) -> std::result::Result<SentencePiece, String> {
    let (mut pieces, mut control_symbols) = (Vec::new(), Vec::new());
    let (mut unk_surface, mut add_dummy_prefix, mut remove_extra_whitespaces) =
        (" ⁇ ".to_owned(), true, true);
    for field in fields(bytes) {
        let (number, Field::Bytes(message)) = field? else { continue };
        match number {
            1 => {
                let (piece, kind) = piece(message)?;
                if kind == CONTROL {
                    control_symbols.push(piece.clone());
                }
                pieces.push(piece);
            }
            // Trainer, normaliser, self-test, denormaliser.
            2..=5 => {
                for option in fields(message) {
                    match (number, option?) {
                        (2, (44, Field::Bytes(surface))) => unk_surface = text(surface)?,
                        (3, (3, Field::Number(on))) => add_dummy_prefix = on != 0,
                        (3, (4, Field::Number(on))) => remove_extra_whitespaces = on != 0,
                        (5, (2, Field::Bytes([_, ..]))) => {
                            return Err("has a denormaliser, which is not supported".to_owned());
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if pieces.is_empty() {
        return Err(BROKEN.to_owned());
    }
    check_tokens(&pieces, UNKNOWN_PIECE)?;
    let rules = json!({
        "control_symbols": control_symbols,
        "unk_surface": unk_surface,
        "add_dummy_prefix": add_dummy_prefix,
        "remove_extra_whitespaces": remove_extra_whitespaces,
    });
    Ok(SentencePiece { pieces, rules })
}

const UNKNOWN_PIECE: &str = "<unk>";

/// Types of pieces; the others are text as they stand.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const BYTE: u64 = 6;

/// Text and type of a piece. The engine knows bytes and the unknown piece by their names.
fn piece(message: &[u8]) -> std::result::Result<(String, u64), String> {
    let (mut piece, mut kind) = (String::new(), 1);
    for field in fields(message) {
        match field? {
            (1, Field::Bytes(content)) => piece = text(content)?,
            (3, Field::Number(number)) => kind = number,
            _ => {}
        }
    }
    let byte = piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>');
    if byte != (kind == BYTE) || (piece == UNKNOWN_PIECE) != (kind == UNKNOWN) {
        return Err(format!("piece {piece:?} is of type {kind}"));
    }
    Ok((piece, kind))
}

fn text(bytes: &[u8]) -> std::result::Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| BROKEN.to_owned())
}

/// A field of a protocol buffer; the numbers of fixed width are nothing we read.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of a message with their numbers; nothing follows an error.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = std::result::Result<(u64, Field<'_>), String>> {
    std::iter::from_fn(move || {
        (!bytes.is_empty()).then(|| field(&mut bytes).ok_or_else(|| BROKEN.to_owned()))
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(bytes)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(bytes)?),
        1 => take(bytes, 8).map(|_| Field::Fixed)?,
        2 => {
            let length = varint(bytes)?;
            Field::Bytes(take(bytes, length)?)
        }
        5 => take(bytes, 4).map(|_| Field::Fixed)?,
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{read_tokens, sentencepiece};

    #[test]
    fn reads_pieces_among_other_fields() {
        // <unk>, the control symbol <s>, "é" without a type; then an unknown field, and the dummy prefix off.
        let unknown = *b"\x0a\x09\x0a\x05<unk>\x18\x02";
        let control = *b"\x0a\x0c\x0a\x03<s>\x15\0\0\0\0\x18\x03";
        let rest = *b"\x0a\x04\x0a\x02\xc3\xa9\x18\x96\x01\x25\0\0\0\0\x1a\x02\x18\0";
        let model = [&unknown[..], &control, &rest].concat();
        let read = sentencepiece(&model).unwrap();
        assert_eq!(read.pieces, ["<unk>", "<s>", "é"]);
        let rules = json!({
            "control_symbols": ["<s>"],
            "unk_surface": " ⁇ ",
            "add_dummy_prefix": false,
            "remove_extra_whitespaces": true,
        });
        assert_eq!(read.rules, rules);
        for cut in [1, 3, 10, 20, 28, 35, 38] {
            assert!(sentencepiece(&model[..cut]).is_err(), "cut at {cut}");
        }
        let twice = [&model[..], &rest].concat();
        assert_eq!(sentencepiece(&twice).unwrap_err(), "token \"é\" comes twice");
        for piece in [&b"<0x41>\x18\x01"[..], b"<0xYY>", b"<unk>\x18\x03", b"a\x18\x06"] {
            // What follows the name is its type.
            let name = piece.iter().position(|&byte| byte == 0x18).unwrap_or(piece.len());
            let message = [&[0x0a, piece.len() as u8 + 2, 0x0a, name as u8], piece].concat();
            let error = sentencepiece(&message).unwrap_err();
            assert!(error.contains("is of type"), "{error} for {piece:?}");
        }
    }

    #[test]
    fn reads_both_forms_and_refuses_faults() {
        let directory = tempfile::tempdir().unwrap();
        let cases: [(&str, &str, Result<usize, &str>); 7] = [
            ("tokens.json", r#"["<blank>", "我", "<unk>"]"#, Ok(3)),
            ("tokens.txt", "<blank>\r\n我 \n<unk>\n", Ok(3)),
            ("tokens.txt", "<blank>\n\n我\n<unk>", Ok(4)),
            ("tokens.json", r#"["a", "a", "<unk>"]"#, Err("token \"a\" comes twice")),
            ("tokens.json", r#"["a"]"#, Err("no \"<unk>\" among the 1 tokens")),
            ("tokens.json", r#"["a", 1, "<unk>"]"#, Err("invalid type")),
            ("tokens.json", r#"["a", "<u"#, Err("EOF")),
        ];
        for (name, content, expected) in cases {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            match (read_tokens(&path, "<unk>"), expected) {
                (Ok(tokens), Ok(count)) => assert_eq!(tokens.len(), count),
                (Err(error), Err(cause)) => assert!(error.to_string().contains(cause), "{error}"),
                (got, _) => panic!("{content}: {got:?}"),
            }
        }
    }
}
