use candle_core::{DType, Device};
use funasr_kernels::Lengths;

use crate::{assert_refused, tensor};

#[test]
fn mask_is_one_where_an_item_is_valid() {
    let lengths = Lengths::new(vec![2, 0, 3]);
    assert_eq!((lengths.batch(), lengths.max(), lengths.padded()), (3, 3, true));
    let mask = lengths.mask(DType::F32, &Device::Cpu).unwrap();
    assert_eq!(mask.to_vec2::<f32>().unwrap(), [[1., 1., 0.], [0., 0., 0.], [1., 1., 1.]]);
    assert!(!Lengths::full(2, 5).padded());
    assert_eq!(Lengths::full(2, 5), Lengths::new(vec![5, 5]));
}

#[test]
fn other_shapes_do_not_pass_the_check() {
    let lengths = Lengths::new(vec![2, 3]);
    let checked = |dims: &[usize]| {
        let x = tensor(&vec![0.0; dims.iter().product()], dims);
        lengths.check("some-op", &x).map(|()| x)
    };
    checked(&[2, 3, 4]).unwrap();
    for (dims, shown) in [([2, 4, 1], "[2, 4, 1]"), ([1, 3, 1], "[1, 3, 1]"), ([3, 2, 1], "[3, 2, 1]")] {
        assert_refused(checked(&dims), &["some-op", shown, "[2, 3, ..]"]);
    }
}
