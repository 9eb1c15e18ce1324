//! A pickle machine that can build plain data and tensor descriptions, and nothing else.
//!
//! A pickle is a program for a stack machine (the opcodes are documented in Python's `pickletools`). Here the only
//! callables are the few that [`Global::find`] knows, each of them a case in this crate; any other name is an error,
//! so nothing in a checkpoint is ever executed. Objects live in one arena and refer to each other by index: cycles
//! and deep nesting cost no recursion, and memory stays linear in the bytes read.

use std::{
    collections::HashMap,
    io::{self, BufRead, Read},
};

use crate::torch::{self, Global, Storage, Tensor};

/// Most bytes one pickle may have; that of a large model with its optimizer state has about one million.
const MAX_BYTES: u64 = 64 << 20;
/// Most opcodes one pickle may run; a thousand tensors need about fifty thousand.
const MAX_OPCODES: u64 = 2_000_000;
/// Longest string, line or integer, in bytes.
const MAX_TEXT: u64 = 1 << 20;
/// Most values that all containers may be born with; a short program must not copy a long list again and again.
const MAX_CELLS: usize = 8_000_000;

/// Why a pickle was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PickleError {
    #[error("the pickle ends before its STOP mark: truncated or damaged")]
    Truncated,
    #[error("the pickle is beyond any checkpoint's size ({0})")]
    TooLarge(&'static str),
    #[error("the pickle names `{0}`, which no tensor needs: refused, nothing was executed")]
    Forbidden(String),
    #[error("the pickle has opcode {0:#04x}, which PyTorch does not write")]
    Opcode(u8),
    #[error("the pickle is damaged: {0}")]
    Damaged(&'static str),
    #[error("{0}")]
    Read(io::Error),
}

impl From<io::Error> for PickleError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Read(error),
        }
    }
}

/// Result inside the machine.
pub(crate) type Result<T> = std::result::Result<T, PickleError>;

/// Index into [`Pickle::objects`].
pub(crate) type Id = usize;

/// What the stack and the containers hold; small and copied freely.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    None,
    /// A float, a bool, bytes, a device, a huge integer: legal, but no tensor depends on its content.
    Opaque,
    Int(i64),
    Text(Id),
    List(Id),
    Tuple(Id),
    Dict(Id),
    Global(Global),
    Storage(Id),
    Tensor(Id),
}

#[derive(Debug)]
pub(crate) enum Object {
    Text(String),
    Items(Vec<Value>),
    Pairs(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(Tensor),
}

/// A finished pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    objects: Vec<Object>,
    cells: usize,
    pub(crate) root: Value,
}

impl Pickle {
    /// Runs the pickle at the front of `reader` and leaves `reader` just behind its STOP.
    pub(crate) fn read(reader: &mut impl BufRead) -> Result<Self> {
        let mut machine = Machine {
            input: reader.take(MAX_BYTES),
            pickle: Self { objects: Vec::new(), cells: 0, root: Value::None },
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        for _ in 0..MAX_OPCODES {
            let opcode = machine.byte()?;
            if opcode == b'.' {
                machine.pickle.root = machine.pop()?;
                return Ok(machine.pickle);
            }
            machine.step(opcode)?;
        }
        Err(PickleError::TooLarge("opcodes"))
    }

    pub(crate) fn text(&self, value: Value) -> Option<&str> {
        match (value, self.object(value)?) {
            (Value::Text(_), Object::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list or tuple.
    pub(crate) fn items(&self, value: Value) -> Option<&[Value]> {
        match self.object(value)? {
            Object::Items(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dict, in the order they were set; a later entry replaces an earlier one of the same key.
    pub(crate) fn pairs(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.object(value)? {
            Object::Pairs(pairs) => Some(pairs),
            _ => None,
        }
    }

    pub(crate) fn storage(&self, value: Value) -> Option<&Storage> {
        match self.object(value)? {
            Object::Storage(storage) => Some(storage),
            _ => None,
        }
    }

    /// Every storage that the pickle mentions.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    pub(crate) fn tensor(&self, value: Value) -> Option<&Tensor> {
        match self.object(value)? {
            Object::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The value of a text key in a dict.
    pub(crate) fn get(&self, dict: Value, key: &str) -> Option<Value> {
        self.pairs(dict)?.iter().rev().find(|(name, _)| self.text(*name) == Some(key)).map(|pair| pair.1)
    }

    pub(crate) fn add(&mut self, object: Object) -> Result<Id> {
        self.cells += match &object {
            Object::Items(items) => items.len(),
            Object::Pairs(pairs) => pairs.len(),
            _ => 1,
        };
        if self.cells > MAX_CELLS {
            return Err(PickleError::TooLarge("values"));
        }
        self.objects.push(object);
        Ok(self.objects.len() - 1)
    }

    fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Text(id) | Value::List(id) | Value::Tuple(id) => self.objects.get(id),
            Value::Dict(id) | Value::Storage(id) | Value::Tensor(id) => self.objects.get(id),
            Value::None | Value::Opaque | Value::Int(_) | Value::Global(_) => None,
        }
    }
}

struct Machine<R> {
    input: R,
    pickle: Pickle,
    stack: Vec<Value>,
    /// Stack heights at the open MARKs; nothing below the last one can be popped.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl<R: BufRead> Machine<R> {
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'N' | b'I' | b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' | 0x88 | 0x89 => self.scalar(opcode),
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'B' | b'C' | 0x8e => self.string(opcode),
            b']' | b'}' | b')' | b'l' | b'd' | b't' | 0x85..=0x87 => self.container(opcode),
            b'a' | b'e' | b's' | b'u' => self.fill(opcode),
            b'q' | b'r' | b'h' | b'j' | 0x94 => self.memory(opcode),
            b'c' | 0x93 | b'R' | b'b' | b'Q' => self.object(opcode),
            0x80 => self.bytes(1).map(drop),
            0x95 => self.bytes(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            other => Err(PickleError::Opcode(other)),
        }
    }

    fn scalar(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'N' => Value::None,
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            0x8a => {
                let size = u64::from(self.byte()?);
                self.long(size)?
            }
            0x8b => {
                let size = u32::from_le_bytes(self.array()?);
                self.long(u64::from(size))?
            }
            // INT is text: a decimal number, or 00 and 01 for the booleans.
            b'I' => self.line()?.parse().map_or(Value::Opaque, Value::Int),
            b'G' => self.bytes(8).map(|_| Value::Opaque)?,
            _ => Value::Opaque,
        };
        self.stack.push(value);
        Ok(())
    }

    /// A little-endian two's complement integer of any length.
    fn long(&mut self, size: u64) -> Result<Value> {
        let bytes = self.bytes(size)?;
        let Some(last) = bytes.last() else { return Ok(Value::Int(0)) };
        if bytes.len() > 8 {
            return Ok(Value::Opaque);
        }
        let mut wide = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn string(&mut self, opcode: u8) -> Result<()> {
        let size = match opcode {
            0x8c | b'U' | b'C' => u64::from(self.byte()?),
            b'X' | b'T' | b'B' => u64::from(u32::from_le_bytes(self.array()?)),
            _ => u64::from_le_bytes(self.array()?),
        };
        let bytes = self.bytes(size)?;
        let value = match opcode {
            b'B' | b'C' | 0x8e => Value::Opaque,
            // Python 2 wrote `str` as bytes of no stated encoding; tensor names are ASCII.
            b'U' | b'T' => self.text(String::from_utf8_lossy(&bytes).into_owned())?,
            _ => {
                let text = String::from_utf8(bytes);
                self.text(text.map_err(|_| PickleError::Damaged("a string is not UTF-8"))?)?
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn container(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b']' | b'}' | b')' => Vec::new(),
            b'l' | b'd' | b't' => self.pop_mark()?,
            _ => self.pop_many(usize::from(opcode - 0x84))?,
        };
        let value = match opcode {
            b']' | b'l' => Value::List(self.pickle.add(Object::Items(items))?),
            b'}' | b'd' => {
                let pairs = pair_up(&items)?;
                Value::Dict(self.pickle.add(Object::Pairs(pairs))?)
            }
            _ => Value::Tuple(self.pickle.add(Object::Items(items))?),
        };
        self.stack.push(value);
        Ok(())
    }

    /// APPEND(S) and SETITEM(S): moves values from the stack into the container below them.
    fn fill(&mut self, opcode: u8) -> Result<()> {
        let items = match opcode {
            b'a' => self.pop_many(1)?,
            b's' => self.pop_many(2)?,
            _ => self.pop_mark()?,
        };
        let top = *self.stack.last().ok_or(PickleError::Damaged("a container is missing"))?;
        match (opcode, top) {
            (b'a' | b'e', Value::List(id)) => {
                if let Some(Object::Items(list)) = self.pickle.objects.get_mut(id) {
                    list.extend(items);
                }
            }
            (b's' | b'u', Value::Dict(id)) => {
                let new = pair_up(&items)?;
                if let Some(Object::Pairs(pairs)) = self.pickle.objects.get_mut(id) {
                    pairs.extend(new);
                }
            }
            _ => return Err(PickleError::Damaged("items are added to something that is no container")),
        }
        Ok(())
    }

    fn memory(&mut self, opcode: u8) -> Result<()> {
        let slot = match opcode {
            b'q' | b'h' => u32::from(self.byte()?),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            _ => u32::try_from(self.memo.len()).map_err(|_| PickleError::TooLarge("memo"))?,
        };
        if matches!(opcode, b'h' | b'j') {
            let value = *self.memo.get(&slot).ok_or(PickleError::Damaged("an unset memo slot is read"))?;
            self.stack.push(value);
        } else {
            let top = *self.stack.last().ok_or(PickleError::Damaged("nothing to memorise"))?;
            self.memo.insert(slot, top);
        }
        Ok(())
    }

    /// The opcodes that make objects: here they only ever look a name up and describe a tensor.
    fn object(&mut self, opcode: u8) -> Result<()> {
        let value = match opcode {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                Value::Global(Global::find(&module, &name)?)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.pickle.text(module), self.pickle.text(name)) {
                    (Some(module), Some(name)) => Value::Global(Global::find(module, name)?),
                    _ => return Err(PickleError::Damaged("a global's name is not a string")),
                }
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                torch::call(&mut self.pickle, callable, arguments)?
            }
            b'b' => {
                // The state that OrderedDict and Parameter carry (`_metadata`) says nothing about the values.
                let (_state, object) = (self.pop()?, self.pop()?);
                match object {
                    Value::Dict(_) | Value::Tensor(_) => object,
                    _ => return Err(PickleError::Damaged("state is set on something that has none")),
                }
            }
            _ => {
                let id = self.pop()?;
                torch::persistent(&mut self.pickle, id)?
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, text: String) -> Result<Value> {
        Ok(Value::Text(self.pickle.add(Object::Text(text))?))
    }

    fn pop(&mut self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(PickleError::Damaged("the stack is empty"));
        }
        self.stack.pop().ok_or(PickleError::Damaged("the stack is empty"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let mark = self.marks.pop().ok_or(PickleError::Damaged("a MARK is missing"))?;
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads `size` bytes; the buffer grows with what really arrives, never by the claim alone.
    fn bytes(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_TEXT {
            return Err(PickleError::TooLarge("a string or integer"));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(size).read_to_end(&mut bytes)?;
        if read as u64 == size { Ok(bytes) } else { Err(PickleError::Truncated) }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        (&mut self.input).take(MAX_TEXT).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(PickleError::Truncated);
        }
        String::from_utf8(line).map_err(|_| PickleError::Damaged("a name is not UTF-8"))
    }
}

fn pair_up(items: &[Value]) -> Result<Vec<(Value, Value)>> {
    let pairs = items.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(PickleError::Damaged("a dict has a key without a value"));
    }
    Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
}
