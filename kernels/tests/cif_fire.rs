use funasr_kernels::{CifFire, Integration, Lengths, alpha};

use crate::{ROUNDS, Random, assert_refused, tensor};

/// A batch of random lengths, both ways to integrate, with and without a tail.
pub fn random_op(random: &mut Random, lengths: Lengths) -> CifFire {
    let integration = if random.flag() { Integration::Prefix } else { Integration::Stepwise };
    let scale = [0.5 + random.within(0, 10) as f32 / 10.0, random.within(0, 2) as f32 / 10.0];
    CifFire { lengths, scale, tail: random.flag().then_some(0.45), integration }
}

#[test]
fn alphas_by_hand() {
    assert_eq!(alpha(0.0, [1.0, 0.0]), 0.5);
    assert_eq!(alpha(0.0, [2.0, 0.25]), 0.75);
    assert_eq!(alpha(-100.0, [1.0, 0.25]), 0.0);
    assert_eq!(alpha(f32::NAN, [1.0, 0.0]), 0.0);
}

/// Each item's track is that of its own alphas, with a tail at its own end.
#[test]
fn items_are_those_alone() {
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let [batch, time] = [random.within(1, 4), random.within(0, 50)];
        let lengths = random.lengths(batch, time);
        let op = random_op(&mut random, lengths.clone());
        let logits = (random.tensor(&[batch, time]) * 3.0).unwrap();
        let fired = op.forward(&logits).unwrap();
        for ((track, row), &n) in
            fired.tracks().iter().zip(logits.to_vec2::<f32>().unwrap()).zip(lengths.items())
        {
            let alphas: Vec<f32> =
                row[..n].iter().map(|&logit| alpha(logit, op.scale)).chain(op.tail).collect();
            assert_eq!(track, &op.integration.track(alphas, op.tail.is_some()), "{op:?}");
            assert_eq!(track.frames, n);
        }
        let counts: Vec<usize> = fired.tracks().iter().map(|track| track.token_num).collect();
        assert_eq!(fired.token_num().items(), counts);
    }
}

/// By hand: where the sum passes a whole, and how many tokens that makes with and without a tail.
#[test]
fn tokens_by_hand() {
    let alphas = vec![0.5, 0.75, 0.5, 0.0];
    let track = Integration::Prefix.track(alphas.clone(), true);
    assert_eq!((track.fires, track.peaks), (vec![(1, 0.25)], vec![0.5, 1.25, 0.75, 0.75]));
    assert_eq!((track.token_num, track.frames), (1, 3));
    // 1.75 is rounded, and of 2.5 the even neighbour is 2.
    let track = Integration::Prefix.track(alphas, false);
    assert_eq!((track.token_num, track.frames), (2, 4));
    assert_eq!(Integration::Prefix.track(vec![2.5], false).token_num, 2);
    assert_eq!(Integration::Stepwise.track(Vec::new(), true).frames, 0);
}

#[test]
fn misfits_name_op_and_shapes() {
    let (lengths, integration) = (Lengths::new(vec![3]), Integration::Prefix);
    let op = CifFire { lengths, scale: [1.0, 0.0], tail: None, integration };
    let forward = |dims: &[usize]| {
        let logits = tensor(&vec![1.0; dims.iter().product()], dims);
        op.forward(&logits).map(|_| logits)
    };
    assert_refused(forward(&[1, 2]), &["cif-fire", "[1, 2]", "[1, 3"]);
    assert_refused(forward(&[2, 3]), &["cif-fire", "[2, 3]", "[1, 3"]);
    assert!(forward(&[1, 3, 1]).is_err());
}
