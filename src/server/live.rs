//! A live session driven from one task.

use std::pin::pin;

use crate::engine::{LiveOutput, Said};
use crate::error::Result;

/// Does `work` on the input of a session and takes what the session says meanwhile. A session rests while nobody takes its
/// messages, so waiting for its input alone could last for ever.
pub(super) async fn hearing<T>(
    output: &mut LiveOutput,
    work: impl Future<Output = T>,
) -> (T, Vec<Result<Said>>) {
    let (mut work, mut heard, mut open) = (pin!(work), Vec::new(), true);
    loop {
        tokio::select! {
            done = &mut work => return (done, heard),
            said = output.next(), if open => match said {
                Some(said) => heard.push(said),
                None => open = false,
            },
        }
    }
}
