//! The stages of a streaming model, of one chunk after the other.

use candle_core::{DType, Device, Tensor};
use funasr_candle::Result;
use funasr_candle::decode::greedy::greedy;
use funasr_candle::models::paraformer_online::Output;
use funasr_candle::pipeline::{OnlineRecognizer, Piece, StreamOptions};

/// What the chunks gave, in order.
#[derive(Default)]
pub struct Chunks {
    speech: Vec<f32>,
    /// `[1, T, D]` of each chunk, the context at both sides included.
    encoder_out: Vec<Tensor>,
    alphas: Vec<f32>,
    /// `[1, L, D]` of each chunk in which a token fired.
    acoustic_embeds: Vec<Tensor>,
    /// `[1, L, V]`, likewise.
    decoder_logits: Vec<Tensor>,
    ids: Vec<u32>,
    /// Rows of each chunk in `encoder_out`.
    frames: Vec<u32>,
    /// Rows of each chunk in `decoder_logits`.
    tokens: Vec<u32>,
}

impl Chunks {
    /// Runs one stream from its start.
    pub fn run(recognizer: &OnlineRecognizer, options: &StreamOptions, pieces: &[Piece]) -> Result<Self> {
        let mut state = recognizer.model().start(options)?;
        let mut chunks = Self::default();
        for piece in pieces {
            let chunk = piece.chunk();
            chunks.speech.extend_from_slice(chunk.rows());
            chunks.push(recognizer.model().step(&mut [&mut state], &[chunk])?)?;
        }
        Ok(chunks)
    }

    fn push(&mut self, output: Output) -> Result<()> {
        let (frames, tokens) = (output.frames.max(), output.cif.tokens.max());
        self.frames.push(frames as u32);
        self.tokens.push(tokens as u32);
        self.encoder_out.push(output.encoder_out);
        self.alphas.extend(output.cif.alphas.iter().flatten());
        let Some(logits) = output.decoder_logits else { return Ok(()) };
        let vocab = logits.dim(2)?;
        let scores = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        self.ids.extend(greedy(&scores, vocab, tokens)?.iter().map(|emission| emission.id));
        self.acoustic_embeds.push(output.cif.acoustic_embeds);
        self.decoder_logits.push(logits);
        Ok(())
    }

    /// The stages by name, chunk after chunk; those of tokens only if any fired.
    pub fn tensors(self, width: usize) -> Result<Vec<(&'static str, Tensor)>> {
        let mut tensors = vec![
            ("speech", row(self.speech)?.reshape((1, (), width))?),
            ("encoder_out", Tensor::cat(&self.encoder_out, 1)?),
            ("alphas", row(self.alphas)?),
            ("ids", row(self.ids)?),
            ("chunk_frames", row(self.frames)?),
            ("chunk_tokens", row(self.tokens)?),
        ];
        if !self.decoder_logits.is_empty() {
            tensors.push(("acoustic_embeds", Tensor::cat(&self.acoustic_embeds, 1)?));
            tensors.push(("decoder_logits", Tensor::cat(&self.decoder_logits, 1)?));
        }
        Ok(tensors)
    }
}

/// `[1, values]`
fn row<T: candle_core::WithDType>(values: Vec<T>) -> Result<Tensor> {
    let shape = (1, values.len());
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
