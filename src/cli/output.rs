//! Writing to the terminal.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use funasr_candle::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

/// How a command that finds rows prints them; its `--format` says what a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Writes `text` to stdout. A reader that has left (`| head`) ends the program quietly.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe =>
        {
            #[expect(clippy::exit, reason = "nobody reads the results any more")]
            std::process::exit(0)
        }
        written => written.map_err(|e| Error::io("stdout", e)),
    }
}

/// Writes `text` and a line end to stdout.
pub fn print_line(text: &str) -> Result<()> {
    print(&format!("{text}\n"))
}

/// A line for the user on stderr.
pub fn note(text: &str) {
    // Nothing is left to do if stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says on one line of stderr what went wrong.
pub fn report_error(error: &Error) {
    note(&format!("error: {}", error.to_string().replace('\n', " ")));
}

/// A bar over `total` steps (a spinner without total) on stderr; nothing if that is no terminal.
pub fn progress_bar(name: &str, total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{prefix} [{bar:30}] {percent}% {elapsed} eta {eta}"),
        None => (ProgressBar::new_spinner(), "{prefix} {spinner} {elapsed}"),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_prefix(name.to_owned())
}
