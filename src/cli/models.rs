//! `models`: the registry.

use clap::Subcommand;
use funasr_candle::hub::{self, HubOptions, ModelSource};
use funasr_candle::pipeline::CLASSES;
use funasr_candle::{Error, Result};

use super::output::{print, print_line};
use super::session::HubArgs;

/// List, download and check models
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// All models by name; `not yet` marks those that this version does not run
    List,
    /// Download and convert a model
    Pull {
        /// Registry name
        name: String,
    },
    /// Where a model is on this machine
    Path {
        /// Registry name or directory
        name: String,
    },
    /// What a model is, where it comes from, its licence
    Info {
        /// Registry name
        name: String,
    },
    /// Compare the files of a model with its lock file
    Verify {
        /// Registry name
        name: String,
    },
}

impl Args {
    /// Does what was asked.
    pub fn run(&self) -> Result<()> {
        let options = self.hub.options()?;
        match &self.action {
            Action::List => list(&options),
            Action::Pull { name } => match hub::embedded(name) {
                Some(_) => print_line(&format!("{name} is part of this program")),
                None => print_line(&hub::pull(name, &options)?.display().to_string()),
            },
            Action::Path { name } => path(name, &options),
            Action::Info { name } => info(name),
            Action::Verify { name } => {
                let lock = hub::verify(name, &options)?;
                print_line(&format!("{name}: {} files are as they were installed", lock.files.len()))
            }
        }
    }
}

fn list(options: &HubOptions) -> Result<()> {
    let installed = hub::installed(options)?;
    let mut lines = String::new();
    for model in hub::embedded_models() {
        lines.push_str(&format!("{:<26} embedded    {}\n", model.name, model.description));
    }
    for card in hub::cards()? {
        let state = if installed.iter().any(|model| model.name == card.name) {
            "installed".to_owned()
        } else if hub::embedded(&card.name).is_some() {
            continue;
        } else if !CLASSES.contains(&card.class.as_str()) {
            "not yet".to_owned()
        } else {
            card.approximate_mb.map_or_else(|| "-".to_owned(), |size| format!("~{size} MB"))
        };
        lines.push_str(&format!("{:<26} {state:<11} {}\n", card.name, card.description));
    }
    print(&lines)
}

fn path(name: &str, options: &HubOptions) -> Result<()> {
    match hub::locate(name, options) {
        Some(ModelSource::Dir(directory)) => print_line(&directory.display().to_string()),
        Some(ModelSource::Embedded(_)) => print_line(&format!("{name} is part of this program")),
        None => {
            let card = hub::card(name)?;
            let hint = format!("run `funasr-candle models pull {}`", card.name);
            Err(Error::Hub(format!("{} is not installed: {hint}", card.name)))
        }
    }
}

fn info(name: &str) -> Result<()> {
    let card = match (hub::card(name), hub::embedded(name)) {
        (Ok(card), _) => card,
        (Err(_), Some(model)) => {
            return print(&format!("name         {}\ndescription  {}\n", model.name, model.description));
        }
        (Err(error), None) => return Err(error),
    };
    let mut lines = vec![
        format!("name         {}", card.name),
        format!("description  {}", card.description),
        format!("class        {}", card.class),
        format!("languages    {}", card.languages.join(", ")),
        format!("licence      {} {}", card.licence.name, card.licence.url),
    ];
    for (hub, repo) in [("huggingface", &card.huggingface), ("modelscope", &card.modelscope)] {
        lines.extend(repo.iter().map(|repo| format!("{hub:<12} {} ({})", repo.repo, repo.revision)));
    }
    print(&(lines.join("\n") + "\n"))
}
