//! Layers shared by the models. They know tensors and tensor names, and no model's name.
//!
//! Every `load` takes a [`VarBuilder`](candle_nn::VarBuilder) that stands at the layer's prefix and uses FunASR's
//! tensor names; every `forward` takes `[B, T, D]` and, where padding matters, the [`Lengths`] of the batch.

mod best;
mod bias_encoder;
mod chunk;
mod cif;
mod cif_stream;
mod cif_v3;
mod feed_forward;
mod fsmn;
mod history;
mod layer_norm;
mod linear;
mod lstm;
mod position;
mod sanm;
mod sanm_decoder;

pub use best::{best_of_rows, columns};
pub use bias_encoder::{BiasEncoder, BiasEncoderType, pad_hotwords};
pub use chunk::{Chunk, ChunkSize};
pub use cif::{CifConfig, CifOutput, CifPredictor};
pub use cif_stream::{CifState, CifStep, Decided};
pub use cif_v3::{CifPredictorV3, CifV3Config, UpsampleType};
pub use feed_forward::{DecoderFeedForward, FeedForward};
pub use fsmn::{FsmnBlock, FsmnBlockConfig, FsmnStack};
pub use funasr_kernels::{Cif, Integration, Lengths, Visible};
pub use history::History;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use lstm::{Lstm, LstmConfig};
pub use position::SinusoidalPositionEncoder;
pub use sanm::{EncoderLayer, EncoderState, SanmEncoder, SanmEncoderConfig, SanmMemory};
pub use sanm_decoder::{
    CrossAttention, DecoderLayer, DecoderStack, DecoderState, SanmDecoder, SanmDecoderConfig,
};
