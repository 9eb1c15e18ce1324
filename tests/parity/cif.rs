//! Integrate-and-fire on scripted alphas.

use funasr_candle::nn::Integration;

use crate::golden::Golden;

#[test]
fn cif_fires_where_funasr_does() {
    let golden = Golden::open("cif");
    let sequences = golden.json("sequences");
    let sequences = sequences.as_object().unwrap();
    assert!(sequences.len() >= 8);
    for (name, facts) in sequences {
        let alphas = golden.values(&format!("{name}.alphas"));
        let with_tail = Integration::Prefix.track(alphas.clone(), true);
        assert_eq!(with_tail.peaks, golden.values(&format!("{name}.fires")), "{name}: peaks");
        let frames: Vec<i64> = with_tail.fire_frames().map(|frame| frame as i64).collect();
        assert_eq!(frames, golden.integers(&format!("{name}.fire_frames")), "{name}: firing frames");
        if !facts["near_integer"].as_bool().unwrap() {
            assert_eq!(with_tail.token_num as u64, facts["floor"].as_u64().unwrap(), "{name}: token_num");
            let rounded = Integration::Prefix.track(alphas, false).token_num;
            assert_eq!(rounded as u64, facts["round"].as_u64().unwrap(), "{name}: rounded token_num");
        }
    }
}
