//! Hotwords as vectors: token embeddings through an LSTM whose last state stands for the word
//! (FunASR `models/seaco_paraformer/model.py`, `models/contextual_paraformer/model.py`).

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use funasr_kernels::{Join, JoinRows};
use serde::Deserialize;

use super::{Lengths, Linear, Lstm, LstmConfig};

/// Hotwords that go through the LSTM at once.
const BATCH: usize = 512;
/// The token that ends every list and stands for "no hotword": `<s>`.
const SENTINEL: u32 = 1;

/// Supported `bias_encoder_type`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasEncoderType {
    /// See [`BiasEncoder`].
    #[default]
    Lstm,
}

/// The encoder of hotwords.
#[derive(Debug, Clone)]
pub struct BiasEncoder {
    embed: Tensor,
    lstm: Lstm,
    lstm_proj: Option<Linear>,
}

impl BiasEncoder {
    /// Loads `bias_encoder.*` and, if bidirectional, `lstm_proj`; `embed [V, D]` are the token embeddings.
    pub fn load(embed: Tensor, layers: usize, bidirectional: bool, vb: VarBuilder) -> Result<Self> {
        let width = embed.dim(1)?;
        let config = LstmConfig { inputs: width, hidden: width, layers, bidirectional };
        let project = || Linear::load_f32(2 * width, width, vb.pp("lstm_proj"));
        Ok(Self {
            lstm: Lstm::load_f32(&config, vb.pp("bias_encoder"))?,
            lstm_proj: bidirectional.then(project).transpose()?,
            embed,
        })
    }

    /// Token ids of each hotword -> `[N + 1, D]`; the last one is that of `<s>`, which stands for "no
    /// hotword".
    ///
    /// # Errors
    /// A hotword without tokens or with an unknown one.
    pub fn forward(&self, hotwords: &[Vec<u32>]) -> Result<Tensor> {
        let vocab = self.embed.dim(0)?;
        for (i, ids) in hotwords.iter().enumerate() {
            match ids.iter().find(|&&id| id as usize >= vocab) {
                Some(id) => bail!("hotword {i}: token {id} of a list of {vocab}"),
                None if ids.is_empty() => bail!("hotword {i} has no tokens"),
                None => {}
            }
        }
        let words: Vec<&[u32]> = hotwords.iter().map(Vec::as_slice).chain([&[SENTINEL][..]]).collect();
        // Words of like length go through together, so that little is padding.
        let mut order: Vec<usize> = (0..words.len()).collect();
        order.sort_by_key(|&i| words[i].len());
        let last_states = |batch: &[usize]| self.last_states(batch.iter().map(|&i| words[i]).collect());
        let states = order.chunks(BATCH).map(last_states).collect::<Result<Vec<_>>>()?;
        let mut rows = vec![0u32; words.len()];
        (0..).zip(&order).for_each(|(row, &i)| rows[i] = row);
        Tensor::cat(&states, 0)?.index_select(&Tensor::new(rows, self.embed.device())?, 0)
    }

    /// One batch of hotwords -> `[N, D]`.
    fn last_states(&self, hotwords: Vec<&[u32]>) -> Result<Tensor> {
        let lengths = Lengths::new(hotwords.iter().map(|ids| ids.len()).collect::<Vec<_>>());
        let (count, time) = (lengths.batch(), lengths.max());
        let padding = |ids: &[u32]| std::iter::repeat_n(0, time - ids.len());
        let ids: Vec<u32> = hotwords.iter().flat_map(|ids| ids.iter().copied().chain(padding(ids))).collect();
        let embedded = self.embed.index_select(&Tensor::new(ids, self.embed.device())?, 0)?;
        let states = self.lstm.forward(&embedded.reshape((count, time, ()))?, &lengths)?;
        let last = |(i, n): (usize, &usize)| (i * time + n - 1) as u32;
        let last: Vec<u32> = lengths.items().iter().enumerate().map(last).collect();
        let states = states.flatten(0, 1)?.index_select(&Tensor::new(last, self.embed.device())?, 0)?;
        self.lstm_proj.as_ref().map_or(Ok(states.clone()), |project| project.forward(&states))
    }
}

/// The hotwords of each item of a batch, `[N, D]` or none, as one padded memory `[B, M, D]` of the kind of
/// `like [B, L, D]`, and how many each item has.
pub fn pad_hotwords(items: &[Option<&Tensor>], like: &Tensor) -> Result<(Tensor, Lengths)> {
    let counts = items.iter().map(|item| item.map_or(Ok(0), |x| x.dim(0))).collect::<Result<Vec<_>>>()?;
    let join = |&past: &usize| Join { lead: 0, past, fresh: 0, trail: 0, keep: 0..0 };
    let lists = items.iter().map(|item| item.filter(|x| x.dims()[0] > 0).map(|x| x.unsqueeze(0)).transpose());
    let mut rows = JoinRows::new(counts.iter().map(join).collect(), lists.collect::<Result<_>>()?, 1)?;
    Ok((rows.forward(like)?, Lengths::new(counts)))
}
