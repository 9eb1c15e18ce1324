//! Weighted transducers over bytes: OpenFST files, and the best path of a text through one.
//!
//! Files are read by `rustfst`. The search is our own: `rustfst` composes text and rules as a whole, which takes 7 ms for a
//! sentence of twenty characters; this one only ever looks at arcs that the text takes and needs a hundredth of it. Among
//! paths of equal weight it finds the one that OpenFST finds (`Compose`, then `ShortestPath`), so texts agree.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use rustfst::fst_impls::{ConstFst, VectorFst};
use rustfst::fst_traits::{ExpandedFst, SerializableFst};
use rustfst::semirings::{Semiring, TropicalWeight};
use rustfst::{Label, Trs};

use crate::{Error, Result};

/// First bytes of an OpenFST file.
const MAGIC: [u8; 4] = 2_125_659_606i32.to_le_bytes();
/// Largest file that is read; those of FunASR and WeTextProcessing have 0.7 to 2 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Most positions of a search. Rules that branch more are not for texts; the text then stays as it is.
const MAX_NODES: usize = 1 << 21;
/// Label that reads or writes nothing.
const EPSILON: u8 = 0;
/// What comes after the last byte of a text.
const END: u8 = 0;
/// Bytes by which a search sees that an arc leads nowhere: one, and a Chinese character.
const AHEAD: [usize; 2] = [1, 3];

/// A transducer with bytes as labels.
#[derive(Clone)]
pub struct Transducer {
    start: u32,
    /// One more than there are states, so that the arcs of a state end where those of the next begin.
    states: Vec<State>,
    /// By state, then by input and output.
    arcs: Vec<Arc>,
    /// By state: the views of the texts that can be read from there on, for each of [`AHEAD`].
    ahead: Vec<[Views; 2]>,
}

/// What is seen of a text from some place on: some bytes, hashed to one.
#[derive(Clone, Copy, PartialEq)]
struct View(u8);

impl View {
    /// Nothing is seen.
    const NONE: Self = Self(0);

    fn of(text: &[u8], length: usize) -> Self {
        let bytes = (0..length).map(|at| text.get(at).copied().unwrap_or(END));
        bytes.rev().fold(Self::NONE, |rest, byte| rest.after(byte))
    }

    /// The view from a byte further ahead.
    fn after(self, byte: u8) -> Self {
        Self((self.0.rotate_left(3) ^ byte).wrapping_mul(157))
    }
}

/// A set of views.
#[derive(Clone, Copy, Default)]
struct Views([u64; 4]);

impl Views {
    fn only(view: View) -> Self {
        let mut views = Self::default();
        views.insert(view);
        views
    }

    fn insert(&mut self, View(view): View) {
        self.0[usize::from(view >> 6)] |= 1 << (view & 63);
    }

    fn contains(&self, View(view): View) -> bool {
        self.0[usize::from(view >> 6)] >> (view & 63) & 1 == 1
    }

    fn extend(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own |= other);
    }

    fn iter(self) -> impl Iterator<Item = View> {
        (0u8..4).zip(self.0).flat_map(|(word, mut bits)| {
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros() as u8;
                bits &= bits.wrapping_sub(1);
                (bit < 64).then_some(View(word << 6 | bit))
            })
        })
    }
}

#[derive(Clone, Copy)]
struct State {
    first_arc: u32,
    /// The arcs before this one read nothing.
    first_reading_arc: u32,
    /// Infinite if no text may end here.
    final_weight: f32,
}

#[derive(Clone, Copy)]
struct Arc {
    input: u8,
    output: u8,
    next: u32,
    weight: f32,
}

/// One arc of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Whether it reads the next byte of the text.
    pub reads: bool,
    /// The byte it writes, if any.
    pub writes: Option<u8>,
}

impl std::fmt::Debug for Transducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let states = self.states.len().saturating_sub(1);
        f.debug_struct("Transducer").field("states", &states).field("arcs", &self.arcs.len()).finish()
    }
}

impl Transducer {
    /// Reads an OpenFST file of at most 256 MB.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, else as [`Transducer::parse`].
    pub fn read(file: &Path) -> Result<Self> {
        let unreadable = |e| Error::io(file, e);
        let mut bytes = Vec::new();
        let opened = File::open(file).map_err(unreadable)?;
        opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(Error::config(file, format!("over {} MB", MAX_FILE_BYTES >> 20)));
        }
        Self::parse(file, &bytes)
    }

    /// Reads the bytes of an OpenFST file of type `vector` or `const` with tropical weights; `file` is only named in
    /// errors.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no such file, is damaged, has labels that are no bytes, or loops without reading.
    pub fn parse(file: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        let wrong = |cause: String| Error::config(&file, cause);
        let damaged = |_| wrong("a truncated or damaged OpenFST file".to_owned());
        match fst_type(bytes).map_err(wrong)?.as_str() {
            "vector" => Self::compile(&VectorFst::<TropicalWeight>::load(bytes).map_err(damaged)?),
            "const" => Self::compile(&ConstFst::<TropicalWeight>::load(bytes).map_err(damaged)?),
            other => Err(format!("an OpenFST file of type `{other}`; `vector` and `const` are read")),
        }
        .map_err(wrong)
    }

    fn compile<F>(fst: &F) -> std::result::Result<Self, String>
    where
        F: ExpandedFst<TropicalWeight>,
    {
        let count = fst.num_states();
        let start = fst.start().filter(|&start| (start as usize) < count).ok_or("no start state")?;
        let mut states = Vec::with_capacity(count + 1);
        let mut arcs = Vec::new();
        for state in 0..count as u32 {
            let final_weight = fst.final_weight(state).map_err(|e| e.to_string())?;
            let final_weight =
                final_weight.map_or(Ok(f32::INFINITY), |weight| finite(*weight.value(), state))?;
            let first_arc = u32::try_from(arcs.len()).map_err(|_| "over 2^32 arcs")?;
            for tr in fst.get_trs(state).map_err(|e| e.to_string())?.trs() {
                if tr.nextstate as usize >= count {
                    return Err(format!("state {state} leads to state {} of {count}", tr.nextstate));
                }
                let weight = finite(*tr.weight.value(), state)?;
                let (input, output) = (byte(tr.ilabel, state)?, byte(tr.olabel, state)?);
                arcs.push(Arc { input, output, next: tr.nextstate, weight });
            }
            let own = &mut arcs[first_arc as usize..];
            own.sort_by_key(|arc| (arc.input, arc.output));
            let first_reading_arc = first_arc + own.partition_point(|arc| arc.input == EPSILON) as u32;
            states.push(State { first_arc, first_reading_arc, final_weight });
        }
        let first_arc = arcs.len() as u32;
        states.push(State { first_arc, first_reading_arc: first_arc, final_weight: f32::INFINITY });
        let mut transducer = Self { start, states, arcs, ahead: Vec::new() };
        let order = transducer.silent_order()?;
        let mut views = vec![Views::only(View::NONE); count];
        let mut rounds = (1..=AHEAD[1]).map(|length| {
            views = transducer.look_ahead(&order, &views, View::of(&[], length));
            views.clone()
        });
        let [near, far] = [rounds.next(), rounds.last()].map(Option::unwrap_or_default);
        transducer.ahead = near.into_iter().zip(far).map(|(near, far)| [near, far]).collect();
        Ok(transducer)
    }

    /// All states, each before those that it leads to without reading; fails if that goes in a circle, in which a search
    /// would not end.
    fn silent_order(&self) -> std::result::Result<Vec<u32>, String> {
        let count = self.states.len() - 1;
        let mut before = vec![0u32; count];
        let silent = |state: u32| &self.arcs[self.silent(state)];
        for state in 0..count as u32 {
            silent(state).iter().for_each(|arc| before[arc.next as usize] += 1);
        }
        let mut order: Vec<u32> = (0..count as u32).filter(|&state| before[state as usize] == 0).collect();
        let mut done = 0;
        while let Some(&state) = order.get(done) {
            done += 1;
            for arc in silent(state) {
                before[arc.next as usize] -= 1;
                if before[arc.next as usize] == 0 {
                    order.push(arc.next);
                }
            }
        }
        match before.iter().position(|&before| before > 0) {
            Some(state) => Err(format!("state {state} leads back to itself without reading anything")),
            None => Ok(order),
        }
    }

    /// What may be read from each state on, of texts that are seen for one byte more than `shorter` tells. `order` is
    /// [`Transducer::silent_order`].
    fn look_ahead(&self, order: &[u32], shorter: &[Views], end: View) -> Vec<Views> {
        let mut longer = vec![Views::default(); order.len()];
        for &state in order.iter().rev() {
            let mut views = Views::default();
            if self.states[state as usize].final_weight.is_finite() {
                views.insert(end);
            }
            for arc in &self.arcs[self.all(state)] {
                match arc.input {
                    EPSILON => views.extend(longer[arc.next as usize]),
                    byte => shorter[arc.next as usize].iter().for_each(|rest| views.insert(rest.after(byte))),
                }
            }
            longer[state as usize] = views;
        }
        longer
    }

    /// Whether a text of which this is seen may be read from `state` on; now and then true where it may not.
    fn takes(&self, state: u32, views: [View; 2]) -> bool {
        let [near, far] = &self.ahead[state as usize];
        near.contains(views[0]) && far.contains(views[1])
    }

    fn all(&self, state: u32) -> Range<usize> {
        let [begin, end] = [0, 1].map(|next| self.states[state as usize + next].first_arc as usize);
        begin..end
    }

    /// The arcs that read nothing.
    fn silent(&self, state: u32) -> Range<usize> {
        let state = self.states[state as usize];
        state.first_arc as usize..state.first_reading_arc as usize
    }

    /// The arcs that read `byte`.
    fn reading(&self, state: u32, byte: u8) -> Range<usize> {
        let from = self.states[state as usize].first_reading_arc as usize;
        let arcs = &self.arcs[from..self.all(state).end];
        let begin = arcs.partition_point(|arc| arc.input < byte);
        let count = arcs[begin..].iter().take_while(|arc| arc.input == byte).count();
        from + begin..from + begin + count
    }

    /// The path of least weight that reads all of `text`, or nothing if no path does.
    pub(super) fn best_path(&self, text: &[u8]) -> Option<Vec<Step>> {
        let lattice = Lattice::new(self, text)?;
        let arcs = lattice.best_path(self)?;
        let step = |arc: &Arc| Step {
            reads: arc.input != EPSILON,
            writes: (arc.output != EPSILON).then_some(arc.output),
        };
        Some(arcs.into_iter().map(|arc| step(&self.arcs[arc as usize])).collect())
    }
}

/// The type of an OpenFST file with tropical weights, such as `vector`.
fn fst_type(bytes: &[u8]) -> std::result::Result<String, String> {
    let rest = bytes.strip_prefix(&MAGIC).ok_or("not an OpenFST file")?;
    let name = |bytes: &[u8]| {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::try_from(i32::from_le_bytes(*length)).ok()?;
        let (name, rest) = rest.split_at_checked(length.min(rest.len() + 1))?;
        Some((String::from_utf8_lossy(name).into_owned(), rest.len()))
    };
    let (fst_type, left) = name(rest).ok_or("a truncated or damaged OpenFST file")?;
    let (arc_type, _) = name(&rest[rest.len() - left..]).ok_or("a truncated or damaged OpenFST file")?;
    if arc_type != "standard" {
        return Err(format!("an OpenFST file with arcs of type `{arc_type}`; `standard` ones are read"));
    }
    Ok(fst_type)
}

fn byte(label: Label, state: u32) -> std::result::Result<u8, String> {
    u8::try_from(label).map_err(|_| format!("label {label} at state {state} is no byte"))
}

fn finite(weight: f32, state: u32) -> std::result::Result<f32, String> {
    if weight.is_finite() { Ok(weight) } else { Err(format!("weight {weight} at state {state}")) }
}

/// Every way through the rules that reads a text: a graph of states at places in the text, without cycles.
struct Lattice {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

#[derive(Clone, Copy)]
struct Node {
    /// Its edges are those from here up to here, first those that read nothing.
    edges: [u32; 2],
    /// Finite only behind the text.
    final_weight: f32,
}

#[derive(Clone, Copy)]
struct Edge {
    arc: u32,
    to: u32,
}

/// The nodes of one place in the text.
struct Place {
    /// Node and state.
    nodes: Vec<(u32, u32)>,
    /// By state: one more than its index in `nodes`, 0 for none.
    index: Vec<u32>,
}

impl Place {
    fn new(states: usize) -> Self {
        Self { nodes: Vec::new(), index: vec![0; states] }
    }

    fn clear(&mut self) {
        for (_, state) in self.nodes.drain(..) {
            self.index[state as usize] = 0;
        }
    }

    /// The node of `state`, made if there is none yet.
    fn node(&mut self, state: u32, nodes: &mut Vec<Node>) -> u32 {
        let index = &mut self.index[state as usize];
        if *index == 0 {
            self.nodes.push((nodes.len() as u32, state));
            *index = self.nodes.len() as u32;
            nodes.push(Node { edges: [0, 0], final_weight: f32::INFINITY });
        }
        self.nodes[*index as usize - 1].0
    }
}

impl Lattice {
    fn new(rules: &Transducer, text: &[u8]) -> Option<Self> {
        let mut lattice = Self { nodes: Vec::new(), edges: Vec::new() };
        let mut here = Place::new(rules.states.len());
        let mut next = Place::new(rules.states.len());
        here.node(rules.start, &mut lattice.nodes);
        for at in 0..text.len() {
            // A byte of that value would be taken for nothing.
            if text[at] == EPSILON {
                return None;
            }
            lattice.grow(rules, &mut here, Some(&mut next), &text[at..]);
            here.clear();
            (here, next) = (next, here);
            if here.nodes.is_empty() || lattice.nodes.len() > MAX_NODES {
                return None;
            }
        }
        lattice.grow(rules, &mut here, None, &[]);
        for (node, state) in here.nodes {
            lattice.nodes[node as usize].final_weight = rules.states[state as usize].final_weight;
        }
        Some(lattice)
    }

    /// Adds the edges of all nodes of the place before `text`: to others of that place, and to the next one.
    fn grow(&mut self, rules: &Transducer, here: &mut Place, mut next: Option<&mut Place>, text: &[u8]) {
        let [here_ahead, next_ahead] =
            [0, 1].map(|from| AHEAD.map(|length| View::of(text.get(from..).unwrap_or_default(), length)));
        let mut done = 0;
        while let Some(&(node, state)) = here.nodes.get(done) {
            let begin = self.edges.len() as u32;
            for arc in rules.silent(state) {
                if rules.takes(rules.arcs[arc].next, here_ahead) {
                    let to = here.node(rules.arcs[arc].next, &mut self.nodes);
                    self.edges.push(Edge { arc: arc as u32, to });
                }
            }
            if let (Some(next), Some(&byte)) = (&mut next, text.first()) {
                for arc in rules.reading(state, byte) {
                    if rules.takes(rules.arcs[arc].next, next_ahead) {
                        let to = next.node(rules.arcs[arc].next, &mut self.nodes);
                        self.edges.push(Edge { arc: arc as u32, to });
                    }
                }
            }
            self.nodes[node as usize].edges = [begin, self.edges.len() as u32];
            done += 1;
        }
    }

    /// Arcs of the best path. Nodes are visited in the topological order that OpenFST numbers them in, and of equal paths
    /// the one found first stays.
    fn best_path(&self, rules: &Transducer) -> Option<Vec<u32>> {
        let mut weights = vec![f32::INFINITY; self.nodes.len()];
        let mut from: Vec<(u32, u32)> = vec![(0, 0); self.nodes.len()];
        let mut best: Option<(f32, u32)> = None;
        weights[0] = 0.0;
        for node in self.topological_order() {
            let weight = weights[node as usize];
            for edge in self.edges(node) {
                let reached = weight + rules.arcs[edge.arc as usize].weight;
                if reached < weights[edge.to as usize] {
                    weights[edge.to as usize] = reached;
                    from[edge.to as usize] = (node, edge.arc);
                }
            }
            let complete = weight + self.nodes[node as usize].final_weight;
            if complete.is_finite() && best.is_none_or(|(least, _)| complete < least) {
                best = Some((complete, node));
            }
        }
        let (_, mut node) = best?;
        let mut path = Vec::new();
        while node != 0 {
            let (before, arc) = from[node as usize];
            path.push(arc);
            node = before;
        }
        path.reverse();
        Some(path)
    }

    fn edges(&self, node: u32) -> &[Edge] {
        let [begin, end] = self.nodes[node as usize].edges;
        &self.edges[begin as usize..end as usize]
    }

    /// All nodes, each before those it leads to: the reverse of the order in which a depth-first search leaves them.
    fn topological_order(&self) -> Vec<u32> {
        let mut seen = vec![false; self.nodes.len()];
        let mut left = Vec::with_capacity(self.nodes.len());
        let mut open: Vec<(u32, u32)> = vec![(0, self.nodes[0].edges[0])];
        seen[0] = true;
        while let Some((node, edge)) = open.last_mut() {
            if *edge == self.nodes[*node as usize].edges[1] {
                left.push(*node);
                open.pop();
                continue;
            }
            let to = self.edges[*edge as usize].to;
            *edge += 1;
            if !std::mem::replace(&mut seen[to as usize], true) {
                open.push((to, self.nodes[to as usize].edges[0]));
            }
        }
        left.reverse();
        left
    }
}
