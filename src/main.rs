//! The `funasr-candle` program: arguments in, library calls, exit code out.

mod cli;

use std::process::ExitCode;

use clap::Parser;

/// Gives back what a crowd of sessions needed; glibc's keeps it for good (docs/server.md has the numbers).
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Wrong usage ends inside `parse`, with exit code 2.
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::debug!(?error);
            cli::report_error(&error);
            ExitCode::FAILURE
        }
    }
}
