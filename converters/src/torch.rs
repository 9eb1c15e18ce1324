//! The PyTorch side of a checkpoint's pickle: the names it may use, storages, and tensors as views of storages.

use crate::pickle::{Object, Pickle, PickleError, Result, Value};

/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 16;
/// Longest name of a storage's record, in bytes; PyTorch writes a small number.
const MAX_KEY: usize = 64;

/// Element type of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    /// Bytes per element.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// Name of the type in a safetensors header.
    pub(crate) fn safetensors_name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    fn of_storage(class: &str) -> Option<Self> {
        Some(match class.strip_suffix("Storage")? {
            "Double" => Self::F64,
            "Float" => Self::F32,
            "Half" => Self::F16,
            "BFloat16" => Self::BF16,
            "Long" => Self::I64,
            "Int" => Self::I32,
            "Short" => Self::I16,
            "Char" => Self::I8,
            "Byte" => Self::U8,
            "Bool" => Self::Bool,
            _ => return None,
        })
    }
}

/// The complete list of names that a checkpoint may refer to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    /// `torch.device`, or the text that protocol 2 turns into bytes: legal, without content for us.
    Opaque,
    Storage(Element),
}

impl Global {
    /// # Errors
    /// Any name that is not on the list.
    pub(crate) fn find(module: &str, name: &str) -> Result<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Some(Self::RebuildParameter)
            }
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") | ("_codecs", "encode") => Some(Self::Opaque),
            ("torch", class) => Element::of_storage(class).map(Self::Storage),
            _ => None,
        }
        .ok_or_else(|| PickleError::Forbidden(printable(&format!("{module}.{name}"))))
    }
}

/// A name from the file, shortened and with control characters replaced, fit for a one-line message.
pub(crate) fn printable(name: &str) -> String {
    name.chars().take(120).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A run of elements in the checkpoint, not read yet.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    /// Name of the record that holds it.
    pub(crate) key: String,
    pub(crate) element: Element,
    /// First element inside the record; not 0 only for the storage views of old PyTorch.
    pub(crate) start: u64,
    /// Number of elements.
    pub(crate) len: u64,
}

/// A strided view of a storage; offsets and strides count elements.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) storage: Storage,
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    /// Product of `shape`.
    pub(crate) len: u64,
}

impl Tensor {
    /// # Errors
    /// A shape that overflows, or that reaches outside the storage or over the same element twice.
    fn new(storage: Storage, offset: u64, shape: Vec<u64>, strides: Vec<u64>) -> Result<Self> {
        if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS {
            return Err(PickleError::Damaged("a tensor's shape and strides do not fit together"));
        }
        let len = shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
        let len = len.ok_or(PickleError::Damaged("a tensor's shape overflows"))?;
        let tensor = Self { storage, offset, shape, strides, len };
        let end = tensor.span().and_then(|span| span.checked_add(offset));
        if end.is_none_or(|end| end > tensor.storage.len) {
            return Err(PickleError::Damaged("a tensor reaches outside its storage"));
        }
        if len > tensor.storage.len {
            return Err(PickleError::Damaged("a tensor has more elements than its storage"));
        }
        Ok(tensor)
    }

    /// Elements from the first to the last one in storage order, or `None` on overflow.
    pub(crate) fn span(&self) -> Option<u64> {
        if self.len == 0 {
            return Some(0);
        }
        let mut last = 0u64;
        for (size, stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((size - 1).checked_mul(*stride)?)?;
        }
        last.checked_add(1)
    }

    /// Whether the elements lie in the file in row-major order without gaps.
    pub(crate) fn is_contiguous(&self) -> bool {
        if self.len == 0 {
            return true;
        }
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }
}

/// What REDUCE may call: builds a description, runs nothing.
pub(crate) fn call(pickle: &mut Pickle, callable: Value, arguments: Value) -> Result<Value> {
    let Value::Global(global) = callable else {
        return Err(PickleError::Damaged("something that is no function is called"));
    };
    let arguments = pickle.items(arguments).ok_or(PickleError::Damaged("arguments are not a tuple"))?;
    match (global, arguments) {
        (Global::OrderedDict, []) => Ok(Value::Dict(pickle.add(Object::Pairs(Vec::new()))?)),
        (Global::OrderedDict, [pairs]) => {
            let pairs = entries(pickle, *pairs)?;
            Ok(Value::Dict(pickle.add(Object::Pairs(pairs))?))
        }
        (Global::RebuildTensor, [storage, offset, shape, strides, ..]) => {
            let tensor = rebuild(pickle, *storage, *offset, [*shape, *strides])?;
            Ok(Value::Tensor(pickle.add(Object::Tensor(tensor))?))
        }
        (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => Ok(*tensor),
        (Global::Size, [sizes @ Value::Tuple(_)]) => Ok(*sizes),
        (Global::Opaque, _) => Ok(Value::Opaque),
        _ => Err(PickleError::Damaged("a function has the wrong arguments")),
    }
}

/// The argument of `OrderedDict([(key, value), ...])`, as Python 2 wrote it.
fn entries(pickle: &Pickle, pairs: Value) -> Result<Vec<(Value, Value)>> {
    let wrong = PickleError::Damaged("OrderedDict has an argument that is no list of pairs");
    let Some(items) = pickle.items(pairs) else { return Err(wrong) };
    let pair = |item: &Value| match pickle.items(*item) {
        Some([key, value]) => Some((*key, *value)),
        _ => None,
    };
    items.iter().map(pair).collect::<Option<Vec<_>>>().ok_or(wrong)
}

fn rebuild(pickle: &Pickle, storage: Value, offset: Value, layout: [Value; 2]) -> Result<Tensor> {
    let numbers = |value| pickle.items(value)?.iter().map(|item| unsigned(*item)).collect::<Option<Vec<_>>>();
    let parts = (pickle.storage(storage), unsigned(offset), numbers(layout[0]), numbers(layout[1]));
    let (Some(storage), Some(offset), Some(shape), Some(strides)) = parts else {
        return Err(PickleError::Damaged("a tensor has the wrong arguments"));
    };
    Tensor::new(storage.clone(), offset, shape, strides)
}

/// A persistent id: `("storage", class, key, location, elements[, (view key, offset, elements)])`.
pub(crate) fn persistent(pickle: &mut Pickle, id: Value) -> Result<Value> {
    let storage = describe(pickle, id).ok_or(PickleError::Damaged("a persistent id names no storage"))?;
    Ok(Value::Storage(pickle.add(Object::Storage(storage))?))
}

fn describe(pickle: &Pickle, id: Value) -> Option<Storage> {
    let (kind, class, key, len, view) = match pickle.items(id)? {
        [kind, class, key, _, len] => (kind, class, key, len, Value::None),
        [kind, class, key, _, len, view] => (kind, class, key, len, *view),
        _ => return None,
    };
    let (Value::Global(Global::Storage(element)), "storage") = (*class, pickle.text(*kind)?) else {
        return None;
    };
    let key = pickle.text(*key).filter(|key| key.len() <= MAX_KEY)?.to_owned();
    let (start, len) = match view {
        Value::None => (0, unsigned(*len)?),
        view => match pickle.items(view)? {
            [_, start, len] => (unsigned(*start)?, unsigned(*len)?),
            _ => return None,
        },
    };
    Some(Storage { key, element, start, len })
}

fn unsigned(value: Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).ok(),
        _ => None,
    }
}
