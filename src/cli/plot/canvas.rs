//! What panels are drawn with. Lengths are in pixels, y downwards.

use funasr_candle::{Error, Result};
use tiny_skia::{Color, FillRule, Paint, PathBuilder, Pixmap, Rect, Shader, Stroke, Transform};

use super::glyphs::Glyphs;

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// Height of letters.
pub const TEXT_SIZE: f32 = 15.0;

/// Which point of a text is given.
#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Centre,
    Right,
}

/// A picture in the making.
pub struct Canvas {
    pixmap: Pixmap,
    glyphs: Glyphs,
}

impl Canvas {
    /// A white picture.
    ///
    /// # Errors
    /// A width or height of 0, or one that no picture can have.
    pub fn new(width: u32, height: u32, glyphs: Glyphs) -> Result<Self> {
        let mut pixmap = Pixmap::new(width, height).ok_or_else(|| {
            Error::Failed(format!("a picture of {width} x {height} pixels cannot be drawn"))
        })?;
        pixmap.fill(Color::WHITE);
        Ok(Self { pixmap, glyphs })
    }

    /// The picture as PNG.
    pub fn png(&self) -> Result<Vec<u8>> {
        self.pixmap.encode_png().map_err(|e| Error::Failed(format!("encoding the picture: {e}")))
    }

    /// A filled rectangle from `[left, top]` to `[right, bottom]`.
    pub fn rect(&mut self, [left, top]: [f32; 2], [right, bottom]: [f32; 2], colour: Rgb) {
        if let Some(rect) = Rect::from_ltrb(left, top, right, bottom) {
            self.pixmap.fill_rect(rect, &paint(colour), Transform::identity(), None);
        }
    }

    /// A line through `points`.
    pub fn line(&mut self, points: impl IntoIterator<Item = [f32; 2]>, width: f32, colour: Rgb) {
        if let Some(path) = path(points) {
            let stroke = Stroke { width, ..Stroke::default() };
            self.pixmap.stroke_path(&path, &paint(colour), &stroke, Transform::identity(), None);
        }
    }

    /// The area that `points` surround.
    pub fn area(&mut self, points: impl IntoIterator<Item = [f32; 2]>, colour: Rgb) {
        if let Some(path) = path(points) {
            let rule = FillRule::Winding;
            self.pixmap.fill_path(&path, &paint(colour), rule, Transform::identity(), None);
        }
    }

    /// A line of text; `y` is where its letters stand.
    pub fn text(&mut self, text: &str, [x, y]: [f32; 2], align: Align, colour: Rgb) {
        let width = self.glyphs.width(text) * TEXT_SIZE;
        let left = match align {
            Align::Left => x,
            Align::Centre => x - width / 2.0,
            Align::Right => x - width,
        };
        for (offset, outline) in self.glyphs.outlines(text) {
            let place = Transform::from_row(TEXT_SIZE, 0.0, 0.0, TEXT_SIZE, left + offset * TEXT_SIZE, y);
            self.pixmap.fill_path(outline, &paint(colour), FillRule::Winding, place, None);
        }
    }
}

fn paint(colour: Rgb) -> Paint<'static> {
    let [r, g, b] = colour;
    Paint { shader: Shader::SolidColor(Color::from_rgba8(r, g, b, 255)), ..Paint::default() }
}

/// Nothing for less than two points, and for points that are not finite.
fn path(points: impl IntoIterator<Item = [f32; 2]>) -> Option<tiny_skia::Path> {
    let mut path = PathBuilder::new();
    for [x, y] in points {
        if path.is_empty() {
            path.move_to(x, y);
        } else {
            path.line_to(x, y);
        }
    }
    path.finish()
}
