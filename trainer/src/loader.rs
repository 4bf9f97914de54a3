//! Batches made on a thread of their own, so that the device does not wait for the disk.

use std::sync::mpsc::{IntoIter, sync_channel};
use std::thread::Scope;

use tch::Tensor;

use crate::dataset::Patches;
use crate::error::TrainError;

/// Batches that lie ready: one evens out a slow read, more only take memory.
const READY: usize = 2;
/// Batches in memory at once: those that lie ready, the one in the making, the one in use.
pub const IN_MEMORY: usize = READY + 2;

/// What a thread of its own makes, in order, see [`ahead`]; ends after the first error. Dropped early, it ends its thread.
#[derive(Debug)]
pub struct Ahead<T>(IntoIter<Result<T, TrainError>>);

/// Starts to make `count` things, `make(0)`, `make(1)`, … one after the other.
pub fn ahead<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    count: usize,
    mut make: impl FnMut(usize) -> Result<T, TrainError> + Send + 'scope,
) -> Ahead<T> {
    let (ready, made) = sync_channel(READY);
    scope.spawn(move || {
        for index in 0..count {
            let thing = make(index);
            let failed = thing.is_err();
            // Nobody listens any more: the epoch was ended early.
            if ready.send(thing).is_err() || failed {
                break;
            }
        }
    });
    Ahead(made.into_iter())
}

/// Starts to gather the patches of `order` in whole batches uint8 `[batch, 3·S, P, P]`; an incomplete last one is left out.
///
/// # Panics
/// When `batch` is 0.
pub fn batches<'scope>(
    scope: &'scope Scope<'scope, '_>,
    patches: &'scope Patches,
    order: &'scope [i64],
    batch: usize,
) -> Ahead<Tensor> {
    ahead(scope, order.len() / batch, move |index| patches.gather(&order[index * batch..(index + 1) * batch]))
}

impl<T> Iterator for Ahead<T> {
    type Item = Result<T, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

#[cfg(test)]
mod tests;
