//! What a recording is, by its first bytes: which reader takes it, and what an error message calls it.

use std::io::Read;

use super::wav;

/// How many bytes are looked at: a wav header with its usual extra chunks, or a whole first ogg page.
const HEAD_BYTES: u64 = 4096;

/// Which reader a recording needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No bytes at all.
    Empty,
    /// Text, such as a renamed document or the error page of a download.
    Text,
    /// A wav file of plain samples, read by [`wav`].
    PcmWav,
    /// A container that is decoded front to back without seeking.
    Streamable,
    /// Anything else, with a name for messages.
    Other(&'static str),
}

impl Kind {
    pub(super) fn of(head: &[u8]) -> Self {
        if head.is_empty() {
            Self::Empty
        } else if wav::is_pcm(head) {
            Self::PcmWav
        } else if is_streamable(head) {
            Self::Streamable
        } else if let Some(name) = container_name(head) {
            Self::Other(name)
        } else if is_text(head) {
            Self::Text
        } else {
            Self::Other("file of unknown format")
        }
    }
}

/// Reads up to [`HEAD_BYTES`] from the start of a stream.
pub(super) fn read_head(reader: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

fn is_streamable(head: &[u8]) -> bool {
    // ogg also holds codecs (speex, video) that only ffmpeg reads, and ffmpeg needs a file.
    let plain_ogg = || [&b"OpusHead"[..], b"\x01vorbis", b"\x7fFLAC"].iter().any(|id| contains(head, id));
    match head {
        [b'I', b'D', b'3', ..] | [b'f', b'L', b'a', b'C', ..] => true,
        // The 11 sync bits shared by mp1, mp2, mp3 and adts aac.
        [0xff, second, ..] => second & 0xe0 == 0xe0,
        [b'O', b'g', b'g', b'S', ..] => plain_ogg(),
        _ => false,
    }
}

fn container_name(head: &[u8]) -> Option<&'static str> {
    const AT_START: [(&[u8], &str); 13] = [
        (b"\x1a\x45\xdf\xa3", "Matroska or WebM file"),
        (b"\x30\x26\xb2\x75", "Windows Media file"),
        (b"#!AMR", "AMR file"),
        (b"FLV", "Flash video"),
        (b".RMF", "RealMedia file"),
        (b"wvPk", "WavPack file"),
        (b"MAC ", "Monkey's Audio file"),
        (b"FORM", "AIFF file"),
        (b"caff", "CAF file"),
        (b"OggS", "Ogg file"),
        (b".snd", "AU file"),
        (b"\x0b\x77", "AC-3 file"),
        (b"\0\0\x01\xba", "MPEG program stream"),
    ];
    if head.get(4..8) == Some(b"ftyp") {
        return Some("MP4 file");
    }
    if head.starts_with(b"RIFF") || head.starts_with(b"RF64") {
        return Some(if head.get(8..12) == Some(b"AVI ") { "AVI file" } else { "wav file" });
    }
    AT_START.iter().find(|(magic, _)| head.starts_with(magic)).map(|&(_, name)| name)
}

fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character cut by the end of the head is no flaw.
        Err(e) => e.error_len().is_none() && e.valid_up_to() > 0,
    };
    valid && !head.iter().any(|&b| b < b' ' && !b"\t\n\r\x0c".contains(&b))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
