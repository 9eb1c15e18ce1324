//! Hotwords as a graph that a search walks beside the scores (FunASR `runtime/onnxruntime/src/bias-lm.cpp`): a prefix tree
//! with back-off arcs, an Aho-Corasick automaton over tokens.
//!
//! Every token of a hotword brings the increment at once, so that the beam keeps a hotword that begins, and the last one the
//! weight of the word. What a beginning brought is taken back when the word does not go on, and at the end of speech. Where
//! FunASR's graph keeps such a bonus (at the end) or loses one (of a word inside another), this one counts: a path has the
//! bonus of the hotwords in it. Tokens that a shorter hotword of the same beginning has been paid for are not paid again.

use std::collections::HashMap;

use crate::decode::spelling::{CONTINUES, WORD_START};
use crate::decode::tokens::TokenList;

/// State in which no hotword has begun.
pub const ROOT: u32 = 0;
/// The same inside a word that is none: no hotword begins before the next word.
const INSIDE: u32 = 1;

/// The graph.
#[derive(Debug, Clone)]
pub struct BiasGraph {
    nodes: Vec<Node>,
    children: HashMap<(u32, u32), u32>,
    shapes: Vec<Shape>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Node {
    parent: u32,
    token: u32,
    /// Tokens from the root.
    depth: u32,
    /// Weight of the hotword that ends here.
    weight: Option<f32>,
    /// State of the longest end of this beginning that is a beginning too.
    back_off: u32,
    /// How many of the tokens are paid for if the next one goes on with the word, and if it begins another.
    paid: [u32; 2],
    /// Bonus of the hotwords that end here, for good.
    earned: f32,
    /// Bonus that is taken back if no hotword goes on.
    held: f32,
    /// Bonus of the hotwords that end here unless the next token goes on with their last word.
    settled: f32,
}

/// What a token says about the words around it.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    /// The next token is of the same word: `hel@@`.
    continues: bool,
    /// It goes on with the word before, if that is open: `lo` after `▁hel`.
    joins: bool,
    /// The next token may go on with its word: `▁hel`.
    open: bool,
}

impl Shape {
    /// That of each token of a vocabulary.
    fn all(tokens: &TokenList) -> Vec<Self> {
        let marks_starts = tokens.iter().any(|token| token.starts_with(WORD_START));
        let shape = |token: &str| Self {
            continues: token.ends_with(CONTINUES),
            joins: marks_starts && token.starts_with(|c: char| c.is_ascii_alphanumeric()),
            open: marks_starts && token.ends_with(|c: char| c.is_ascii_alphanumeric()),
        };
        tokens.iter().map(shape).collect()
    }
}

impl BiasGraph {
    /// A graph of hotwords, each as the tokens that spell it and the weight of the whole word besides the `increment` of each
    /// token; both in the units of scaled log-probabilities. The first of two that are spelled alike stands.
    pub fn new(hotwords: &[(Vec<u32>, f32)], increment: f32, tokens: &TokenList) -> Self {
        let mut graph =
            Self { nodes: vec![Node::default(); 2], children: HashMap::new(), shapes: Shape::all(tokens) };
        graph.children.reserve(hotwords.iter().map(|(tokens, _)| tokens.len()).sum());
        for (tokens, weight) in hotwords {
            graph.insert(tokens, *weight);
        }
        graph.link(increment);
        graph
    }

    /// The state after `token`, and the bonus that it brings or, below 0, takes back.
    pub fn step(&self, state: u32, token: u32) -> (u32, f32) {
        let next = self.next(state, token);
        let (from, to) = (&self.nodes[state as usize], &self.nodes[next as usize]);
        let settled = if self.shape(token).joins { 0.0 } else { from.settled };
        (next, to.earned + to.held + settled - from.held)
    }

    /// What is taken back if speech ends in this state.
    pub fn unearned(&self, state: u32) -> f32 {
        let node = &self.nodes[state as usize];
        node.held - node.settled
    }

    fn shape(&self, token: u32) -> Shape {
        self.shapes.get(token as usize).copied().unwrap_or_default()
    }

    fn insert(&mut self, tokens: &[u32], weight: f32) {
        let mut state = ROOT;
        for &token in tokens {
            let (next, depth) = (self.nodes.len() as u32, self.nodes[state as usize].depth + 1);
            let child = *self.children.entry((state, token)).or_insert(next);
            if child == next {
                self.nodes.push(Node { parent: state, token, depth, ..Node::default() });
            }
            state = child;
        }
        self.nodes[state as usize].weight.get_or_insert(weight);
    }

    /// Back-off arcs and bonuses, the states nearest to the root first: each looks at less deep ones.
    fn link(&mut self, increment: f32) {
        let mut order: Vec<u32> = (2..self.nodes.len() as u32).collect();
        order.sort_by_key(|&state| self.nodes[state as usize].depth);
        for state in order {
            let mut node = self.nodes[state as usize];
            let (parent, shape) = (self.nodes[node.parent as usize], self.shape(node.token));
            node.back_off = match node.parent {
                ROOT if shape.continues => INSIDE,
                ROOT => ROOT,
                _ => self.next(parent.back_off, node.token),
            };
            let paid = parent.paid[usize::from(!shape.joins)];
            let bonus = increment * (node.depth - paid) as f32 + node.weight.unwrap_or(0.0);
            let inner = self.nodes[node.back_off as usize];
            (node.earned, node.held, node.settled) = (inner.earned, bonus, inner.settled);
            node.paid = [paid; 2];
            match node.weight {
                Some(_) if shape.open => {
                    node.settled += bonus;
                    node.paid[1] = node.depth;
                }
                Some(_) => {
                    node.earned += bonus;
                    node.held = 0.0;
                    node.paid = [node.depth; 2];
                }
                None => {}
            }
            self.nodes[state as usize] = node;
        }
    }

    fn next(&self, mut state: u32, token: u32) -> u32 {
        loop {
            match self.children.get(&(state, token)) {
                Some(&child) => return child,
                None if state > INSIDE => state = self.nodes[state as usize].back_off,
                None if self.shape(token).continues => return INSIDE,
                None => return ROOT,
            }
        }
    }
}
