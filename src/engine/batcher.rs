//! Speech segments in shared batches: of many recordings, or of many live sessions.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Stats;
use super::threads::{FILES, spawn, step_back};
use crate::error::{Error, Result};
use crate::pipeline::{Recognition, Request, Utterance, batch};

/// Segments that may wait to be sorted into batches.
const MAX_WAITING: usize = 256;

/// Recognises utterances together.
pub(super) type Recognize = dyn Fn(&[Utterance]) -> Result<Vec<Recognition>> + Send + Sync;

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Samples in one padded batch.
    pub samples: usize,
    /// How long one that is not full waits for more.
    pub wait: Duration,
}

/// Takes segments from any thread. Its own threads end when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Batcher(SyncSender<Item>);

/// A segment on its way.
struct Item {
    samples: Vec<f32>,
    request: Arc<Request>,
    /// Its place in the recording.
    place: usize,
    reply: Sender<(usize, Result<Recognition>)>,
}

impl Batcher {
    /// Starts `threads` threads, each of which runs a batch at a time.
    pub fn start(
        threads: usize,
        budget: Budget,
        recognize: Arc<Recognize>,
        stats: &Arc<Stats>,
    ) -> Result<Self> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads {
            let (receiver, recognize, stats) = (receiver.clone(), recognize.clone(), stats.clone());
            spawn("recognize", move || {
                step_back(FILES);
                batches(&receiver, budget, |batch| run(batch, &*recognize, &stats));
            })?;
        }
        Ok(Self(sender))
    }

    /// Recognises the segments of a recording; the results are in order.
    pub fn recognize(&self, segments: Vec<Vec<f32>>, request: &Arc<Request>) -> Result<Vec<Recognition>> {
        let (reply, replies) = channel();
        let mut results = vec![Recognition::default(); segments.len()];
        for (place, samples) in segments.into_iter().enumerate() {
            let item = Item { samples, request: request.clone(), place, reply: reply.clone() };
            self.0.send(item).map_err(|_| ended())?;
        }
        drop(reply);
        for _ in 0..results.len() {
            let (place, result) = replies.recv().map_err(|_| ended())?;
            results[place] = result?;
        }
        Ok(results)
    }
}

fn ended() -> Error {
    Error::Overloaded("the engine has ended".into())
}

/// What has its place in a batch.
pub(super) trait Entry {
    /// Samples of its audio.
    fn samples(&self) -> usize;
}

/// Runs batches of what comes, until nobody sends any more.
pub(super) fn batches<T: Entry>(receiver: &Mutex<Receiver<T>>, budget: Budget, mut run: impl FnMut(Vec<T>)) {
    let mut waiting = Vec::new();
    while gather(receiver, budget, &mut waiting) {
        run(next_batch(&mut waiting, budget));
    }
}

/// Waits for a segment, and then until there are enough for a batch or the time is over; false at the end.
fn gather<T: Entry>(receiver: &Mutex<Receiver<T>>, budget: Budget, waiting: &mut Vec<T>) -> bool {
    let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
    if waiting.is_empty() {
        let Ok(first) = receiver.recv() else { return false };
        waiting.push(first);
    }
    let deadline = Instant::now() + budget.wait;
    while waiting.iter().map(Entry::samples).sum::<usize>() < budget.samples {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(item) => waiting.push(item),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    true
}

/// The segment that waits longest, with others of about its length.
fn next_batch<T: Entry>(waiting: &mut Vec<T>, budget: Budget) -> Vec<T> {
    let lengths: Vec<usize> = waiting.iter().map(Entry::samples).collect();
    let groups = batch::bucket(&lengths, budget.samples);
    let mut group = groups.into_iter().find(|group| group.contains(&0)).unwrap_or_default();
    group.sort_unstable();
    let mut batch: Vec<T> = group.iter().rev().map(|&i| waiting.remove(i)).collect();
    batch.reverse();
    batch
}

/// Answers every segment.
fn run(mut batch: Vec<Item>, recognize: &Recognize, stats: &Stats) {
    stats.file_batches.observe(batch.len() as f64);
    let results = batch::confined(&mut batch, &|batch: &mut [Item]| {
        recognize(&batch.iter().map(Item::utterance).collect::<Vec<_>>())
    });
    // A recording that has failed or was cancelled waits no more.
    batch.iter().zip(results).for_each(|(item, result)| drop(item.reply.send((item.place, result))));
}

impl Entry for Item {
    fn samples(&self) -> usize {
        self.samples.len()
    }
}

impl Item {
    fn utterance(&self) -> Utterance<'_> {
        Utterance { samples: &self.samples, request: &self.request }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::text::join::Joined;

    /// A recogniser that says the number of samples, and panics over a NaN.
    fn count(utterances: &[Utterance]) -> Result<Vec<Recognition>> {
        let one = |utterance: &Utterance| {
            assert!(!utterance.samples.iter().any(|x| x.is_nan()), "poison");
            let text = utterance.samples.len().to_string();
            Recognition { joined: Joined { text, ..Default::default() }, ..Default::default() }
        };
        Ok(utterances.iter().map(one).collect())
    }

    fn texts(results: Result<Vec<Recognition>>) -> Vec<String> {
        results.unwrap().into_iter().map(|result| result.joined.text).collect()
    }

    const BUDGET: Budget = Budget { samples: 1000, wait: Duration::from_millis(200) };

    #[test]
    fn a_poisoned_segment_fails_alone_and_the_thread_goes_on() {
        let batcher = Batcher::start(1, BUDGET, Arc::new(count), &Arc::default()).unwrap();
        let request = Arc::new(Request::default());
        let other = batcher.clone();
        let poisoned = std::thread::spawn(move || {
            other.recognize(vec![vec![0.0; 3], vec![f32::NAN; 4]], &Arc::new(Request::default()))
        });
        assert_eq!(texts(batcher.recognize(vec![vec![0.0; 5], vec![0.0; 2]], &request)), ["5", "2"]);
        let error = poisoned.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("poison"), "{error}");
        assert_eq!(texts(batcher.recognize(vec![vec![0.0; 7]], &request)), ["7"]);
    }

    /// A device with room for three segments: a batch of more is split until its parts fit, and what never fits is told.
    #[test]
    fn a_batch_that_memory_has_no_room_for_is_split() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let recognize = {
            let sizes = sizes.clone();
            move |utterances: &[Utterance]| {
                sizes.lock().unwrap().push(utterances.len());
                let needed: usize = utterances.iter().map(|utterance| utterance.samples.len()).sum();
                if needed > 30 {
                    Err(Error::inference("CUDA_ERROR_OUT_OF_MEMORY"))
                } else {
                    count(utterances)
                }
            }
        };
        let batcher = Batcher::start(1, BUDGET, Arc::new(recognize), &Arc::default()).unwrap();
        let request = Arc::new(Request::default());
        let texts = texts(batcher.recognize(vec![vec![0.0; 10]; 8], &request));
        assert_eq!(texts, vec!["10"; 8]);
        let sizes = std::mem::take(&mut *sizes.lock().unwrap());
        assert!(sizes.iter().all(|&size| size > 1), "halves, not single segments: {sizes:?}");
        let error = batcher.recognize(vec![vec![0.0; 31]], &request).unwrap_err().to_string();
        assert!(error.contains("OUT_OF_MEMORY"), "{error}");
    }

    #[test]
    fn segments_of_several_recordings_share_batches_within_the_budget() {
        let (most, batches) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let recognize = {
            let (most, batches) = (most.clone(), batches.clone());
            move |utterances: &[Utterance]| {
                let longest = utterances.iter().map(|utterance| utterance.samples.len()).max().unwrap();
                most.fetch_max(longest * utterances.len(), Ordering::Relaxed);
                batches.fetch_add(1, Ordering::Relaxed);
                count(utterances)
            }
        };
        let batcher = Batcher::start(1, BUDGET, Arc::new(recognize), &Arc::default()).unwrap();
        let recordings: Vec<_> = (0..8)
            .map(|i| {
                let batcher = batcher.clone();
                std::thread::spawn(move || {
                    let segments = vec![vec![0.0; 100 + i], vec![0.0; 50]];
                    texts(batcher.recognize(segments, &Arc::new(Request::default())))
                })
            })
            .collect();
        for (i, recording) in recordings.into_iter().enumerate() {
            assert_eq!(recording.join().unwrap(), [(100 + i).to_string(), "50".to_owned()]);
        }
        assert!(most.load(Ordering::Relaxed) <= BUDGET.samples);
        assert!(batches.load(Ordering::Relaxed) < 8, "{batches:?} batches of 16 segments");
    }
}
