//! Batches made in the background, so that the device does not wait for the disk.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Scope, available_parallelism};

use tch::{Device, Tensor};

use crate::data::patches::Patches;
use crate::system::error::TrainError;
use crate::system::tensors::upload;

/// Finished batches that wait, per thread. One compensates for a slow read; more only take memory.
const READY_BATCHES: usize = 1;
/// Maximum number of threads for a GPU. A GPU needs a millisecond for a batch that takes one thread several.
const MAX_THREADS: usize = 8;

/// Number of threads that make batches for `device`: one if the CPU trains, half of the cores if a GPU trains.
pub fn prefetch_threads(device: Device) -> usize {
    match device {
        Device::Cpu => 1,
        _ => available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(1, MAX_THREADS)),
    }
}

/// Number of batches in memory: finished ones, those being made, and the one in use.
pub fn batches_in_memory(prefetch_threads: usize) -> usize {
    prefetch_threads * (READY_BATCHES + 1) + 1
}

/// Iterator over values that background threads make, in order; see [`prefetch`]. It ends after the first error. If it is dropped early,
/// its threads end.
#[derive(Debug)]
pub struct Prefetcher<T> {
    made: Vec<Receiver<Result<T, TrainError>>>,
    /// The thread that makes the next value.
    next: usize,
}

/// Starts `prefetch_threads` threads that make `count` values, `make(0)`, `make(1)`, …, in turn.
///
/// # Panics
/// If `prefetch_threads` is 0.
pub fn prefetch<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    count: usize,
    prefetch_threads: usize,
    make: impl Fn(usize) -> Result<T, TrainError> + Clone + Send + 'scope,
) -> Prefetcher<T> {
    assert!(prefetch_threads > 0, "at least one thread is required");
    let start = |thread| {
        let (ready, made) = sync_channel(READY_BATCHES);
        let make = make.clone();
        scope.spawn(move || {
            for index in (thread..count).step_by(prefetch_threads) {
                let thing = make(index);
                let failed = thing.is_err();
                // The receiver is gone: the epoch ended early.
                if ready.send(thing).is_err() || failed {
                    break;
                }
            }
        });
        made
    };
    Prefetcher { made: (0..prefetch_threads).map(start).collect(), next: 0 }
}

/// Starts to gather the patches of `order` in complete batches uint8 `[batch, 3·S, P, P]` on `device`. An incomplete last batch is left
/// out.
///
/// # Panics
/// If `batch` is 0.
pub fn batches<'scope>(
    scope: &'scope Scope<'scope, '_>,
    patches: &'scope Patches,
    order: &'scope [i64],
    batch: usize,
    device: Device,
) -> Prefetcher<Tensor> {
    prefetch(scope, order.len() / batch, prefetch_threads(device), move |index| {
        Ok(upload(patches.gather(&order[index * batch..(index + 1) * batch])?, device))
    })
}

impl<T> Iterator for Prefetcher<T> {
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
