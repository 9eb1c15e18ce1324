//! Weighted transducers in OpenFST's binary files, types `vector` and `const` with `standard` (tropical) arcs.
//!
//! Read and written here and not with a library: a decoding graph has up to hundreds of millions of arcs, and the search
//! wants them in one array of 16 bytes each, as they stand in the file.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::ops::Range;
use std::path::Path;

use crate::{Error, Result};

/// First bytes of every OpenFST file, and of a symbol table inside one.
const MAGIC: i32 = 2_125_659_606;
const SYMBOL_MAGIC: i32 = 2_125_658_996;
/// Bits of a header's flags.
const HAS_INPUT_SYMBOLS: i32 = 1;
const HAS_OUTPUT_SYMBOLS: i32 = 2;
const IS_ALIGNED: i32 = 4;
/// Bytes that an aligned file rounds its tables up to.
const ALIGNMENT: u64 = 16;
/// Bytes of a state and of an arc in a file: of type `vector` a state is weight and count, of `const` five numbers.
const VECTOR_STATE: u64 = 12;
const CONST_STATE: u64 = 20;
const ARC: u64 = 16;
/// The header's properties of a mutable, expanded transducer of which nothing else is claimed.
const PROPERTIES: u64 = 3;
/// Longest string in a header or symbol table.
const MAX_STRING: i32 = 1 << 16;

/// The label that neither reads nor writes anything.
pub const EPSILON: u32 = 0;

/// One transition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arc {
    /// What it reads; of a decoding graph a token's id plus one.
    pub ilabel: u32,
    /// What it writes: a word.
    pub olabel: u32,
    /// Its cost.
    pub weight: f32,
    /// Where it leads.
    pub next: u32,
}

/// A transducer over costs (the tropical semiring): the best path has the least sum.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fst {
    start: u32,
    /// Cost of ending in each state, infinite if it is not final.
    finals: Vec<f32>,
    /// Where the arcs of each state end; they begin where those of the state before end.
    ends: Vec<u64>,
    arcs: Vec<Arc>,
}

impl Fst {
    /// A transducer whose states, in order, have these final costs and arcs.
    pub fn new(start: u32, states: impl IntoIterator<Item = (f32, Vec<Arc>)>) -> Self {
        let mut fst = Self { start, ..Self::default() };
        for (final_cost, arcs) in states {
            fst.arcs.extend(arcs);
            fst.close_state(final_cost);
        }
        fst
    }

    /// State at which paths begin.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// Number of states.
    pub fn states(&self) -> usize {
        self.finals.len()
    }

    /// All arcs, state after state.
    pub fn all_arcs(&self) -> &[Arc] {
        &self.arcs
    }

    /// Arcs that leave `state`.
    pub fn arcs(&self, state: u32) -> &[Arc] {
        &self.arcs[self.range(state as usize)]
    }

    /// Cost of ending in `state`, infinite if it is not final.
    pub fn final_cost(&self, state: u32) -> f32 {
        self.finals[state as usize]
    }

    fn range(&self, state: usize) -> Range<usize> {
        let begin = if state == 0 { 0 } else { self.ends[state - 1] };
        begin as usize..self.ends[state] as usize
    }

    fn close_state(&mut self, final_cost: f32) {
        self.finals.push(final_cost);
        self.ends.push(self.arcs.len() as u64);
    }

    /// Reads a file of OpenFST.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Config`] if it is no OpenFST file, of another type, truncated, or holds
    /// what a transducer cannot (labels below 0, arcs to nowhere, weights that are no numbers).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let mut source = Source { input: BufReader::with_capacity(1 << 16, file), at: 0, size };
        source.fst().map_err(|fault| match fault {
            Fault::Io(e) if e.kind() == ErrorKind::UnexpectedEof => {
                Error::config(path, format!("truncated: ends at byte {size}, within byte {}", source.at))
            }
            Fault::Io(e) => Error::io(path, e),
            Fault::Bad(message) => Error::config(path, message),
        })
    }

    /// Writes a file of OpenFST's type `vector`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let written = File::create(path).and_then(|file| {
            let mut out = BufWriter::new(file);
            self.write_to(&mut out)?;
            out.flush()
        });
        written.map_err(|e| Error::io(path, e))
    }

    fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(&MAGIC.to_le_bytes())?;
        for text in ["vector", "standard"] {
            out.write_all(&(text.len() as i32).to_le_bytes())?;
            out.write_all(text.as_bytes())?;
        }
        out.write_all(&2i32.to_le_bytes())?;
        out.write_all(&0i32.to_le_bytes())?;
        out.write_all(&PROPERTIES.to_le_bytes())?;
        for number in [i64::from(self.start), self.finals.len() as i64, self.arcs.len() as i64] {
            out.write_all(&number.to_le_bytes())?;
        }
        for state in 0..self.finals.len() {
            let arcs = &self.arcs[self.range(state)];
            out.write_all(&self.finals[state].to_le_bytes())?;
            out.write_all(&(arcs.len() as i64).to_le_bytes())?;
            for arc in arcs {
                out.write_all(&arc.ilabel.to_le_bytes())?;
                out.write_all(&arc.olabel.to_le_bytes())?;
                out.write_all(&arc.weight.to_le_bytes())?;
                out.write_all(&arc.next.to_le_bytes())?;
            }
        }
        Ok(())
    }
}

/// Why a file cannot be read.
enum Fault {
    Io(std::io::Error),
    Bad(String),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn bad<T>(message: impl ToString) -> std::result::Result<T, Fault> {
    Err(Fault::Bad(message.to_string()))
}

/// A file on the way in. Nothing is allocated for a count that the rest of the file could not hold.
struct Source {
    input: BufReader<File>,
    at: u64,
    size: u64,
}

impl Source {
    fn bytes<const N: usize>(&mut self) -> std::result::Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.at += N as u64;
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn i32(&mut self) -> std::result::Result<i32, Fault> {
        Ok(i32::from_le_bytes(self.bytes()?))
    }

    fn i64(&mut self) -> std::result::Result<i64, Fault> {
        Ok(i64::from_le_bytes(self.bytes()?))
    }

    fn f32(&mut self) -> std::result::Result<f32, Fault> {
        Ok(f32::from_le_bytes(self.bytes()?))
    }

    fn string(&mut self) -> std::result::Result<String, Fault> {
        let length = self.i32()?;
        if !(0..=MAX_STRING).contains(&length) {
            return bad(format!("not an OpenFST file: a string of {length} bytes at byte {}", self.at));
        }
        let mut bytes = vec![0; length as usize];
        self.at += bytes.len() as u64;
        self.input.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn rest(&self) -> u64 {
        self.size.saturating_sub(self.at)
    }

    fn fst(&mut self) -> std::result::Result<Fst, Fault> {
        if self.size < 4 || self.i32()? != MAGIC {
            return bad("not an OpenFST file");
        }
        let (kind, arc_type, _version, flags) = (self.string()?, self.string()?, self.i32()?, self.i32()?);
        if arc_type != "standard" {
            return bad(format!("arcs of type {arc_type:?}; those of a decoding graph are \"standard\""));
        }
        let (_properties, start, states, arcs) = (self.i64()?, self.i64()?, self.i64()?, self.i64()?);
        for flag in [HAS_INPUT_SYMBOLS, HAS_OUTPUT_SYMBOLS] {
            if flags & flag != 0 {
                self.skip_symbols()?;
            }
        }
        let fst = match kind.as_str() {
            "vector" => self.vector(states)?,
            "const" => self.constant(states, arcs, flags & IS_ALIGNED != 0)?,
            _ => {
                return bad(format!(
                    "of type {kind:?}; \"vector\" and \"const\" are read (fstconvert converts)"
                ));
            }
        };
        let count = fst.finals.len() as i64;
        if !(0..count).contains(&start) {
            return bad(format!("starts in state {start} of {count}"));
        }
        if let Some(arc) = fst.arcs.iter().find(|arc| i64::from(arc.next) >= count) {
            return bad(format!("an arc leads to state {} of {count}", arc.next));
        }
        Ok(Fst { start: start as u32, ..fst })
    }

    fn skip_symbols(&mut self) -> std::result::Result<(), Fault> {
        if self.i32()? != SYMBOL_MAGIC {
            return bad(format!("no symbol table at byte {}", self.at - 4));
        }
        let (_name, _next_key, count) = (self.string()?, self.i64()?, self.i64()?);
        for _ in 0..count {
            let (_symbol, _key) = (self.string()?, self.i64()?);
        }
        Ok(())
    }

    /// A count of things of so many bytes each, which the rest of the file has to hold.
    fn count(&self, count: i64, bytes: u64, what: &str) -> std::result::Result<usize, Fault> {
        if u64::try_from(count).ok().and_then(|n| n.checked_mul(bytes)).is_none_or(|n| n > self.rest()) {
            return bad(format!("truncated: {count} {what} are announced, and {} bytes left", self.rest()));
        }
        Ok(count as usize)
    }

    /// Each state followed by its arcs; -1 states if the writer could not go back to say how many.
    fn vector(&mut self, states: i64) -> std::result::Result<Fst, Fault> {
        let mut fst = Fst::default();
        let states = if states < 0 { None } else { Some(self.count(states, VECTOR_STATE, "states")?) };
        if let Some(states) = states {
            fst.finals.reserve_exact(states);
            fst.ends.reserve_exact(states);
            let arcs = self.rest().saturating_sub(states as u64 * VECTOR_STATE) / ARC;
            fst.arcs.reserve_exact(arcs as usize);
        }
        while states.map_or(self.rest() > 0, |states| fst.finals.len() < states) {
            let (final_cost, arcs) = (self.f32()?, self.i64()?);
            for _ in 0..self.count(arcs, ARC, "arcs")? {
                let arc = self.arc()?;
                fst.arcs.push(arc);
            }
            fst.close_state(weight(final_cost)?);
        }
        Ok(fst)
    }

    /// A table of states, then one of arcs.
    fn constant(&mut self, states: i64, arcs: i64, aligned: bool) -> std::result::Result<Fst, Fault> {
        self.align(aligned)?;
        let states = self.count(states, CONST_STATE, "states")?;
        let mut fst =
            Fst { finals: Vec::with_capacity(states), ends: Vec::with_capacity(states), ..Fst::default() };
        let mut end = 0;
        for _ in 0..states {
            let (final_cost, begin, count) = (self.f32()?, self.i32()? as u32, self.i32()? as u32);
            let (_input_epsilons, _output_epsilons) = (self.i32()?, self.i32()?);
            if u64::from(begin) != end {
                return bad(format!("the arcs of state {} do not follow those before", fst.finals.len()));
            }
            end += u64::from(count);
            fst.finals.push(weight(final_cost)?);
            fst.ends.push(end);
        }
        self.align(aligned)?;
        let arcs = self.count(arcs, ARC, "arcs")?;
        if end != arcs as u64 {
            return bad(format!("its states have {end} arcs and it has {arcs}"));
        }
        fst.arcs.reserve_exact(arcs);
        for _ in 0..arcs {
            let arc = self.arc()?;
            fst.arcs.push(arc);
        }
        Ok(fst)
    }

    fn align(&mut self, aligned: bool) -> std::result::Result<(), Fault> {
        while aligned && !self.at.is_multiple_of(ALIGNMENT) {
            self.bytes::<1>()?;
        }
        Ok(())
    }

    fn arc(&mut self) -> std::result::Result<Arc, Fault> {
        let arc = self.bytes::<16>()?;
        let word = |i: usize| [arc[i], arc[i + 1], arc[i + 2], arc[i + 3]];
        let number = |i: usize, what: &str| match u32::try_from(i32::from_le_bytes(word(i))) {
            Ok(number) => Ok(number),
            Err(_) => bad(format!("an arc's {what} is below 0 before byte {}", self.at)),
        };
        let cost = weight(f32::from_le_bytes(word(8)))?;
        let (ilabel, olabel) = (number(0, "input label")?, number(4, "output label")?);
        Ok(Arc { ilabel, olabel, weight: cost, next: number(12, "target")? })
    }
}

/// A cost, which may be infinite but not of endless gain.
fn weight(cost: f32) -> std::result::Result<f32, Fault> {
    if cost.is_nan() || cost == f32::NEG_INFINITY { bad(format!("a weight is {cost}")) } else { Ok(cost) }
}
