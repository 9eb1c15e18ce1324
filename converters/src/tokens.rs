//! Token lists: `tokens.json`, `tokens.txt`, and the piece count of a sentencepiece model.

use std::{collections::HashSet, path::Path};

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
    let mut seen = HashSet::new();
    if let Some(twice) = tokens.iter().find(|token| !seen.insert(token.as_str())) {
        return Err(Error::asset(path, format!("token {twice:?} comes twice")));
    }
    if !seen.contains(unknown) {
        return Err(Error::asset(path, format!("no {unknown:?} among the {} tokens", tokens.len())));
    }
    Ok(tokens)
}

/// Counts the pieces of a sentencepiece model: field 1 of its `ModelProto` message, once per piece.
///
/// # Errors
/// A file that is no protocol buffer, or has no pieces.
pub(crate) fn count_pieces(path: &Path) -> Result<usize> {
    let bytes = read(path)?;
    let pieces = pieces(&bytes).filter(|count| *count > 0);
    pieces.ok_or_else(|| Error::asset(path, "not a sentencepiece model, or a truncated one"))
}

fn pieces(mut bytes: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let skip = match tag & 7 {
            0 => varint(&mut bytes).map(|_| 0)?,
            1 => 8,
            2 => varint(&mut bytes)?,
            5 => 4,
            _ => return None,
        };
        bytes = bytes.get(usize::try_from(skip).ok()?..)?;
        count += usize::from(tag == (1 << 3 | 2));
    }
    Some(count)
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
    use super::{pieces, read_tokens};

    #[test]
    fn counts_pieces_among_other_fields() {
        let model = [0x0a, 2, 9, 9, 0x12, 1, 0, 0x0a, 0, 0x18, 0x96, 0x01, 0x25, 0, 0, 0, 0];
        assert_eq!(pieces(&model), Some(2));
        for cut in [1, 3, 6, 11, 14] {
            assert_eq!(pieces(&model[..cut]), None, "cut at {cut}");
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
