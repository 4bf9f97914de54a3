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

/// Batches in their order, see [`batches`]; ends after the first error. Dropped early, it ends its thread.
#[derive(Debug)]
pub struct Batches(IntoIter<Result<Tensor, TrainError>>);

/// Starts to gather the patches of `order` in whole batches uint8 `[batch, 3·S, P, P]`; an incomplete last one is left out.
///
/// # Panics
/// When `batch` is 0.
pub fn batches<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    patches: &'env Patches,
    order: &'env [i64],
    batch: usize,
) -> Batches {
    let wanted = order.chunks_exact(batch);
    let (ready, batches) = sync_channel(READY);
    scope.spawn(move || {
        for indices in wanted {
            let gathered = patches.gather(indices);
            let failed = gathered.is_err();
            // Nobody listens any more: the epoch was ended early.
            if ready.send(gathered).is_err() || failed {
                break;
            }
        }
    });
    Batches(batches.into_iter())
}

impl Iterator for Batches {
    type Item = Result<Tensor, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

#[cfg(test)]
mod tests;
