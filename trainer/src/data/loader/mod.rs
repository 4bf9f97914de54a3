//! Batches made on threads of their own, so that the device does not wait for the disk.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Scope, available_parallelism};

use tch::{Device, Tensor};

use crate::data::patches::Patches;
use crate::system::error::TrainError;
use crate::system::tensors::upload;

/// Batches that lie ready, per thread: one evens out a slow read, more only take memory.
const READY: usize = 1;
/// Most threads that make batches for a GPU, which works off in a millisecond what one thread makes in several.
const MOST_MAKERS: usize = 8;

/// How many threads make batches for `device`: one beside a processor that trains, half of the processor beside a GPU.
pub fn makers(device: Device) -> usize {
    match device {
        Device::Cpu => 1,
        _ => available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, MOST_MAKERS)),
    }
}

/// Batches in memory at once: those that lie ready, those in the making, the one in use.
pub fn in_memory(makers: usize) -> usize {
    makers * (READY + 1) + 1
}

/// What threads make side by side, in order, see [`ahead`]; ends after the first error. Dropped early, it ends its threads.
#[derive(Debug)]
pub struct Ahead<T> {
    made: Vec<Receiver<Result<T, TrainError>>>,
    /// Whose turn it is.
    next: usize,
}

/// Starts to make `count` things, `make(0)`, `make(1)`, …, on so many threads, which take turns.
///
/// # Panics
/// When there is no maker.
pub fn ahead<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    count: usize,
    makers: usize,
    make: impl Fn(usize) -> Result<T, TrainError> + Clone + Send + 'scope,
) -> Ahead<T> {
    assert!(makers > 0, "nobody makes batches");
    let start = |maker| {
        let (ready, made) = sync_channel(READY);
        let make = make.clone();
        scope.spawn(move || {
            for index in (maker..count).step_by(makers) {
                let thing = make(index);
                let failed = thing.is_err();
                // Nobody listens any more: the epoch was ended early.
                if ready.send(thing).is_err() || failed {
                    break;
                }
            }
        });
        made
    };
    Ahead { made: (0..makers).map(start).collect(), next: 0 }
}

/// Starts to gather the patches of `order` in whole batches uint8 `[batch, 3·S, P, P]` on `device`; an incomplete last one is
/// left out.
///
/// # Panics
/// When `batch` is 0.
pub fn batches<'scope>(
    scope: &'scope Scope<'scope, '_>,
    patches: &'scope Patches,
    order: &'scope [i64],
    batch: usize,
    device: Device,
) -> Ahead<Tensor> {
    ahead(scope, order.len() / batch, makers(device), move |index| {
        Ok(upload(patches.gather(&order[index * batch..(index + 1) * batch])?, device))
    })
}

impl<T> Iterator for Ahead<T> {
    type Item = Result<T, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let made = self.made.get(self.next)?.recv().ok();
        self.next = (self.next + 1) % self.made.len();
        if matches!(made, Some(Err(_))) {
            self.made.clear();
        }
        made
    }
}

#[cfg(test)]
mod tests;
