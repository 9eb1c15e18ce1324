//! Live sessions as their threads hold them.
//!
//! One thread owns them and moves those that are due on together. While it works, audio arrives; so the more sessions
//! there are, the more share a step. Nothing waits on purpose. A session whose segment has ended goes to a second
//! thread, which corrects segments of several sessions together, and comes back: a long segment holds up its own session
//! alone.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::Thread;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TryRecvError};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::batcher::{Budget, Entry, batches};
use super::live::{Input, Said};
use super::threads::{CORRECTIONS, spawn, step_back};
use super::{EngineOptions, Stats};
use crate::error::{Error, Result};
use crate::pipeline::{Message, Pass, RealTime, Session};

/// Pieces of one session in a round, so that one with much to hear does not keep the others waiting.
const PIECES_PER_ROUND: usize = 4;
/// Messages that nobody has taken, from which on a session rests.
pub(super) const MAX_UNTAKEN: usize = 64;

/// Starts the threads. They end when `arrivals` is closed and no session is left.
pub(super) fn start(
    models: &Arc<RealTime>,
    arrivals: Receiver<Slot>,
    options: &EngineOptions,
    stats: &Arc<Stats>,
) -> Result<Thread> {
    let (leave, ended) = mpsc::channel();
    let (back, corrected) = mpsc::channel();
    let owner = Owner {
        rounds: Rounds { models: models.clone(), pool: pool("live", options.threads, 0)? },
        arrivals,
        slots: Vec::new(),
        leave,
        corrected,
        away: 0,
        stats: stats.clone(),
    };
    let owner = spawn("live", move || owner.run())?.thread().clone();
    let rounds = Rounds { models: models.clone(), pool: pool("correct", options.threads, CORRECTIONS)? };
    let samples = options.batch_seconds as usize * models.sample_rate() as usize;
    let (budget, awake) = (Budget { samples, wait: Duration::ZERO }, owner.clone());
    spawn("correct", move || {
        step_back(CORRECTIONS);
        batches(&Mutex::new(ended), budget, |mut slots| {
            rounds.run(&mut slots.iter_mut().collect::<Vec<_>>(), RealTime::correct_each);
            slots.into_iter().for_each(|slot| drop(back.send(slot)));
            awake.unpark();
        });
    })?;
    Ok(owner)
}

fn pool(name: &'static str, threads: usize, nice: i32) -> Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(move |i| format!("{name} {i}"));
    let pool = pool.start_handler(move |_| step_back(nice)).build();
    pool.map_err(|cause| Error::Device(format!("threads: {cause}")))
}

/// What moves sessions on.
struct Rounds {
    models: Arc<RealTime>,
    pool: ThreadPool,
}

type Advance = fn(&RealTime, &mut [&mut Session]) -> Vec<Result<Vec<Message>>>;

impl Rounds {
    /// Moves sessions on together, and lets each say what it has to.
    fn run(&self, slots: &mut [&mut Slot], advance: Advance) {
        let mut sessions: Vec<&mut Session> = slots.iter_mut().map(|slot| &mut slot.session).collect();
        let said = self.pool.install(|| advance(&self.models, &mut sessions));
        for (slot, messages) in slots.iter_mut().zip(said) {
            match messages {
                Ok(messages) => slot.say(messages),
                Err(error) => slot.fail(error),
            }
        }
    }
}

/// The thread that owns the sessions.
struct Owner {
    rounds: Rounds,
    arrivals: Receiver<Slot>,
    slots: Vec<Slot>,
    /// To the second pass.
    leave: mpsc::Sender<Slot>,
    /// From it.
    corrected: mpsc::Receiver<Slot>,
    /// Sessions that are there.
    away: usize,
    stats: Arc<Stats>,
}

/// A session and its ends.
pub(super) struct Slot {
    session: Session,
    input: Receiver<Input>,
    output: Sender<Result<Said>>,
    /// Arrival of the oldest audio that is not dealt with; nothing if all is.
    due: Option<Instant>,
    stats: Arc<Stats>,
}

impl Entry for Slot {
    fn samples(&self) -> usize {
        self.session.awaited_samples().unwrap_or(0)
    }
}

impl Owner {
    fn run(mut self) {
        loop {
            while let Ok(slot) = self.corrected.try_recv() {
                self.away -= 1;
                self.slots.push(slot);
            }
            while let Ok(slot) = self.arrivals.try_recv() {
                self.slots.push(slot);
            }
            let rate = self.rounds.models.sample_rate();
            self.slots.retain_mut(|slot| slot.take_input(rate));
            if self.slots.iter().any(|slot| slot.due.is_some()) {
                self.advance();
            } else if self.slots.is_empty() && self.away == 0 && self.arrivals.is_closed() {
                return;
            } else {
                std::thread::park();
            }
        }
    }

    /// One round: all sessions with new audio.
    fn advance(&mut self) {
        let mut due: Vec<&mut Slot> = self.slots.iter_mut().filter(|slot| slot.due.is_some()).collect();
        self.stats.live_batches.observe(due.len() as f64);
        self.rounds.run(&mut due, RealTime::stream_each);
        for slot in self.slots.extract_if(.., |slot| slot.session.awaited_samples().is_some()) {
            // The other thread lives as long as this one.
            self.away += usize::from(self.leave.send(slot).is_ok());
        }
        self.slots.iter_mut().for_each(|slot| slot.due = None);
    }
}

impl Slot {
    pub fn new(
        session: Session,
        input: Receiver<Input>,
        output: Sender<Result<Said>>,
        stats: &Arc<Stats>,
    ) -> Self {
        stats.sessions.add(1);
        stats.sessions_opened.fetch_add(1, Ordering::Relaxed);
        Self { session, input, output, due: None, stats: stats.clone() }
    }

    /// Takes what has arrived, up to the share of a round; false if the session is over.
    fn take_input(&mut self, rate: u32) -> bool {
        if self.output.is_closed() || self.session.ended() {
            return false;
        }
        if self.output.len() >= MAX_UNTAKEN {
            return true;
        }
        for _ in 0..PIECES_PER_ROUND {
            let arrived = match self.input.try_recv() {
                Ok(Input::Audio { samples, arrived }) => {
                    let ms = samples.len() as u64 * 1000 / u64::from(rate);
                    self.stats.live_audio_ms.fetch_add(ms, Ordering::Relaxed);
                    if let Err(error) = self.session.push(&samples) {
                        self.fail(error);
                        return false;
                    }
                    arrived
                }
                Ok(Input::Finish { arrived }) => {
                    self.session.finish();
                    arrived
                }
                Err(TryRecvError::Empty) => break,
                // After `Finish` it is over by its final message, before it by the client's leaving.
                Err(TryRecvError::Closed) => return self.due.is_some(),
            };
            self.due.get_or_insert(arrived);
        }
        true
    }

    fn say(&mut self, messages: Vec<Message>) {
        let heard = self.due.unwrap_or_else(Instant::now);
        for message in messages {
            let seconds = match message.pass {
                Pass::Streaming { .. } => &self.stats.live_seconds,
                Pass::Corrected(_) => &self.stats.correction_seconds,
            };
            seconds.observe_time(heard.elapsed());
            // A client that has left is noticed in the next round.
            let _ = self.output.try_send(Ok(Said { message, heard }));
        }
    }

    fn fail(&mut self, error: Error) {
        self.stats.sessions_failed.fetch_add(1, Ordering::Relaxed);
        let _ = self.output.try_send(Err(error));
        self.output.close();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.stats.sessions.add(-1);
    }
}
