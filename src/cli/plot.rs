//! A picture of what a model made of a recording, over time.

mod canvas;
mod glyphs;

use std::path::Path;

use canvas::{Align, Canvas, Rgb, TEXT_SIZE};
use funasr_candle::text::Token;
use funasr_candle::{Error, Result};
use glyphs::Glyphs;

use super::output::note;

/// Width of pictures: it grows with the duration between these bounds.
const WIDTHS: std::ops::RangeInclusive<f64> = 1600.0..=16_000.0;
const PIXELS_PER_SECOND: f64 = 110.0;
/// Least distance of the marks of the time axis.
const TICK_PIXELS: f64 = 90.0;

const LEFT: f32 = 60.0;
const RIGHT: f32 = 30.0;
const HEADER: f32 = 40.0;
/// Below the last panel: the time axis.
const FOOTER: f32 = 44.0;
/// Above each panel: its title.
const TITLE: f32 = 26.0;
const GAP: f32 = 14.0;
const WAVEFORM: f32 = 180.0;
const CURVE: f32 = 180.0;
const BAR: f32 = 14.0;
const LANE: f32 = 22.0;
/// Labels that overlap in so many lanes are left out.
const MAX_LANES: usize = 6;
/// Space between two labels.
const LABEL_GAP: f32 = 5.0;

const WAVEFORM_TITLE: &str = "waveform";
const SEGMENTS_TITLE: &str = ", speech segments shaded";
const WORDS_TITLE: &str = "words";
const TIME_TITLE: &str = "time (s)";

const INK: Rgb = [0x22, 0x22, 0x22];
const QUIET: Rgb = [0x66, 0x66, 0x66];
const GRID: Rgb = [0xcc, 0xd2, 0xd8];
const FRAME: Rgb = [0xb0, 0xb0, 0xb0];
const SIGNAL: Rgb = [0x1f, 0x4e, 0x8c];
const SPEECH: Rgb = [0xdc, 0xf0, 0xd8];
const SPEECH_EDGE: Rgb = [0x5a, 0xa0, 0x50];
const AREA: Rgb = [0xcf, 0xe0, 0xf2];
const FIRE: Rgb = [0xd1, 0x3b, 0x3b];
/// Neighbouring words alternate.
const WORDS: [Rgb; 2] = [[0x1b, 0x6f, 0x78], [0xa8, 0x5a, 0x10]];

/// What is drawn, panel under panel. Times count from the start of the recording.
#[derive(Debug, Default)]
pub struct Figure {
    /// Model and file.
    pub title: String,
    /// The recording.
    pub waveform: Option<Waveform>,
    /// Speech, `[begin, end]` in ms.
    pub segments: Vec<[u64; 2]>,
    /// A number a frame.
    pub curve: Option<Curve>,
    /// Words with times.
    pub words: Vec<Token>,
}

/// A recording.
#[derive(Debug)]
pub struct Waveform {
    /// Samples from -1 to 1.
    pub samples: Vec<f32>,
    /// Samples per second.
    pub rate: u32,
}

/// One number a frame, from 0 to about 1.
#[derive(Debug)]
pub struct Curve {
    /// What it is.
    pub title: String,
    /// Length of a frame.
    pub frame_ms: f64,
    /// The numbers.
    pub values: Vec<f32>,
    /// Frames to mark.
    pub marks: Vec<usize>,
}

/// A part of the picture as wide as the time axis.
#[derive(Clone, Copy)]
struct Panel {
    top: f32,
    bottom: f32,
}

impl Panel {
    /// y of `value` between `low` at the bottom and `high` at the top.
    fn y(&self, value: f32, [low, high]: [f32; 2]) -> f32 {
        self.bottom - (value - low) / (high - low) * (self.bottom - self.top)
    }
}

/// Where moments are.
#[derive(Clone, Copy)]
struct TimeAxis {
    seconds: f64,
    width: f32,
}

impl TimeAxis {
    fn over(seconds: f64) -> Self {
        let wanted = seconds * PIXELS_PER_SECOND + f64::from(LEFT + RIGHT);
        Self { seconds, width: wanted.clamp(*WIDTHS.start(), *WIDTHS.end()).round() as f32 }
    }

    fn right(&self) -> f32 {
        self.width - RIGHT
    }

    fn pixels_per_second(&self) -> f64 {
        f64::from(self.right() - LEFT) / self.seconds
    }

    fn x(&self, seconds: f64) -> f32 {
        LEFT + (seconds * self.pixels_per_second()) as f32
    }

    fn x_ms(&self, ms: u64) -> f32 {
        self.x(ms as f64 / 1000.0)
    }

    /// Marks of the axis in seconds, and how many decimals tell them apart.
    fn ticks(&self) -> (impl Iterator<Item = f64> + use<>, usize) {
        let least = TICK_PIXELS / self.pixels_per_second();
        let scale = 10f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|k| k * scale).into_iter().find(|&step| step >= least);
        let step = step.unwrap_or(10.0 * scale);
        let count = (self.seconds / step) as u32;
        ((0..=count).map(move |k| f64::from(k) * step), (-step.log10().floor()).max(0.0) as usize)
    }
}

impl Figure {
    /// Draws the picture and writes it to `path` as PNG. What has no room or no font is left out and said on stderr.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let glyphs = Glyphs::installed(&self.lettering());
        note_missing(&glyphs);
        let axis = TimeAxis::over(self.seconds());
        let lanes = lanes(&self.words, axis, &glyphs);
        let mut bottom = HEADER;
        let mut place = |height: f32, wanted: bool| {
            let top = bottom + TITLE;
            bottom = if wanted { top + height + GAP } else { bottom };
            wanted.then_some(Panel { top, bottom: top + height })
        };
        let lane_count = lanes.iter().flatten().max().map_or(0, |lane| lane + 1);
        let waveform = place(WAVEFORM, self.waveform.is_some());
        let curve = place(CURVE, self.curve.is_some());
        let words = place(BAR + LANE * lane_count as f32, !self.words.is_empty());
        let mut drawing =
            Drawing { canvas: Canvas::new(axis.width as u32, (bottom + FOOTER) as u32, glyphs)?, axis };
        drawing.time_axis(bottom);
        drawing.canvas.text(&self.title, [LEFT, HEADER - 12.0], Align::Left, INK);
        if let (Some(panel), Some(waveform)) = (waveform, &self.waveform) {
            drawing.waveform(panel, waveform, &self.segments);
        }
        if let (Some(panel), Some(curve)) = (curve, &self.curve) {
            drawing.curve(panel, curve);
        }
        if let Some(panel) = words {
            drawing.words(panel, &self.words, &lanes);
        }
        std::fs::write(path, drawing.canvas.png()?).map_err(|e| Error::io(path, e))
    }

    /// End of what is drawn.
    fn seconds(&self) -> f64 {
        let audio = self.waveform.as_ref().map_or(0.0, |w| w.samples.len() as f64 / f64::from(w.rate));
        let curve = self.curve.as_ref().map_or(0.0, |c| c.values.len() as f64 * c.frame_ms / 1000.0);
        let words = self.words.last().map_or(0.0, |word| word.end_ms as f64 / 1000.0);
        audio.max(curve).max(words)
    }

    /// Every character that may be written.
    fn lettering(&self) -> String {
        let words = self.words.iter().map(|word| word.text.as_str());
        let curve = self.curve.iter().map(|curve| curve.title.as_str());
        let titles =
            [self.title.as_str(), WAVEFORM_TITLE, SEGMENTS_TITLE, WORDS_TITLE, TIME_TITLE, "-.0123456789"];
        words.chain(curve).chain(titles).collect()
    }
}

/// A picture and its time axis.
struct Drawing {
    canvas: Canvas,
    axis: TimeAxis,
}

impl Drawing {
    /// The seconds, below `bottom`.
    fn time_axis(&mut self, bottom: f32) {
        let (ticks, decimals) = self.axis.ticks();
        for seconds in ticks {
            let place = [self.axis.x(seconds), bottom + TEXT_SIZE];
            self.canvas.text(&format!("{seconds:.decimals$}"), place, Align::Centre, QUIET);
        }
        self.canvas.text(TIME_TITLE, [LEFT, bottom + 2.0 * TEXT_SIZE + 6.0], Align::Left, QUIET);
    }

    /// Title, the marks of the time axis, and a line with a number at each of `levels`.
    fn frame(&mut self, panel: Panel, title: &str, levels: &[f32], range: [f32; 2]) {
        self.canvas.text(title, [LEFT, panel.top - 7.0], Align::Left, QUIET);
        for seconds in self.axis.ticks().0 {
            let x = self.axis.x(seconds).round() + 0.5;
            self.canvas.line([[x, panel.top], [x, panel.bottom]], 1.0, GRID);
        }
        for &level in levels {
            let y = panel.y(level, range).round() + 0.5;
            self.canvas.line([[LEFT, y], [self.axis.right(), y]], 1.0, FRAME);
            let label = [LEFT - 8.0, y + TEXT_SIZE * 0.35];
            self.canvas.text(&format!("{level:.2}"), label, Align::Right, QUIET);
        }
    }

    fn waveform(&mut self, panel: Panel, waveform: &Waveform, segments: &[[u64; 2]]) {
        for segment in segments {
            let [left, right] = segment.map(|ms| self.axis.x_ms(ms));
            self.canvas.rect([left, panel.top], [right, panel.bottom], SPEECH);
            for x in [left, right] {
                self.canvas.line([[x, panel.top], [x, panel.bottom]], 1.5, SPEECH_EDGE);
            }
        }
        let loudest = waveform.samples.iter().fold(0.0, |peak: f32, x| peak.max(x.abs()));
        let peak = if loudest.is_normal() { loudest } else { 1.0 };
        let range = [-peak, peak];
        let title = if segments.is_empty() { "" } else { SEGMENTS_TITLE };
        self.frame(panel, &format!("{WAVEFORM_TITLE}{title}"), &[-peak, 0.0, peak], range);
        // Per column of pixels, from the lowest to the highest sample.
        let samples_per_pixel = f64::from(waveform.rate) / self.axis.pixels_per_second();
        let last = waveform.samples.len().saturating_sub(1);
        for column in 0.. {
            let [start, end] = [column, column + 1].map(|c| (f64::from(c) * samples_per_pixel) as usize);
            let Some(samples) = waveform.samples.get(start..=(end.max(start)).min(last)) else { break };
            if samples.is_empty() {
                break;
            }
            let low = samples.iter().copied().fold(peak, f32::min);
            let high = samples.iter().copied().fold(-peak, f32::max);
            let x = LEFT + column as f32;
            self.canvas.rect([x, panel.y(high, range) - 0.5], [x + 1.0, panel.y(low, range) + 0.5], SIGNAL);
        }
    }

    fn curve(&mut self, panel: Panel, curve: &Curve) {
        let range = [0.0, curve.values.iter().copied().fold(1.0, f32::max)];
        let axis = self.axis;
        let x = |frame: usize| axis.x(frame as f64 * curve.frame_ms / 1000.0);
        let steps = curve.values.iter().enumerate().flat_map(|(frame, &value)| {
            let y = panel.y(value, range);
            [[x(frame), y], [x(frame + 1), y]]
        });
        let ends = [[x(curve.values.len()), panel.bottom], [LEFT, panel.bottom]];
        self.canvas.area(steps.clone().chain(ends), AREA);
        self.frame(panel, &curve.title, &[0.0, 0.5, 1.0], range);
        for &frame in &curve.marks {
            let x = (x(frame) + x(frame + 1)) / 2.0;
            self.canvas.line([[x, panel.top], [x, panel.bottom]], 1.2, FIRE);
            self.canvas.area([[x - 5.0, panel.top], [x + 5.0, panel.top], [x, panel.top + 8.0]], FIRE);
        }
        self.canvas.line(steps, 1.2, SIGNAL);
    }

    /// A bar over the time of each word, and its label below in its lane.
    fn words(&mut self, panel: Panel, words: &[Token], lanes: &[Option<usize>]) {
        self.frame(panel, WORDS_TITLE, &[], [0.0, 1.0]);
        let labels = panel.top + BAR;
        for ((word, lane), colour) in words.iter().zip(lanes).zip(WORDS.into_iter().cycle()) {
            let [left, right] = [word.start_ms, word.end_ms].map(|ms| self.axis.x_ms(ms));
            self.canvas.rect([left, panel.top], [right.max(left + 1.0), labels], colour);
            let (Some(lane), centre) = (lane, (left + right) / 2.0) else { continue };
            self.canvas.line([[centre, labels], [centre, labels + LANE * *lane as f32 + 4.0]], 0.6, colour);
        }
        for ((word, lane), colour) in words.iter().zip(lanes).zip(WORDS.into_iter().cycle()) {
            let Some(lane) = lane else { continue };
            let baseline = labels + LANE * (*lane + 1) as f32 - 4.0;
            self.canvas.text(&word.text, [centre(word, self.axis), baseline], Align::Centre, colour);
        }
    }
}

fn centre(word: &Token, axis: TimeAxis) -> f32 {
    axis.x((word.start_ms + word.end_ms) as f64 / 2000.0)
}

/// The lane of each label: the first in which it overlaps none before it, if there is one.
fn lanes(words: &[Token], axis: TimeAxis, glyphs: &Glyphs) -> Vec<Option<usize>> {
    let mut ends = [f32::MIN; MAX_LANES];
    let lane = |word: &Token| {
        let (centre, half) = (centre(word, axis), glyphs.width(&word.text) * TEXT_SIZE / 2.0);
        let lane = ends.iter().position(|end| end + LABEL_GAP <= centre - half)?;
        ends[lane] = centre + half;
        Some(lane)
    };
    let lanes: Vec<Option<usize>> = words.iter().map(lane).collect();
    let hidden = lanes.iter().filter(|lane| lane.is_none()).count();
    if hidden > 0 {
        note(&format!("note: {hidden} of {} words have no room for a label in the picture", words.len()));
    }
    lanes
}

fn note_missing(glyphs: &Glyphs) {
    const NEXT: &str = "install a font such as fonts-noto-cjk";
    let missing: String = glyphs.missing().chars().take(20).collect();
    if glyphs.is_empty() {
        note(&format!("note: no font is installed, so the picture has no labels; {NEXT}"));
    } else if !missing.is_empty() {
        note(&format!("note: no installed font draws {missing}; {NEXT}"));
    }
}
