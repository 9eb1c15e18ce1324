//! Products of rows and panels by the matrix unit of x86 processors (AMX): 16 rows by 16 outputs by 64 bytes of inputs in one
//! instruction, in 8 bits eight times the products of vectors with VNNI in the same time. 16 groups of a panel are one factor
//! as they lie.
//!
//! The instructions are written out, since Rust does not offer them yet.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

use super::{COLUMNS, Finish, Output, Part, places};

/// Groups of a panel that are multiplied at once.
pub(super) const GROUPS: usize = 16;
/// Rows for which vectors are as fast, since weights have to be fetched for either.
pub(super) const FEW: usize = 8;
/// Rows of a factor.
const ROWS: usize = 16;

/// Whether this processor has the unit with its products of 8 bits, and the system lets this process use it.
pub(super) fn supported() -> bool {
    static SUPPORTED: LazyLock<bool> = LazyLock::new(|| has(AMX_INT8));
    *SUPPORTED
}

/// The same with products of bf16, and vectors that round to it.
pub(super) fn supported_bf16() -> bool {
    static SUPPORTED: LazyLock<bool> =
        LazyLock::new(|| is_x86_feature_detected!("avx512bf16") && has(AMX_BF16));
    *SUPPORTED
}

/// Bits of `edx` in leaf 7 of what the processor says of itself.
const AMX_BF16: u32 = 1 << 22;
const AMX_TILE: u32 = 1 << 24;
const AMX_INT8: u32 = 1 << 25;

fn has(products: u32) -> bool {
    let bits = AMX_TILE | products;
    super::avx512::supported_int8() && __cpuid_count(7, 0).edx & bits == bits && permitted()
}

/// Asks the system for the unit's registers, which it saves for processes that have asked alone.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes numbers, and changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Sizes of the registers: six of sums and rows, two of panels, which may be of 16 rows as well.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    reserved: [u8; 15],
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// For blocks of so many rows.
    fn new(rows: usize) -> Self {
        let mut shapes = Self { palette: 1, reserved: [0; 15], bytes: [0; 16], rows: [0; 16] };
        shapes.bytes[..8].fill(64);
        shapes.rows[..6].fill(rows as u8);
        shapes.rows[6..8].fill(GROUPS as u8);
        shapes
    }

    /// Makes them those of this thread.
    #[allow(unsafe_code)]
    fn set(&self) {
        // SAFETY: `supported` was asked first, and the sizes are within those of palette 1: 64 bytes, 16 rows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, preserves_flags, readonly)) }
    }
}

/// Rows of [`Panels::stride`] bytes -> all of `y`. To be called where [`supported`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn multiply_int8(
    panels: &Part<'_, i8, 4>,
    x: &[u8],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = i32>,
) {
    multiply(panels, x, y, finish, [FETCH_BYTES, MULTIPLY_BYTES]);
}

/// The same with bits of bf16. To be called where [`supported_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn multiply_bf16(
    panels: &Part<'_, u16, 2>,
    x: &[u16],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = f32>,
) {
    multiply(panels, x, y, finish, [FETCH_FLOATS, MULTIPLY_FLOATS]);
}

/// Blocks of rows that go through two panels together, at most.
const TOGETHER: usize = 3;
/// Sums of such blocks with two panels, one row after the other: what they become is written to both lines of a row at once.
type Sums<S> = [[[S; 2 * COLUMNS]; ROWS]; TOGETHER];
/// What finds those of one, two or three blocks, whose rows are so many values apart.
type Tiles<T, X, S, const GROUP: usize> =
    [fn([&[X]; TOGETHER], usize, [&[[[T; GROUP]; COLUMNS]]; 2], &mut Sums<S>); TOGETHER];

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
#[allow(unsafe_code)]
fn multiply<T: Sync, X, S: Copy + Default, const GROUP: usize>(
    panels: &Part<'_, T, GROUP>,
    x: &[X],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = S>,
    [fetch, multiply]: [Tiles<T, X, S, GROUP>; 2],
) {
    let (stride, depth) = (panels.stride(), panels.depth);
    let count = x.len() / stride;
    // Fewer rows take as long as a block, so the last block begins with rows of the one before.
    let block = count.clamp(1, ROWS);
    let start = |row: usize| row.min(count - block);
    Shapes::new(block).set();
    let mut sums = Sums::default();
    for (first, resident) in panels.resident(2) {
        let mut row = 0;
        while row < count {
            let blocks = together((count - row).div_ceil(ROWS));
            let rows = std::array::from_fn(|i| &x[start(row + i * ROWS) * stride..][..block * stride]);
            // The first rows fetch the panels, which then are there for the others.
            let multiply_tiles = if row == 0 { fetch } else { multiply }[blocks - 1];
            for (p, pair) in resident.chunks(2 * depth).enumerate() {
                multiply_tiles(rows, stride, places(pair, depth), &mut sums);
                for (sums, row) in sums.iter().zip((row..).step_by(ROWS)).take(blocks) {
                    let sums = &sums[row - start(row)..block];
                    panels.put_pair(sums, [row, first + p * 2], finish, y);
                }
            }
            row += blocks * ROWS;
        }
    }
    // SAFETY: sums have been stored; the registers are free again, so that threads that do other work change faster.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
}

/// Of so many blocks of rows those that go through two panels together: two, and the last three of an odd number, since one alone
/// waits for panels.
fn together(blocks: usize) -> usize {
    if blocks <= TOGETHER { blocks } else { 2 }
}

/// Lets the second-level cache fetch what the next two panels have at this place. The lines of a step lie at the offsets given.
macro_rules! ask_for {
    ($panel:literal, $($line:literal)*) => { concat!($("prefetcht1 [{", $panel, "} + {ahead} + ", $line, "]\n"),*) };
}

/// A comment in its place, as each operand has to be named.
macro_rules! do_not_ask {
    ($panel:literal, $($line:literal)*) => {
        "/* {ahead} */"
    };
}

/// What a step of 64 bytes of inputs is made of: rows or a panel into a register, sums of two of these, and asking for a panel.
macro_rules! part {
    ($instruction:literal, $ask:ident, rows $rows:literal $to:literal) => {
        concat!("tileloadd tmm", $to, ", [{", $rows, "} + {stride}*1]")
    };
    ($instruction:literal, $ask:ident, panel $panel:literal $to:literal) => {
        concat!("tileloadd tmm", $to, ", [{", $panel, "} + {line}*1]")
    };
    ($instruction:literal, $ask:ident, sums $sums:literal $rows:literal $panel:literal) => {
        concat!($instruction, " tmm", $sums, ", tmm", $rows, ", tmm", $panel)
    };
    ($instruction:literal, $ask:ident, ask $panel:literal) => {
        $ask!($panel, 0 64 128 192 256 320 384 448 512 576 640 704 768 832 896 960)
    };
}

/// A function of blocks of as many rows as [`Shapes`] says, and two panels, which writes their sums. What a step is made of, and where
/// which register is written.
macro_rules! multiply_tiles {
    (
        $name:ident, $ask:ident, $instruction:literal, [$input:ty, $group:ty, $sum:ty],
        [$($part:ident $($of:literal)*),*], [$($sums:literal $place:literal),*]
    ) => {
        #[allow(unsafe_code)]
        fn $name(
            [upper, middle, lower]: [&[$input]; TOGETHER],
            stride: usize,
            [left, right]: [&[[$group; COLUMNS]]; 2],
            sums: &mut Sums<$sum>,
        ) {
            // SAFETY: panels are whole numbers of `GROUPS` long, and rows, of `stride` values, as long as panels; so each load reads
            // what `Shapes` says, inside of them. The stores fill `sums` or less of it. No register is named that is not an output.
            unsafe {
                asm!(
                    $(concat!("tilezero tmm", $sums),)*
                    "2:",
                    $(part!($instruction, $ask, $part $($of)*),)*
                    "add {upper}, 64",
                    "add {middle}, 64",
                    "add {lower}, 64",
                    "add {left}, 1024",
                    "add {right}, 1024",
                    "dec {count}",
                    "jnz 2b",
                    $(concat!("tilestored [{sums} + {line}*2 + ", $place, "], tmm", $sums),)*
                    upper = inout(reg) upper.as_ptr() => _,
                    middle = inout(reg) middle.as_ptr() => _,
                    lower = inout(reg) lower.as_ptr() => _,
                    left = inout(reg) left.as_ptr() => _,
                    right = inout(reg) right.as_ptr() => _,
                    count = inout(reg) left.len() / GROUPS => _,
                    stride = in(reg) stride * size_of::<$input>(),
                    ahead = in(reg) 2 * size_of_val(left),
                    line = in(reg) 64usize,
                    sums = in(reg) sums.as_mut_ptr(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                )
            }
        }
    };
}

/// [`Tiles`] of an instruction. Registers of two blocks and two panels are loaded once; for three there are not as many, and what is
/// loaded again is still in the first cache.
macro_rules! tiles {
    ($ask:ident, $instruction:literal, $types:tt) => {{
        multiply_tiles!(
            one, $ask, $instruction, $types,
            [
                rows "upper" 4, panel "left" 6, panel "right" 7, sums 0 4 6, ask "left", sums 1 4 7, ask "right"
            ],
            [0 0, 1 64]
        );
        multiply_tiles!(
            two, $ask, $instruction, $types,
            [
                rows "upper" 4, panel "left" 6, panel "right" 7, sums 0 4 6, ask "left",
                rows "middle" 5, sums 1 4 7, ask "right", sums 2 5 6, sums 3 5 7
            ],
            [0 0, 1 64, 2 2048, 3 2112]
        );
        multiply_tiles!(
            three, $ask, $instruction, $types,
            [
                panel "left" 7, rows "upper" 6, sums 0 6 7, ask "left", rows "middle" 6, sums 2 6 7, rows "lower" 6, sums 4 6 7,
                panel "right" 7, sums 5 6 7, ask "right", rows "middle" 6, sums 3 6 7, rows "upper" 6, sums 1 6 7
            ],
            [0 0, 1 64, 2 2048, 3 2112, 4 4096, 5 4160]
        );
        [one, two, three]
    }};
}

const FETCH_BYTES: Tiles<i8, u8, i32, 4> = tiles!(ask_for, "tdpbusd", [u8, [i8; 4], i32]);
const MULTIPLY_BYTES: Tiles<i8, u8, i32, 4> = tiles!(do_not_ask, "tdpbusd", [u8, [i8; 4], i32]);
const FETCH_FLOATS: Tiles<u16, u16, f32, 2> = tiles!(ask_for, "tdpbf16ps", [u16, [u16; 2], f32]);
const MULTIPLY_FLOATS: Tiles<u16, u16, f32, 2> = tiles!(do_not_ask, "tdpbf16ps", [u16, [u16; 2], f32]);
