//! What keeps one request's failure from the others.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crate::error::{Error, Result};

/// How much file work steps back behind live work, on the scale of nice(1).
const BACKGROUND: i32 = 10;

/// Runs `work`; a panic in it becomes an error. What it changed is to be dropped then.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(message, "a request panicked");
        Err(Error::inference(format!("internal error: {message}")))
    })
}

/// Starts a named thread.
pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map_err(|cause| Error::Device(format!("thread {name}: {cause}")))
}

/// Lets the calling thread step back: when cores are short, live work comes first.
pub(super) fn step_back() {
    // On Linux the thread alone; where it is the whole process, all stay equal.
    let _ = rustix::process::nice(BACKGROUND);
}
