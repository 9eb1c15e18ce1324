//! Text normalisation, on the sentences of its golden file: `cargo bench --bench text`.

// A bench that cannot start has nobody to report to.
#![allow(clippy::expect_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use funasr_candle::text::itn::{Itn, Language};

fn itn(criterion: &mut Criterion) {
    let rules = Itn::embedded().expect("the feature embedded-itn");
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../tests/golden/itn.json")).expect("the golden file");
    let mut group = criterion.benchmark_group("itn");
    for language in [Language::Chinese, Language::English] {
        let cases = golden[language.code()].as_array().expect("a list of cases");
        let texts: Vec<&str> = cases.iter().filter_map(|case| case[0].as_str()).collect();
        group.throughput(Throughput::Elements(texts.len() as u64));
        group.bench_function(language.code(), |b| {
            b.iter(|| {
                texts
                    .iter()
                    .map(|text| rules.normalize(black_box(text), Some(language)).text.len())
                    .sum::<usize>()
            })
        });
    }
}

criterion_group!(benches, itn);
criterion_main!(benches);
