//! The engine's threads.

use std::thread::JoinHandle;

use crate::error::{Error, Result};

/// How much the second pass of live sessions steps back behind the first, on the scale of nice(1): so much that it takes what the
/// first leaves, for a partial text is wanted at once. With 5, 200 sessions on two busy cores waited more than twice as long.
pub(super) const CORRECTIONS: i32 = 15;
/// How much file work steps back behind live work.
pub(super) const FILES: i32 = 19;

/// Starts a named thread.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map_err(|cause| Error::Device(format!("thread {name}: {cause}")))
}

/// Lets the calling thread step back: when cores are short, live work comes first.
pub(super) fn step_back(nice: i32) {
    // On Linux the thread alone; where it is the whole process, all stay equal.
    let _ = rustix::process::nice(nice);
}
