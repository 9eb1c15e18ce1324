//! Bare text to punctuated text, and the label of each word.
//!
//! Run:      cargo run --release --example punctuate -- 请帮我叫一辆出租车去超市
//! Expected: 请帮我叫一辆出租车，去超市。

use funasr_candle::Result;
use funasr_candle::device::Compute;
use funasr_candle::hub::{HubOptions, resolve};
use funasr_candle::pipeline::{PunctuationModel, open_model};
use funasr_candle::punctuation::split_words;

fn main() -> Result<()> {
    let text = std::env::args().nth(1).unwrap_or_else(|| "请帮我叫一辆出租车去超市".into());
    let source = resolve("demo-punc", &HubOptions::from_env()?)?;
    let model = PunctuationModel::load(&open_model(&source)?, &Compute::cpu())?;
    let punctuated = model.punctuate(&text)?;
    println!("{}", punctuated.text);
    for (word, label) in split_words(&text).into_iter().zip(&punctuated.labels) {
        println!("{label}  {word}");
    }
    Ok(())
}
