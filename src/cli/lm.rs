//! `lm`: n-gram language models for the search.

use std::path::PathBuf;

use clap::Subcommand;
use funasr_candle::decode::hotwords::SegDict;
use funasr_candle::decode::lm::Lexicon;
use funasr_candle::decode::lm::arpa::Arpa;
use funasr_candle::decode::lm::build::{BuildOptions, Report, build};
use funasr_candle::decode::spelling::Speller;
use funasr_candle::decode::tokens::TokenList;
use funasr_candle::{Error, Result};

use super::output::{note, print_line};
use super::session::{self, HubArgs, Role};

/// Language models for --lm
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(BuildArgs),
}

/// Make a decoding graph from an ARPA file: TLG.fst, config.yaml and lexicon.txt
#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// n-gram model, as SRILM, KenLM and the like write it
    #[arg(long, value_name = "FILE")]
    arpa: PathBuf,
    /// Recognition model whose tokens the graph reads [default: an installed one, else the embedded demo]
    #[arg(long, conflicts_with = "tokens")]
    model: Option<String>,
    /// Its token list (tokens.json) instead of a model
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Spellings: a line with a word and its tokens each [default: as the model would spell each word]
    #[arg(long, value_name = "FILE")]
    lexicon: Option<PathBuf>,
    /// Leave out <unk>, as FunASR does: what the n-gram model does not know cannot be said
    #[arg(long)]
    closed: bool,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    hub: HubArgs,
}

impl Args {
    /// Runs the subcommand.
    pub fn run(&self) -> Result<()> {
        match &self.command {
            Command::Build(args) => args.run(),
        }
    }
}

impl BuildArgs {
    fn run(&self) -> Result<()> {
        let (tokens, seg_dict) = self.vocabulary()?;
        let lexicon = self.lexicon.as_ref().map(Lexicon::read).transpose()?.unwrap_or_default();
        let arpa = Arpa::read(&self.arpa)?;
        let speller = Speller::new(&tokens, seg_dict.as_ref());
        let built = build(&arpa, &lexicon, &tokens, &speller, BuildOptions { closed: self.closed })?;
        built.write(&self.out)?;
        let Report { words, states, arcs, unspelled, examples, unknown_tokens } = &built.report;
        if *unspelled > 0 {
            let examples = examples.join(", ");
            note(&format!(
                "warning: {unspelled} words cannot be spelled and are left out, such as {examples}"
            ));
        }
        let folder = self.out.display();
        print_line(&format!(
            "{folder}: {words} words, {unknown_tokens} unknown tokens, {states} states, {arcs} arcs"
        ))
    }

    fn vocabulary(&self) -> Result<(TokenList, Option<SegDict>)> {
        if let Some(path) = &self.tokens {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
            return Ok((TokenList::from_json(path, &text)?, None));
        }
        let (_, files) = session::open(self.model.as_deref(), Role::Recognition, &self.hub.options()?)?;
        let (file, text) = files.tokens()?;
        let seg_dict = files.seg_dict().unwrap_or_default().map(|(_, text)| SegDict::parse(&text));
        Ok((TokenList::from_json(file, &text)?, seg_dict))
    }
}
