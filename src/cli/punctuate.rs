//! `punctuate`: bare text to punctuated text.

use funasr_candle::pipeline::PunctuationModel;
use funasr_candle::punctuation::realtime::Cache;
use funasr_candle::{Error, Result};

use super::output::{print, print_line};
use super::session::{self, ComputeArgs, HubArgs, Role};

/// Put punctuation into text
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Texts, one result each [default: the lines of stdin]
    texts: Vec<String>,
    /// Take each text as the continuation of the one before. A line is complete once the next one shows its last mark
    #[arg(long)]
    stream: bool,
    /// Punctuation model [default: an installed one, else the embedded demo-punc, with --stream demo-punc-realtime]
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
        let role = if self.stream { Role::RealtimePunctuation } else { Role::Punctuation };
        let (_, files) = session::open(self.model.as_deref(), role, &self.hub.options()?)?;
        let model = PunctuationModel::load(&files, &compute)?;
        if !self.texts.is_empty() {
            return self.punctuate(&model, self.texts.iter().cloned().map(Ok));
        }
        self.punctuate(&model, std::io::stdin().lines().map(|line| line.map_err(|e| Error::io("stdin", e))))
    }

    fn punctuate(
        &self,
        model: &PunctuationModel,
        mut texts: impl Iterator<Item = Result<String>>,
    ) -> Result<()> {
        if self.stream {
            return continued(model, texts);
        }
        texts.try_for_each(|text| print_line(&model.punctuate(&text?)?.text))
    }
}

/// Prints words at once and the mark after the last one when the next text shows which it is: a line begins with a
/// word and ends with its own mark.
fn continued(model: &PunctuationModel, mut texts: impl Iterator<Item = Result<String>>) -> Result<()> {
    let mut cache = Cache::default();
    let mut after = String::new();
    let mut line_ends = 0;
    let outcome = texts.try_for_each(|text| {
        let next = model.punctuate_next(&mut cache, &text?)?;
        if !next.text.is_empty() {
            print(&format!("{}{}{}", next.before, "\n".repeat(line_ends), next.text.trim_start()))?;
            (after, line_ends) = (next.after, 0);
        }
        line_ends += 1;
        Ok(())
    });
    print(&format!("{after}{}", "\n".repeat(line_ends)))?;
    outcome
}
