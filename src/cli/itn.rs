//! `itn`: spoken numbers to digits.

use funasr_candle::text::itn::Language;
use funasr_candle::{Error, Result};

use super::output::print_line;
use super::session::ItnArgs;

/// Write the numbers of a text in digits: 二零二二年 -> 2022年, twenty three dollars -> $23
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Texts, one result each [default: the lines of stdin]
    texts: Vec<String>,
    /// Language of the texts: zh, en [default: zh for a text with Chinese characters, else en]
    #[arg(long)]
    language: Option<Language>,
    #[command(flatten)]
    rules: ItnArgs,
}

impl Args {
    /// Prints one line for each text.
    pub fn run(&self) -> Result<()> {
        let rules = self.rules.load()?;
        let write = |text: &str| print_line(&rules.normalize(text, self.language).text);
        if !self.texts.is_empty() {
            return self.texts.iter().try_for_each(|text| write(text));
        }
        std::io::stdin().lines().try_for_each(|line| write(&line.map_err(|e| Error::io("stdin", e))?))
    }
}
