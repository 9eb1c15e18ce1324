//! Mean and variance normalisation from `am.mvn`, Kaldi's text form of a network (FunASR: `load_cmvn` in
//! `funasr/frontends/wav_frontend.py`). Features become `(x + shift) * scale`.

/// One value per feature, of the stacked (LFR) features.
#[derive(Debug, PartialEq)]
pub(crate) struct Cmvn {
    pub(crate) shift: Vec<f32>,
    pub(crate) scale: Vec<f32>,
}

impl Cmvn {
    /// Takes the line after `<AddShift>` and the one after `<Rescale>`; `<Splice>` has brackets, too, and is passed by.
    /// Blank lines count for nothing.
    ///
    /// # Errors
    /// The first thing that is missing, no finite number, or of a length that differs.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let shift = vector(text, "<AddShift>")?;
        let scale = vector(text, "<Rescale>")?;
        if shift.len() != scale.len() {
            return Err(format!("{} shifts but {} scales", shift.len(), scale.len()));
        }
        Ok(Self { shift, scale })
    }
}

fn vector(text: &str, component: &str) -> Result<Vec<f32>, String> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut lines = lines.by_ref().filter(|line| line.clone().next().is_some());
    lines
        .by_ref()
        .find(|line| line.clone().next() == Some(component))
        .ok_or_else(|| format!("no {component}"))?;
    let mut tokens = lines.next().ok_or_else(|| format!("nothing after {component}"))?;
    let (head, _rate, open) = (tokens.next(), tokens.next(), tokens.next());
    if head != Some("<LearnRateCoef>") || open != Some("[") || tokens.next_back() != Some("]") {
        return Err(format!("no `<LearnRateCoef> rate [ ... ]` after {component}"));
    }
    tokens.map(number).collect()
}

/// As numpy reads it: double precision first, then rounded.
fn number(token: &str) -> Result<f32, String> {
    let value = token.parse::<f64>().map_or(f32::NAN, |value| value as f32);
    if value.is_finite() { Ok(value) } else { Err(format!("{token:?} is no finite number")) }
}

#[cfg(test)]
mod tests {
    use super::Cmvn;

    const FILE: &str = "<Nnet>\n<Splice> 2 2\n[ 0 ]\n\n<AddShift> 2 2\n\n<LearnRateCoef> 0 [ -8.5 1e-1 ]\n\
                        <Rescale> 2 2\n<LearnRateCoef> 0 [ 0.5 .25 ]\n</Nnet>\n";

    #[test]
    fn takes_shift_and_scale_and_passes_blank_lines() {
        let cmvn = Cmvn::parse(FILE).unwrap();
        assert_eq!(cmvn, Cmvn { shift: vec![-8.5, 0.1], scale: vec![0.5, 0.25] });
        assert_eq!(Cmvn::parse(&FILE.replace('\n', "\r\n")).unwrap(), cmvn);
    }

    #[test]
    fn refuses_what_is_missing_or_no_number() {
        for (from, to, cause) in [
            ("<AddShift>", "<Add>", "no <AddShift>"),
            (
                "<Rescale> 2 2\n<LearnRateCoef> 0 [ 0.5 .25 ]\n</Nnet>\n",
                "<Rescale>",
                "nothing after <Rescale>",
            ),
            (".25 ]", ".25", "no `<LearnRateCoef> rate [ ... ]` after <Rescale>"),
            (".25", "x", "\"x\" is no finite number"),
            (".25", "nan", "\"nan\" is no finite number"),
            (".25", "1e300", "\"1e300\" is no finite number"),
            (".25", ".25 1", "2 shifts but 3 scales"),
        ] {
            assert_eq!(Cmvn::parse(&FILE.replace(from, to)).unwrap_err(), cause);
        }
    }
}
