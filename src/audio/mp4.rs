//! Two facts about an MP4 file (ISO/IEC 14496-12) that symphonia does not use: where its first edit starts, without
//! which AAC is 20 to 50 ms late (8.6.6), and how long the file was before it was cut off.

use std::io::{self, Read, Seek, SeekFrom};

/// Atoms per level that are looked at. Real files have fewer; a hostile one costs no more than this.
const MAX_ATOMS: usize = 1024;

/// A stretch of the file: the body of an atom.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

/// Samples before the first edit of the first sound track, in units of the track's time scale, which for audio is its
/// sample rate. `None` where nothing says so.
pub(super) fn priming_samples(file: &mut (impl Read + Seek)) -> Option<u64> {
    let whole = Span { start: 0, end: claimed_length(file)? };
    let movie = child(file, whole, b"moov")?;
    let track =
        children(file, movie, b"trak").into_iter().find(|&track| is_sound(file, track).unwrap_or(false))?;
    let edits = child(file, track, b"edts")?;
    let list = child(file, edits, b"elst")?;
    first_media_time(file, list)
}

/// The length of the file, or where its sound data say that they end if that is later; `None` if it is no MP4 file.
pub(super) fn claimed_length(file: &mut (impl Read + Seek)) -> Option<u64> {
    let mut end = file.seek(SeekFrom::End(0)).ok()?;
    let mut position = 0;
    for _ in 0..MAX_ATOMS {
        let Some(atom) = atom_at(file, position) else { break };
        if position == 0 && &atom.name != b"ftyp" {
            return None;
        }
        position = position.saturating_add(atom.size.unwrap_or(0));
        if &atom.name == b"mdat" {
            end = end.max(position);
        }
        if atom.size.is_none() {
            break;
        }
    }
    (position > 0).then_some(end)
}

fn is_sound(file: &mut (impl Read + Seek), track: Span) -> Option<bool> {
    let media = child(file, track, b"mdia")?;
    let handler = child(file, media, b"hdlr")?;
    // Version and flags, a reserved word, then the handler type.
    let kind: [u8; 4] = read_at(file, handler.start + 8).ok()?;
    Some(&kind == b"soun")
}

/// The start of the first edit that plays media; edits at -1 are pauses.
fn first_media_time(file: &mut (impl Read + Seek), list: Span) -> Option<u64> {
    let [version, _, _, _, count @ ..]: [u8; 8] = read_at(file, list.start).ok()?;
    let entries = u64::from(u32::from_be_bytes(count)).min(MAX_ATOMS as u64);
    for entry in 0..entries {
        let time = if version == 0 {
            let bytes: [u8; 4] = read_at(file, list.start + 8 + entry * 12 + 4).ok()?;
            i64::from(i32::from_be_bytes(bytes))
        } else {
            i64::from_be_bytes(read_at(file, list.start + 8 + entry * 20 + 8).ok()?)
        };
        if time >= 0 {
            return Some(time as u64);
        }
    }
    None
}

fn child(file: &mut (impl Read + Seek), parent: Span, name: &[u8; 4]) -> Option<Span> {
    children(file, parent, name).first().copied()
}

/// The bodies of the atoms called `name` directly inside `parent`.
fn children(file: &mut (impl Read + Seek), parent: Span, name: &[u8; 4]) -> Vec<Span> {
    let mut found = Vec::new();
    let mut position = parent.start;
    for _ in 0..MAX_ATOMS {
        if position >= parent.end {
            break;
        }
        let Some(atom) = atom_at(file, position) else { break };
        let end = atom.size.map_or(parent.end, |size| position.saturating_add(size));
        if end > parent.end {
            break;
        }
        if &atom.name == name {
            found.push(Span { start: position + atom.header, end });
        }
        position = end;
    }
    found
}

struct Atom {
    name: [u8; 4],
    /// Bytes before the body.
    header: u64,
    /// Bytes with the header; `None` goes to the end of what it is in.
    size: Option<u64>,
}

fn atom_at(file: &mut (impl Read + Seek), position: u64) -> Option<Atom> {
    let [s0, s1, s2, s3, name @ ..]: [u8; 8] = read_at(file, position).ok()?;
    let (header, size) = match u32::from_be_bytes([s0, s1, s2, s3]) {
        0 => (8, None),
        1 => (16, Some(u64::from_be_bytes(read_at(file, position + 8).ok()?))),
        size => (8, Some(u64::from(size))),
    };
    // An atom shorter than its header would be met again and again.
    size.is_none_or(|size| size >= header).then_some(Atom { name, header, size })
}

fn read_at<const N: usize>(file: &mut (impl Read + Seek), position: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(position))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
