//! Replace one module of a model and compare: here the encoder, by one that leaves out its last layers.
//!
//! Every stage of Paraformer is public: the encoder's layers run one by one, the predictor and the decoder take plain
//! tensors. So a module of your own stands beside the original, and the rest of the model stays as it is.
//!
//! Run:      cargo run --release --example swap_a_module -- models/demo/short_00_demo.wav
//! Expected: one line per depth; all 8 layers give the sentence, fewer give ever less of it.

use std::path::Path;

use candle_core::Tensor;
use funasr_candle::Result;
use funasr_candle::audio::read_all;
use funasr_candle::device::Compute;
use funasr_candle::hub::{HubOptions, resolve};
use funasr_candle::models::paraformer::{Output, Paraformer};
use funasr_candle::nn::{Lengths, SanmEncoder};
use funasr_candle::pipeline::{Network, Recognizer, Request, batch, open_model};

/// The module of our own: the first `depth` layers of a trained encoder.
struct ShallowEncoder<'a> {
    original: &'a SanmEncoder,
    depth: usize,
}

impl ShallowEncoder<'_> {
    fn forward(&self, speech: &Tensor, lengths: &Lengths) -> candle_core::Result<Tensor> {
        let mut x = self.original.embed(speech)?;
        for layer in &self.original.layers()[..self.depth] {
            x = layer.forward(&x, lengths)?;
        }
        self.original.after_norm().forward(&x)
    }
}

/// The model with that module in place of its encoder.
fn forward(
    model: &Paraformer,
    depth: usize,
    speech: &Tensor,
    lengths: &Lengths,
) -> candle_core::Result<Output> {
    let encoder_out = ShallowEncoder { original: model.encoder(), depth }.forward(speech, lengths)?;
    let cif = model.predictor().forward(&encoder_out, lengths)?;
    let decoder_logits =
        model.decoder().forward(&cif.acoustic_embeds, &cif.token_num, &encoder_out, lengths)?;
    Ok(Output { encoder_out, cif, decoder_logits })
}

fn main() -> Result<()> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "models/demo/short_00_demo.wav".into());
    let source = resolve("demo", &HubOptions::from_env()?)?;
    let recognizer = Recognizer::load(&open_model(&source)?, &Compute::cpu())?;
    let samples = read_all(Path::new(&file), recognizer.sample_rate(), Some(60.0))?;
    let features = recognizer.frontend().features(&samples);
    let (speech, lengths) = batch::pad(&[&features], recognizer.compute())?;

    let Network::Paraformer(model) = recognizer.network() else { unreachable!("demo is a Paraformer") };
    let reference = model.forward(&speech, &lengths)?.encoder_out;
    for depth in (1..=model.encoder().layers().len()).rev() {
        let output = forward(model, depth, &speech, &lengths)?;
        let change = (&output.encoder_out - &reference)?.abs()?.mean_all()?.to_scalar::<f32>()?;
        let text = recognizer.read(&output.into(), 0, &Request::default())?.joined.text;
        println!("{depth} layers, encoder output differs by {change:.3} on average: {text}");
    }
    Ok(())
}
