//! The number of threads that ops compute with.

use rayon::ThreadPoolBuilder;

/// Does `work` on one of these threads. The ops in it share their work with the others from there, where a thread that is none of
/// them hands over every op and sleeps until it is done.
pub fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Lets everything compute with `count` threads: rayon's pool, which our ops and the matrix products use, and candle's
/// own pool, which takes its size from the environment. To be called once, at the start of a program, before it has
/// other threads or has computed anything.
///
/// # Errors
/// If rayon's pool is running already.
#[allow(unsafe_code)]
pub fn set_threads(count: usize) -> Result<(), rayon::ThreadPoolBuildError> {
    for variable in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        // SAFETY: changing the environment races with other threads that read it; by the contract above there are none.
        unsafe { std::env::set_var(variable, count.to_string()) };
    }
    ThreadPoolBuilder::new().num_threads(count).build_global()
}
