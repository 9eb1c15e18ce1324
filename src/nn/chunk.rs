//! How a stream is cut into overlapping chunks.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Frames of a chunk: `[left, stride, right]`, FunASR's `chunk_size`. A chunk decides about `stride` new
/// frames and also sees `left` frames before and `right` frames after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSize {
    left: usize,
    stride: usize,
    right: usize,
}

impl ChunkSize {
    /// Most frames that a chunk may have: 30 s at 60 ms a frame.
    pub const MAX_FRAMES: usize = 500;

    /// `[left, stride, right]`.
    ///
    /// # Errors
    /// A negative number, a stride of 0, more than [`ChunkSize::MAX_FRAMES`] together, or neither left nor
    /// right context: then FunASR's cache would be the whole stream (`x[-0:]`).
    pub fn new(frames: [i64; 3]) -> Result<Self> {
        let fail = |cause: String| Error::Unsupported(format!("chunk_size {frames:?}: {cause}"));
        let [left, stride, right] = frames.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        if frames.iter().any(|&n| n < 0) {
            return Err(fail("a number is negative".to_owned()));
        }
        if stride == 0 {
            return Err(fail("the stride (second number) is 0".to_owned()));
        }
        if [stride, right].into_iter().fold(left, usize::saturating_add) > Self::MAX_FRAMES {
            return Err(fail(format!("more than {} frames", Self::MAX_FRAMES)));
        }
        if left + right == 0 {
            return Err(fail("no frame of context, left or right".to_owned()));
        }
        Ok(Self { left, stride, right })
    }

    /// Frames before the new ones.
    pub fn left(self) -> usize {
        self.left
    }

    /// New frames of a chunk.
    pub fn stride(self) -> usize {
        self.stride
    }

    /// Frames after the new ones, by which a result is late.
    pub fn right(self) -> usize {
        self.right
    }

    /// Frames that a chunk shares with the next one.
    pub fn context(self) -> usize {
        self.left + self.right
    }
}

impl Default for ChunkSize {
    /// `[0, 10, 5]`: 600 ms a chunk, 300 ms look-ahead.
    fn default() -> Self {
        Self { left: 0, stride: 10, right: 5 }
    }
}

impl FromStr for ChunkSize {
    type Err = Error;

    /// Reads `0,10,5`.
    fn from_str(text: &str) -> Result<Self> {
        let numbers: Vec<i64> = text.split(',').map_while(|part| part.trim().parse().ok()).collect();
        match <[i64; 3]>::try_from(numbers) {
            Ok(frames) if text.split(',').count() == 3 => Self::new(frames),
            _ => Err(Error::Unsupported(format!("chunk_size {text:?}: not three whole numbers like 0,10,5"))),
        }
    }
}

impl fmt::Display for ChunkSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.left, self.stride, self.right)
    }
}

/// What comes next in a stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Chunk<'a> {
    /// Normalised feature rows, one after the other; more follow.
    Next(&'a [f32]),
    /// The last rows, at most a stride of them.
    Last(&'a [f32]),
    /// No more rows: what was right context so far is decided.
    Tail,
}

impl<'a> Chunk<'a> {
    /// The new rows.
    pub fn rows(self) -> &'a [f32] {
        match self {
            Self::Next(rows) | Self::Last(rows) => rows,
            Self::Tail => &[],
        }
    }

    /// Whether the stream ends here.
    pub fn is_last(self) -> bool {
        !matches!(self, Self::Next(_))
    }
}
