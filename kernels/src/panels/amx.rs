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

/// Sizes of the registers: sums of the first 16 rows with two panels, of the other rows with the same, rows twice, panels twice.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    reserved: [u8; 15],
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// For so many rows of each half.
    fn new([upper, lower]: [usize; 2]) -> Self {
        let [upper, lower, groups] = [upper, lower, GROUPS].map(|rows| rows as u8);
        let mut shapes = Self { palette: 1, reserved: [0; 15], bytes: [0; 16], rows: [0; 16] };
        shapes.bytes[..8].fill(64);
        shapes.rows[..8].copy_from_slice(&[upper, upper, lower, lower, upper, lower, groups, groups]);
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
    multiply(panels, x, y, finish, [fetch_bytes, multiply_bytes]);
}

/// The same with bits of bf16. To be called where [`supported_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn multiply_bf16(
    panels: &Part<'_, u16, 2>,
    x: &[u16],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = f32>,
) {
    multiply(panels, x, y, finish, [fetch_floats, multiply_floats]);
}

/// Sums of two times 16 rows with two panels, one row after the other: what they become is written to both lines of a row at once.
type Sums<S> = [[[S; 2 * COLUMNS]; ROWS]; 2];
/// What finds them.
type Tiles<T, X, S, const GROUP: usize> = fn([&[X]; 2], [&[[[T; GROUP]; COLUMNS]]; 2], &mut Sums<S>);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
#[allow(unsafe_code)]
fn multiply<T: Sync, X, S: Copy + Default, const GROUP: usize>(
    panels: &Part<'_, T, GROUP>,
    x: &[X],
    y: &mut Output<'_>,
    finish: &impl Finish<Sum = S>,
    [fetch, multiply_tiles]: [Tiles<T, X, S, GROUP>; 2],
) {
    let (stride, depth) = (panels.stride(), panels.depth);
    let (mut sums, mut shaped) = (Sums::default(), [0; 2]);
    for (first, resident) in panels.resident(2) {
        for (i, rows) in x.chunks(2 * ROWS * stride).enumerate() {
            let count = rows.len() / stride;
            let counts = [count.min(ROWS), count.saturating_sub(ROWS)];
            // Which takes as long as a step or more.
            if counts != shaped {
                // Where there is no other half, the last row is multiplied again.
                Shapes::new([counts[0], counts[1].max(1)]).set();
                shaped = counts;
            }
            let halves = [rows, &rows[(count - 1).min(ROWS) * stride..]];
            // The first rows fetch the panels, which then are there for the others.
            let multiply_tiles = if i == 0 { fetch } else { multiply_tiles };
            for (p, pair) in resident.chunks(2 * depth).enumerate() {
                multiply_tiles(halves, places(pair, depth), &mut sums);
                let there = sums.iter().zip(counts).take(count.div_ceil(ROWS)).enumerate();
                for (half, (sums, count)) in there {
                    panels.put_pair(&sums[..count], [(2 * i + half) * ROWS, first + p * 2], finish, y);
                }
            }
        }
    }
    // SAFETY: sums have been stored; the registers are free again, so that threads that do other work change faster.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
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

/// A function of two times 16 rows, as many of them as [`Shapes`] says, and two panels, which writes their sums.
macro_rules! multiply_tiles {
    ($name:ident, $ask:ident, $instruction:literal, $input:ty, $group:ty, $sum:ty) => {
        #[allow(unsafe_code)]
        fn $name(
            [upper, lower]: [&[$input]; 2],
            [left, right]: [&[[$group; COLUMNS]]; 2],
            sums: &mut Sums<$sum>,
        ) {
            // SAFETY: panels are whole numbers of `GROUPS` long, and rows as long as panels; so each load reads what `Shapes`
            // says, inside of them. The stores fill `sums` or less of it. No register is named that is not an output.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "tileloadd tmm4, [{upper} + {stride}*1]",
                    "tileloadd tmm6, [{left} + {line}*1]",
                    "tileloadd tmm7, [{right} + {line}*1]",
                    concat!($instruction, " tmm0, tmm4, tmm6"),
                    $ask!("left", 0 64 128 192 256 320 384 448 512 576 640 704 768 832 896 960),
                    "tileloadd tmm5, [{lower} + {stride}*1]",
                    concat!($instruction, " tmm1, tmm4, tmm7"),
                    $ask!("right", 0 64 128 192 256 320 384 448 512 576 640 704 768 832 896 960),
                    concat!($instruction, " tmm2, tmm5, tmm6"),
                    concat!($instruction, " tmm3, tmm5, tmm7"),
                    "add {upper}, 64",
                    "add {lower}, 64",
                    "add {left}, 1024",
                    "add {right}, 1024",
                    "dec {count}",
                    "jnz 2b",
                    "tilestored [{sums} + {line}*2], tmm0",
                    "tilestored [{sums} + {line}*2 + 64], tmm1",
                    "tilestored [{sums} + {line}*2 + 2048], tmm2",
                    "tilestored [{sums} + {line}*2 + 2112], tmm3",
                    upper = inout(reg) upper.as_ptr() => _,
                    lower = inout(reg) lower.as_ptr() => _,
                    left = inout(reg) left.as_ptr() => _,
                    right = inout(reg) right.as_ptr() => _,
                    count = inout(reg) left.len() / GROUPS => _,
                    stride = in(reg) left.len() * size_of::<$group>(),
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

multiply_tiles!(fetch_bytes, ask_for, "tdpbusd", u8, [i8; 4], i32);
multiply_tiles!(multiply_bytes, do_not_ask, "tdpbusd", u8, [i8; 4], i32);
multiply_tiles!(fetch_floats, ask_for, "tdpbf16ps", u16, [u16; 2], f32);
multiply_tiles!(multiply_floats, do_not_ask, "tdpbf16ps", u16, [u16; 2], f32);
