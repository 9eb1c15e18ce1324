//! Outlines of characters, from the fonts installed on this machine.

use std::collections::{BTreeSet, HashMap};

use fontdb::{Database, FaceInfo, Style, Weight};
use tiny_skia::{Path, PathBuilder, Transform};
use ttf_parser::{Face, OutlineBuilder, Tag};

/// Font families that come first, best first: sans serifs with Latin and Chinese, then Latin alone.
const PREFERRED: &[&str] = &[
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "DejaVu Sans",
    "Noto Sans",
    "Liberation Sans",
    "Helvetica",
    "Arial",
];

/// The characters of one picture. Lengths are in em.
#[derive(Default)]
pub struct Glyphs {
    glyphs: HashMap<char, Glyph>,
    missing: BTreeSet<char>,
}

struct Glyph {
    advance: f32,
    /// Nothing for a space.
    outline: Option<Path>,
}

impl Glyphs {
    /// The characters of `text`, each from the first installed font that draws it.
    pub fn installed(text: &str) -> Self {
        let mut fonts = Database::new();
        fonts.load_system_fonts();
        let mut faces: Vec<&FaceInfo> = fonts.faces().collect();
        faces.sort_by_key(|face| rank(face));
        let missing = text.chars().filter(|c| !c.is_control()).collect();
        let mut glyphs = Self { glyphs: HashMap::new(), missing };
        for face in faces {
            if glyphs.missing.is_empty() {
                break;
            }
            fonts.with_face_data(face.id, |data, index| glyphs.take_from(data, index));
        }
        glyphs
    }

    /// Characters that no installed font draws.
    pub fn missing(&self) -> String {
        self.missing.iter().collect()
    }

    /// Whether nothing can be written at all.
    pub fn is_empty(&self) -> bool {
        self.glyphs.is_empty()
    }

    /// Width of `text` on a line.
    pub fn width(&self, text: &str) -> f32 {
        text.chars().filter_map(|c| self.glyphs.get(&c)).map(|glyph| glyph.advance).sum()
    }

    /// Outlines of `text` and the place of each on the line.
    pub fn outlines(&self, text: &str) -> Vec<(f32, &Path)> {
        let (mut x, mut placed) = (0.0, Vec::new());
        for glyph in text.chars().filter_map(|c| self.glyphs.get(&c)) {
            placed.extend(glyph.outline.as_ref().map(|outline| (x, outline)));
            x += glyph.advance;
        }
        placed
    }

    /// Moves what this font draws from `missing` to `glyphs`. A font that cannot be read draws nothing.
    fn take_from(&mut self, data: &[u8], index: u32) {
        let Ok(mut face) = Face::parse(data, index) else { return };
        // Variable fonts may be thin by default.
        face.set_variation(Tag::from_bytes(b"wght"), 400.0);
        let found = self.missing.iter().filter_map(|&c| Some((c, glyph(&face, c)?)));
        self.glyphs.extend(found);
        self.missing.retain(|c| !self.glyphs.contains_key(c));
    }
}

/// Order in which fonts are tried: lowest first.
fn rank(face: &FaceInfo) -> (usize, bool, bool, u16) {
    let named = |name: &&str| face.families.iter().any(|(family, _)| family == name);
    let family = PREFERRED.iter().position(named).unwrap_or(PREFERRED.len());
    (family, face.style != Style::Normal, face.monospaced, face.weight.0.abs_diff(Weight::NORMAL.0))
}

fn glyph(face: &Face, c: char) -> Option<Glyph> {
    let id = face.glyph_index(c)?;
    let mut pen = Pen(PathBuilder::new());
    let drawn = face.outline_glyph(id, &mut pen).is_some();
    let em = 1.0 / f32::from(face.units_per_em());
    let outline = pen.0.finish().and_then(|path| path.transform(Transform::from_scale(em, -em)));
    // Fonts of bitmaps have characters without outlines.
    (drawn || c.is_whitespace())
        .then(|| Glyph { advance: f32::from(face.glyph_hor_advance(id).unwrap_or_default()) * em, outline })
}

/// A path in font units, upwards.
struct Pen(PathBuilder);

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.0.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.0.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.0.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.0.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.0.close();
    }
}
