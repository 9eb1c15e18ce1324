//! Memory for what products read.

use aligned_vec::{AVec, ConstAlign};

/// Values from the beginning of a cache line on: products fetch whole lines, and take up to three times as long where each is in two.
pub(crate) type Lines<T> = AVec<T, ConstAlign<64>>;

/// One value so many times.
pub(crate) fn lines<T: Copy>(value: T, len: usize) -> Lines<T> {
    let mut lines = Lines::with_capacity(64, len);
    lines.resize(len, value);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_begin_at_lines() {
        for len in [0, 1, 100, 1 << 20] {
            let bytes = lines(7u8, len);
            assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == 7));
            assert_eq!(bytes.as_ptr().addr() % 64, 0);
        }
    }
}
