//! How segments are put into batches: each once, within the budget, with their values as they were.

use candle_core::{DType, Device, IndexOp, Tensor};
use funasr_candle::device::{Compute, Precision};
use funasr_candle::frontend::Features;
use funasr_candle::pipeline::batch::{bucket, pad};
use proptest::prelude::*;

#[test]
fn short_lists_are_bucketed_as_expected() {
    type Case = (&'static [usize], usize, &'static [&'static [usize]]);
    let cases: [Case; 6] = [
        (&[], 10, &[]),
        (&[7], 10, &[&[0]]),
        (&[70], 10, &[&[0]]),
        (&[5, 1, 5, 1], 10, &[&[1, 3], &[0, 2]]),
        (&[4, 3, 2, 1], 8, &[&[3, 2], &[1, 0]]),
        (&[0, 0, 9, 0], 9, &[&[0, 1, 3], &[2]]),
    ];
    for (lengths, budget, expected) in cases {
        assert_eq!(bucket(lengths, budget), expected, "{lengths:?} within {budget}");
    }
}

fn features(width: usize) -> impl Strategy<Value = Features> {
    (0usize..12).prop_flat_map(move |frames| {
        let values = prop::collection::vec(-10f32..10.0, frames * width);
        values.prop_map(move |values| Features { values, width })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn bucket_takes_each_once_and_keeps_the_budget(
        lengths in prop::collection::vec(0usize..500, 0..60),
        budget in 1usize..2000,
    ) {
        let groups = bucket(&lengths, budget);
        let mut all: Vec<usize> = groups.concat();
        prop_assert!(all.iter().map(|&i| lengths[i]).is_sorted(), "neighbours in length share a group: {groups:?}");
        all.sort_unstable();
        prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        for group in &groups {
            let longest = group.iter().map(|&i| lengths[i]).max().unwrap();
            prop_assert!(group.len() == 1 || group.len() * longest <= budget, "{group:?} of {lengths:?}");
        }
        // No group could have taken the first of the next one.
        for pair in groups.windows(2) {
            prop_assert!((pair[0].len() + 1) * lengths[pair[1][0]] > budget, "{groups:?} of {lengths:?}");
        }
    }

    #[test]
    fn pad_keeps_values_and_fills_with_zeros(
        items in (1usize..6).prop_flat_map(|width| prop::collection::vec(features(width), 1..7)),
    ) {
        let (padded, lengths) = pad(&items.iter().collect::<Vec<_>>(), &Compute::cpu()).unwrap();
        let frames: Vec<usize> = items.iter().map(Features::frames).collect();
        prop_assert_eq!(lengths.items(), &frames[..]);
        prop_assert_eq!(padded.dims(), [items.len(), lengths.max(), items[0].width]);
        for (b, item) in items.iter().enumerate() {
            let row: Vec<f32> = padded.i(b).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let (values, padding) = row.split_at(item.values.len());
            prop_assert_eq!(values, &item.values[..]);
            prop_assert!(padding.iter().all(|&x| x == 0.0));
        }
    }
}

#[test]
fn pad_makes_the_wanted_type() {
    let compute = Compute::on(Device::Cpu, Precision::F16).unwrap();
    let item = Features { values: vec![1.0, 2.0], width: 2 };
    let (padded, lengths) = pad(&[&item], &compute).unwrap();
    assert_eq!((padded.dtype(), lengths.items()), (DType::F16, &[1][..]));
    let expected = Tensor::new(&[[[1f32, 2.0]]], &Device::Cpu).unwrap();
    let values = padded.to_dtype(DType::F32).unwrap().to_vec3::<f32>().unwrap();
    assert_eq!(values, expected.to_vec3::<f32>().unwrap());
}
