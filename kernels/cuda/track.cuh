// How the track of an item lies in a row of numbers: `Packed` of ../src/cuda/cif_fire.rs.

#pragma once

// `F` is const where it is read.
template <typename F> struct Track {
  // Planes of `columns` numbers, by frame and by firing.
  F *alphas, *peaks, *fires, *rests;
  // How many alphas, firings, tokens and frames there are.
  F* counts;

  __device__ Track(F* tracks, int item, int columns) {
    alphas = tracks + static_cast<long long>(item) * (4 * columns + 4);
    peaks = alphas + columns;
    fires = peaks + columns;
    rests = fires + columns;
    counts = rests + columns;
  }
};
