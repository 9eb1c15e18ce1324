//! Mean and variance normalisation.

use super::Features;
use crate::error::{Error, Result};

/// `(x + shift) * scale` on stacked rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Cmvn {
    shift: Vec<f32>,
    scale: Vec<f32>,
}

impl Cmvn {
    /// Both vectors are as wide as a row.
    pub fn new(shift: Vec<f32>, scale: Vec<f32>) -> Result<Self> {
        if shift.len() != scale.len() {
            let message = format!("CMVN has {} shifts and {} scales", shift.len(), scale.len());
            return Err(Error::config("frontend", message));
        }
        Ok(Self { shift, scale })
    }

    /// What is added, one value for each of a row.
    pub fn shift(&self) -> &[f32] {
        &self.shift
    }

    /// What the sums are multiplied by.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Normalises every row in place.
    pub fn apply(&self, features: &mut Features) {
        for row in features.values.chunks_mut(self.shift.len().max(1)) {
            for ((x, shift), scale) in row.iter_mut().zip(&self.shift).zip(&self.scale) {
                *x = (*x + shift) * scale;
            }
        }
    }
}
