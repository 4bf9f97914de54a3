//! Slides that settled and wait to be opened for a test, newest first: somebody waits for today's slides, and a good one must
//! not wait behind thousands that cannot be read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Settled;
use super::members::{Fingerprint, Member};

/// When the newest file of the slide was written, newest first; slides of the same moment go by name.
type Place = (Reverse<SystemTime>, PathBuf);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FirstLooks {
    order: BTreeSet<Place>,
    slides: BTreeMap<PathBuf, (SystemTime, Fingerprint)>,
}

impl FirstLooks {
    /// Adds a slide, in place of what waited under its name.
    pub(super) fn push(&mut self, Settled { slide, fingerprint }: Settled) {
        self.remove(&slide);
        let newest = fingerprint.members().iter().map(|Member { modified, .. }| *modified).max();
        let newest = newest.unwrap_or(SystemTime::UNIX_EPOCH);
        self.order.insert((Reverse(newest), slide.clone()));
        self.slides.insert(slide, (newest, fingerprint));
    }

    /// A slide that changed or is gone is not to be tested as it was.
    pub(super) fn remove(&mut self, slide: &Path) -> Option<Fingerprint> {
        let (newest, fingerprint) = self.slides.remove(slide)?;
        self.order.remove(&(Reverse(newest), slide.to_path_buf()));
        Some(fingerprint)
    }

    /// Takes out the newest.
    pub(super) fn pop(&mut self) -> Option<Settled> {
        let (_, slide) = self.order.first()?.clone();
        let fingerprint = self.remove(&slide)?;
        Some(Settled { slide, fingerprint })
    }

    /// When the newest was written.
    pub(super) fn newest(&self) -> Option<SystemTime> {
        self.order.first().map(|(Reverse(newest), _)| *newest)
    }

    /// How many are tested before this one; zero for one that does not wait.
    pub(super) fn before(&self, slide: &Path) -> usize {
        self.order.iter().position(|(_, waiting)| waiting == slide).unwrap_or(0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn slides(&self) -> impl Iterator<Item = &PathBuf> {
        self.order.iter().map(|(_, slide)| slide)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn settled(slide: &str, written: u64) -> Settled {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(written);
        let member = Member { path: slide.into(), bytes: 1, modified };
        Settled { slide: slide.into(), fingerprint: Fingerprint::new(vec![member]) }
    }

    proptest! {
        #[test]
        fn the_newest_comes_first_whatever_came_and_went(
            steps in prop::collection::vec((0_u64..20, 0_u64..9, any::<bool>()), 1..60),
        ) {
            let mut looks = FirstLooks::default();
            let mut model: BTreeMap<String, u64> = BTreeMap::new();
            for (name, written, comes) in steps {
                let name = format!("{name:02}.svs");
                if comes {
                    looks.push(settled(&name, written));
                    model.insert(name, written);
                } else {
                    prop_assert_eq!(looks.remove(Path::new(&name)).is_some(), model.remove(&name).is_some());
                }
            }
            let mut expected: Vec<(Reverse<u64>, PathBuf)> =
                model.into_iter().map(|(name, written)| (Reverse(written), name.into())).collect();
            expected.sort();
            prop_assert_eq!(looks.slides().collect::<Vec<_>>(), expected.iter().map(|(_, s)| s).collect::<Vec<_>>());
            for (place, (_, slide)) in expected.iter().enumerate() {
                prop_assert_eq!(looks.before(slide), place);
            }
            let taken: Vec<PathBuf> = std::iter::from_fn(|| looks.pop()).map(|settled| settled.slide).collect();
            prop_assert_eq!(taken, expected.into_iter().map(|(_, slide)| slide).collect::<Vec<_>>());
            prop_assert!(looks.is_empty() && looks.newest().is_none());
        }
    }
}
