//! The `funasr-candle` program: arguments in, library calls, exit code out.

mod cli;

use std::process::ExitCode;

use clap::Parser;

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
