//! `punctuate`: bare text to punctuated text.

use funasr_candle::pipeline::PunctuationModel;
use funasr_candle::{Error, Result};

use super::output::print_line;
use super::session::{self, ComputeArgs, HubArgs, Role};

/// Put punctuation into text
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Texts, one result each [default: the lines of stdin]
    texts: Vec<String>,
    /// Punctuation model [default: an installed one, else the embedded demo-punc]
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    hub: HubArgs,
}

impl Args {
    /// Prints one line for each text.
    pub fn run(&self) -> Result<()> {
        let compute = self.compute.open()?;
        let (_, files) = session::open(self.model.as_deref(), Role::Punctuation, &self.hub.options()?)?;
        let model = PunctuationModel::load(&files, &compute)?;
        let punctuate = |text: &str| print_line(&model.punctuate(text)?.text);
        if !self.texts.is_empty() {
            return self.texts.iter().try_for_each(|text| punctuate(text));
        }
        for line in std::io::stdin().lines() {
            punctuate(&line.map_err(|e| Error::io("stdin", e))?)?;
        }
        Ok(())
    }
}
