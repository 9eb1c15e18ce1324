//! What forms ask of a transcription, and the transcription.

use super::App;
use super::reply::Refusal;
use super::upload::{Form, Upload};
use crate::pipeline::{Language, Transcript};

/// A recording and how it is to be transcribed.
#[derive(Debug)]
pub struct Order {
    /// The recording.
    pub upload: Upload,
    /// Its language.
    pub language: Language,
    /// Whether numbers are written as digits.
    pub itn: bool,
    /// A hotword list in any of FunASR's forms.
    pub hotwords: String,
}

impl Order {
    /// Reads the fields `language`, `itn`, `hotwords`, and OpenAI's `prompt` and `keywords[]`, which are hotwords too.
    ///
    /// # Errors
    /// A missing file, which `file_field` should have held; a value that is none of its field's.
    pub fn read(form: &mut Form, file_field: &'static str) -> Result<Self, Refusal> {
        let upload = form.file.take().ok_or_else(|| Refusal::missing(file_field))?;
        Ok(Self { upload, language: language(form), itn: switch(form, "itn", true)?, hotwords: hotwords(form) })
    }
}

/// The field `language`: a code or an English name; what no model is told, each hears by itself.
fn language(form: &Form) -> Language {
    let told = form.text("language").unwrap_or("auto").to_lowercase();
    let code = match told.as_str() {
        "chinese" | "mandarin" => "zh",
        "english" => "en",
        "cantonese" => "yue",
        "japanese" => "ja",
        "korean" => "ko",
        code => code.split(['-', '_']).next().unwrap_or_default(),
    };
    code.parse().unwrap_or_default()
}

fn hotwords(form: &Form) -> String {
    let mut lists = form.all("hotwords").chain(form.all("prompt")).chain(form.all("keywords[]")).chain(form.all("hotword"));
    let Some(first) = lists.next() else { return String::new() };
    lists.fold(first.to_owned(), |joined, list| format!("{joined}\n{list}"))
}

/// A field that is on or off.
///
/// # Errors
/// Any other word.
pub fn switch(form: &Form, name: &'static str, default: bool) -> Result<bool, Refusal> {
    match form.text(name).map(str::to_lowercase).as_deref() {
        None => Ok(default),
        Some("true" | "1" | "on" | "yes") => Ok(true),
        Some("false" | "0" | "off" | "no") => Ok(false),
        Some(_) => Err(Refusal::bad_request(format!("{name}: neither true nor false")).about(name)),
    }
}

/// A number.
///
/// # Errors
/// Anything else.
pub fn number(form: &Form, name: &'static str) -> Result<Option<f64>, Refusal> {
    let Some(text) = form.text(name) else { return Ok(None) };
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.map(Some).ok_or_else(|| Refusal::bad_request(format!("{name}: not a number")).about(name))
}
