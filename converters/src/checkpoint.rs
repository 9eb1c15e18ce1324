//! PyTorch checkpoint files: which tensors they hold, and their bytes as a stream.
//!
//! Two containers exist. Since PyTorch 1.6 a checkpoint is a zip archive of uncompressed records: `*/data.pkl`
//! describes the tensors, `*/data/KEY` hold the storages. Before, it was a row of pickles (magic number, protocol,
//! system facts, the object, the storage keys) followed by each storage: an element count and its raw elements.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use zip::{CompressionMethod, ZipArchive};

use crate::{
    error::{Error, Result},
    pickle::{Pickle, PickleError, Value},
    torch::{Storage, Tensor, printable},
};

/// The pickled magic number that opens a legacy checkpoint, after the two bytes of the protocol.
const LEGACY_MAGIC: [u8; 13] = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// The names under which trainers wrap a state dict, in the order FunASR unwraps them
/// (`funasr/train_utils/load_pretrained_model.py`).
const WRAPPERS: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// What data-parallel training puts before every name.
const PARALLEL_PREFIX: &str = "module.";
/// Elements read at a time.
const BLOCK: u64 = 1 << 18;
/// All tensors together may be this many times as large as the file: shared storages, but no bomb.
const MAX_EXPANSION: u64 = 4;

/// An open checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    file: File,
    records: Records,
    /// The state dict by name, without the data-parallel prefix.
    pub(crate) tensors: BTreeMap<String, Tensor>,
    /// Names in the state dict that are no tensors.
    pub(crate) others: Vec<String>,
}

/// Where the storages lie in the file.
#[derive(Debug, Default)]
struct Records {
    /// Key to first byte and length in bytes.
    spans: HashMap<String, (u64, u64)>,
    big_endian: bool,
}

impl Checkpoint {
    /// Reads the description of all tensors, and none of their elements.
    ///
    /// # Errors
    /// A file that is no PyTorch checkpoint, or that is truncated, damaged or hostile.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let (pickle, records) = match container(path, &mut file)? {
            Container::Zip => open_zip(path, &file)?,
            Container::Legacy => open_legacy(&file).map_err(|cause| Error::checkpoint(path, cause))?,
        };
        let (tensors, others) = state_dict(&pickle).map_err(|cause| Error::checkpoint(path, cause))?;
        let checkpoint = Self { path: path.to_owned(), file, records, tensors, others };
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// Passes the elements of `tensor` in row-major order to `sink`, as little-endian bytes in blocks.
    ///
    /// # Errors
    /// A failing read, or the first error of `sink`.
    pub(crate) fn stream(&self, tensor: &Tensor, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let size = tensor.storage.element.size();
        let start = self.first_byte(tensor).map_err(|cause| Error::checkpoint(&self.path, cause))?;
        if !tensor.is_contiguous() {
            let elements = self.read(start, tensor.span().unwrap_or(0) * size, size)?;
            return gather(tensor, &elements, sink);
        }
        let (mut at, end) = (start, start + tensor.len * size);
        while at < end {
            let block = (end - at).min(BLOCK * size);
            sink(&self.read(at, block, size)?)?;
            at += block;
        }
        Ok(())
    }

    fn read(&self, start: u64, bytes: u64, element_size: u64) -> Result<Vec<u8>> {
        let io = Error::io(&self.path);
        // `check` has compared every range with the length of the file.
        let mut buffer = vec![0; bytes as usize];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start)).map_err(&io)?;
        file.read_exact(&mut buffer).map_err(&io)?;
        if self.records.big_endian {
            buffer.chunks_exact_mut(element_size as usize).for_each(<[u8]>::reverse);
        }
        Ok(buffer)
    }

    /// Byte in the file of the tensor's first element.
    fn first_byte(&self, tensor: &Tensor) -> std::result::Result<u64, String> {
        let Storage { key, element, start, len } = &tensor.storage;
        let missing = || format!("storage `{}` is missing or truncated", printable(key));
        let (first, bytes) = self.records.spans.get(key).ok_or_else(missing)?;
        let end = start.checked_add(*len).and_then(|end| end.checked_mul(element.size()));
        if end.is_none_or(|end| end > *bytes) {
            return Err(missing());
        }
        Ok(first + (start + tensor.offset) * element.size())
    }

    /// An error about one tensor.
    pub(crate) fn refuse(&self, name: &str, cause: impl Display) -> Error {
        Error::checkpoint(&self.path, format!("tensor `{}`: {cause}", printable(name)))
    }

    fn check(&self) -> Result<()> {
        let file_len = self.file.metadata().map_err(Error::io(&self.path))?.len();
        let mut total = 0u64;
        for (name, tensor) in &self.tensors {
            self.first_byte(tensor).map_err(|cause| self.refuse(name, cause))?;
            total = total.saturating_add(tensor.len * tensor.storage.element.size());
            if total > file_len.saturating_mul(MAX_EXPANSION) {
                return Err(self.refuse(name, "with it the tensors are many times larger than the file"));
            }
        }
        Ok(())
    }
}

/// Copies the elements of a strided tensor out of `elements`, the part of its storage that it spans.
fn gather(tensor: &Tensor, elements: &[u8], mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let size = tensor.storage.element.size() as usize;
    let mut block = Vec::with_capacity(BLOCK as usize * size);
    let mut index = vec![0u64; tensor.shape.len()];
    for _ in 0..tensor.len {
        let at: u64 = index.iter().zip(&tensor.strides).map(|(i, stride)| i * stride).sum();
        let at = at as usize * size;
        block.extend_from_slice(&elements[at..at + size]);
        if block.len() == BLOCK as usize * size {
            sink(&block)?;
            block.clear();
        }
        for (i, extent) in index.iter_mut().zip(&tensor.shape).rev() {
            *i += 1;
            if *i < *extent {
                break;
            }
            *i = 0;
        }
    }
    sink(&block)
}

enum Container {
    Zip,
    Legacy,
}

fn container(path: &Path, file: &mut File) -> Result<Container> {
    let mut head = Vec::new();
    (&mut *file).take(15).read_to_end(&mut head).map_err(Error::io(path))?;
    file.rewind().map_err(Error::io(path))?;
    match head.as_slice() {
        [] => Err(Error::checkpoint(path, "the file is empty")),
        [b'P', b'K', ..] => Ok(Container::Zip),
        [0x80, _, magic @ ..] if magic == LEGACY_MAGIC => Ok(Container::Legacy),
        text if text.starts_with(b"version https") => {
            Err(Error::checkpoint(path, "a Git LFS pointer, not the checkpoint itself"))
        }
        _ => Err(Error::checkpoint(path, "not a PyTorch checkpoint, or a truncated one")),
    }
}

fn open_zip(path: &Path, file: &File) -> Result<(Pickle, Records)> {
    let refuse = |cause: &str| Error::checkpoint(path, cause);
    let damaged = |cause| Error::checkpoint(path, format!("truncated or damaged archive: {cause}"));
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
    let mut spans = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(refuse("a compressed archive, which PyTorch does not write"));
        }
        let name = entry.name().map_err(damaged)?.into_owned();
        let start = entry.data_start().ok_or_else(|| refuse("an archive record without data"))?;
        spans.insert(name, (start, entry.size()));
    }
    check_spans(file, &spans).map_err(|cause| Error::checkpoint(path, cause))?;
    let root =
        spans.keys().find_map(|name| name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')));
    let root =
        root.ok_or_else(|| refuse("a zip archive, but no PyTorch checkpoint (no data.pkl)"))?.to_owned();
    let big_endian = match read_record(file, spans.get(&format!("{root}/byteorder")), 16) {
        Some(order) if order == b"big" => true,
        Some(order) if order != b"little" => return Err(refuse("unknown byte order")),
        _ => false,
    };
    let pickle = spans.get(&format!("{root}/data.pkl")).map(|&span| read_pickle(file, span));
    let pickle =
        pickle.unwrap_or(Err(PickleError::Truncated)).map_err(|cause| Error::checkpoint(path, cause))?;
    let prefix = format!("{root}/data/");
    let storages =
        spans.into_iter().filter_map(|(name, span)| Some((name.strip_prefix(&prefix)?.to_owned(), span)));
    Ok((pickle, Records { spans: storages.collect(), big_endian }))
}

fn check_spans(file: &File, spans: &HashMap<String, (u64, u64)>) -> std::result::Result<(), String> {
    let file_len = file.metadata().map_err(|error| error.to_string())?.len();
    match spans.iter().find(|(_, (start, len))| start.checked_add(*len).is_none_or(|end| end > file_len)) {
        Some((name, _)) => Err(format!("record `{}` is truncated", printable(name))),
        None => Ok(()),
    }
}

/// A small record, or `None` where there is none or it is larger than `limit` bytes.
fn read_record(mut file: &File, span: Option<&(u64, u64)>, limit: u64) -> Option<Vec<u8>> {
    let &(start, len) = span.filter(|(_, len)| *len <= limit)?;
    let mut bytes = vec![0; len as usize];
    file.seek(SeekFrom::Start(start)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn read_pickle(mut file: &File, (start, len): (u64, u64)) -> std::result::Result<Pickle, PickleError> {
    file.seek(SeekFrom::Start(start))?;
    Pickle::read(&mut BufReader::new(file.take(len)))
}

fn open_legacy(file: &File) -> std::result::Result<(Pickle, Records), PickleError> {
    let mut reader = BufReader::new(file);
    for _ in ["magic number", "protocol version", "system facts"] {
        Pickle::read(&mut reader)?;
    }
    let pickle = Pickle::read(&mut reader)?;
    let keys = Pickle::read(&mut reader)?;
    let spans = locate_storages(&pickle, &keys, reader)?;
    Ok((pickle, Records { spans, big_endian: false }))
}

/// Steps over the storages at the end of a legacy file: each an `i64` element count, then the elements.
fn locate_storages(
    pickle: &Pickle,
    keys: &Pickle,
    mut reader: impl BufRead + Seek,
) -> std::result::Result<HashMap<String, (u64, u64)>, PickleError> {
    let sizes: HashMap<&str, u64> = pickle.storages().map(|s| (s.key.as_str(), s.element.size())).collect();
    let keys = keys
        .items(keys.root)
        .ok_or(PickleError::Damaged("the storage keys are no list"))?
        .iter()
        .map(|key| keys.text(*key));
    let mut at = reader.stream_position()?;
    let end = reader.seek(SeekFrom::End(0))?;
    let mut spans = HashMap::new();
    for key in keys {
        let size =
            key.and_then(|key| sizes.get(key)).ok_or(PickleError::Damaged("an unknown storage key"))?;
        reader.seek(SeekFrom::Start(at))?;
        let mut count = [0; 8];
        reader.read_exact(&mut count)?;
        let bytes = u64::from_le_bytes(count).checked_mul(*size);
        let next = bytes.and_then(|bytes| bytes.checked_add(at + 8)).filter(|next| *next <= end);
        let (Some(next), Some(bytes), Some(key)) = (next, bytes, key) else {
            return Err(PickleError::Truncated);
        };
        spans.insert(key.to_owned(), (at + 8, bytes));
        at = next;
    }
    Ok(spans)
}

type StateDict = (BTreeMap<String, Tensor>, Vec<String>);

/// Unwraps what a trainer put around the state dict and drops the data-parallel prefix.
fn state_dict(pickle: &Pickle) -> std::result::Result<StateDict, String> {
    let mut dict = pickle.root;
    for wrapper in WRAPPERS {
        dict = pickle.get(dict, wrapper).filter(|inner| matches!(inner, Value::Dict(_))).unwrap_or(dict);
    }
    let pairs = pickle.pairs(dict).ok_or("the checkpoint holds no state dict")?;
    let (mut tensors, mut prefixed, mut others) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for (key, value) in pairs {
        let name = pickle.text(*key).unwrap_or("(a key that is no string)");
        match (pickle.tensor(*value), name.strip_prefix(PARALLEL_PREFIX)) {
            (Some(tensor), Some(bare)) => drop(prefixed.insert(bare.to_owned(), tensor.clone())),
            (Some(tensor), None) => drop(tensors.insert(name.to_owned(), tensor.clone())),
            (None, _) => others.push(printable(name)),
        }
    }
    // FunASR lets the prefixed tensor win where both exist.
    tensors.extend(prefixed);
    if tensors.is_empty() {
        return Err("the checkpoint holds no tensors".to_owned());
    }
    Ok((tensors, others))
}
