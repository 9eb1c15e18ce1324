//! Punctuation of many recordings together.
//!
//! One thread holds the texts and labels a window of each at a time; a text that comes joins at the next step, so a long
//! one holds up no other, and nothing waits on purpose.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use rayon::ThreadPool;

use super::Stats;
use super::threads::{FILES, spawn, step_back};
use crate::error::{Error, Result};
use crate::pipeline::PunctuationModel;
use crate::punctuation::{Labelling, Punctuated};

/// Texts whose windows share a step; as many may wait to join.
const MAX_TEXTS: usize = 64;

/// Takes texts from any thread. Its own thread ends when this is dropped.
#[derive(Debug, Clone)]
pub(super) struct Punctuations(SyncSender<Item>);

/// A text on its way.
struct Item {
    text: Labelling,
    reply: Sender<Result<Labelling>>,
}

impl Punctuations {
    /// Starts the thread; the steps are computed in `pool`.
    pub fn start(model: Arc<PunctuationModel>, pool: Arc<ThreadPool>, stats: &Arc<Stats>) -> Result<Self> {
        let (sender, arrivals) = sync_channel(MAX_TEXTS);
        let stats = stats.clone();
        spawn("punctuate", move || {
            step_back(FILES);
            let mut items = Vec::new();
            while gather(&arrivals, &mut items) {
                stats.punctuation_batches.observe(items.len() as f64);
                items = pool.install(|| step(&model, items));
            }
        })?;
        Ok(Self(sender))
    }

    /// Punctuates the text of a recording.
    pub fn punctuate(&self, model: &PunctuationModel, text: &str) -> Result<Punctuated> {
        let ended = || Error::Overloaded("the engine has ended".into());
        let (reply, labelled) = channel();
        self.0.send(Item { text: model.open(text), reply }).map_err(|_| ended())?;
        Ok(model.close(&labelled.recv().map_err(|_| ended())??))
    }
}

/// Waits for a text if there is none, and takes those that wait; false at the end.
fn gather(arrivals: &Receiver<Item>, items: &mut Vec<Item>) -> bool {
    if items.is_empty() {
        items.extend(arrivals.recv());
    }
    let room = MAX_TEXTS - items.len();
    items.extend(arrivals.try_iter().take(room));
    !items.is_empty()
}

/// Moves each text on by a window; returns those that go on.
fn step(model: &PunctuationModel, mut items: Vec<Item>) -> Vec<Item> {
    let results = model.step_each(&mut items.iter_mut().map(|item| &mut item.text).collect::<Vec<_>>());
    let mut going = Vec::new();
    for (item, result) in items.into_iter().zip(results) {
        match result {
            Ok(()) if item.text.window().is_some() => going.push(item),
            // Who asked may have been cancelled.
            result => drop(item.reply.send(result.map(|()| item.text))),
        }
    }
    going
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::device::Compute;
    use crate::weights::ModelFiles;

    /// A long text takes many steps; those that come while it is on its way share them and do not wait for its end.
    #[test]
    fn texts_share_steps_and_a_short_one_overtakes_a_long_one() {
        let files =
            ModelFiles::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-punc"))).unwrap();
        let model = PunctuationModel::load(&files, &Compute::cpu()).unwrap();
        let short = ["你好吗我很好", "", "hello你好我是赵磊会议室在四楼请带上你的电脑谢谢"];
        let long = short.concat().repeat(20);
        let (sender, arrivals) = sync_channel(MAX_TEXTS);
        let send = |text: &str| {
            let (reply, labelled) = channel();
            sender.send(Item { text: model.open(text), reply }).unwrap();
            (text.to_owned(), labelled)
        };
        let mut asked = vec![send(&long)];
        let (mut items, mut sizes) = (Vec::new(), Vec::new());
        while !asked.is_empty() && gather(&arrivals, &mut items) {
            sizes.push(items.len());
            items = step(&model, items);
            if sizes.len() == 2 {
                asked.extend(short.map(send));
            }
            asked.retain(|(text, labelled)| {
                let Ok(found) = labelled.try_recv() else { return true };
                assert_eq!(model.close(&found.unwrap()), model.punctuate(text).unwrap(), "{text}");
                assert!(text != &long || sizes.len() > 10);
                false
            });
        }
        assert_eq!(sizes[..3], [1, 1, 4], "{sizes:?}");
        assert_eq!(sizes.last(), Some(&1), "the long one ends last: {sizes:?}");
        drop(sender);
        assert!(!gather(&arrivals, &mut items));
    }
}
