//! Checks of a configuration, with the key and the reason.

use tissuemap::contract::{MAX_CLUSTERS, MAX_LATENT, MOST_CONTEXT_CELLS, PATCH_PX};

use super::sections::{AugmentConfig, AutoencoderConfig, SweepConfig};
use super::{AUTO, Config};

/// Minimum number of patches per cluster in a batch: with fewer, the batch mean is no estimate of the marginal distribution.
const BATCH_PER_CLUSTER: u32 = 8;

impl Config {
    /// Checks that a model can be trained with this configuration.
    ///
    /// # Errors
    /// The key and the reason.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_inputs()?;
        let AutoencoderConfig { widths, latent_dim, .. } = &self.autoencoder;
        positive("checkpoint_every_epochs", self.checkpoint_every_epochs)?;
        within("cpu_threads", self.cpu_threads, 1, 1024)?;
        require((0.0..=MOST_CONTEXT_CELLS).contains(&self.context_cells), || {
            format!("context_cells = {} must lie between 0 and {MOST_CONTEXT_CELLS}", self.context_cells)
        })?;
        if self.clusters != AUTO {
            within("clusters", self.clusters, 2, MAX_CLUSTERS)?;
        }
        self.validate_sweep()?;
        within("autoencoder.latent_dim", *latent_dim, 2, MAX_LATENT)?;
        positive("autoencoder.epochs", self.autoencoder.epochs)?;
        within("autoencoder.batch", self.autoencoder.batch, 2, 1 << 16)?;
        positive("imsat.epochs", self.imsat.epochs)?;
        within("imsat.restarts", self.imsat.restarts, 1, 1000)?;
        positive("imsat.neighbour", self.imsat.neighbour)?;
        require(!widths.is_empty(), || "autoencoder.widths is empty".to_owned())?;
        for &width in widths.iter().chain(&self.imsat.hidden) {
            within("a value of autoencoder.widths or imsat.hidden", width, 1, 1 << 14)?;
        }
        let step = 1u64 << widths.len().min(63);
        let side = self.patches.patch_px;
        require(u64::from(side).is_multiple_of(step), || {
            let count = widths.len();
            format!("patches.patch_px = {side} cannot be halved {count} times, once per autoencoder width")
        })?;
        let AugmentConfig { shift_px, stain_jitter, hue_jitter, neighbours, .. } = self.augment;
        require(shift_px < side, || {
            format!("augment.shift_px = {shift_px} must be less than patches.patch_px = {side}")
        })?;
        for (key, value, most) in [
            ("augment.stain_jitter", stain_jitter, 0.5),
            ("augment.hue_jitter", hue_jitter, 0.5),
            ("augment.neighbours", neighbours, 1.0),
        ] {
            require((0.0..=most).contains(&value), || format!("{key} = {value} must lie between 0 and {most}"))?;
        }
        positive("imsat.views", self.imsat.views)?;
        let fewest = BATCH_PER_CLUSTER * self.most_clusters();
        for (key, batch) in [("imsat.batch", self.imsat.batch), ("joint.batch", self.joint.batch)] {
            require(batch >= fewest, || {
                format!("{key} = {batch} is less than {BATCH_PER_CLUSTER} patches per cluster ({fewest})")
            })?;
        }
        for (key, value) in [
            ("autoencoder.invariance_weight", self.autoencoder.invariance_weight),
            ("autoencoder.redundancy_weight", self.autoencoder.redundancy_weight),
            ("imsat.view_weight", self.imsat.view_weight),
        ] {
            require(value.is_finite() && value >= 0.0, || format!("{key} = {value} must be 0 or above"))?;
        }
        for (key, value) in [
            ("autoencoder.learning_rate", self.autoencoder.learning_rate),
            ("imsat.learning_rate", self.imsat.learning_rate),
            ("joint.learning_rate", self.joint.learning_rate),
            ("imsat.lambda", self.imsat.lambda),
            ("imsat.mu", self.imsat.mu),
            ("imsat.xi", self.imsat.xi),
            ("imsat.radius_factor", self.imsat.radius_factor),
            ("joint.reconstruction_weight", self.joint.reconstruction_weight),
            ("joint.imsat_weight", self.joint.imsat_weight),
        ] {
            require(value.is_finite() && value > 0.0, || format!("{key} = {value} must be a number above 0"))?;
        }
        Ok(())
    }

    /// The largest number of clusters that will be fitted.
    fn most_clusters(&self) -> u32 {
        if self.clusters == AUTO { self.sweep.clusters.last } else { self.clusters }
    }

    fn validate_sweep(&self) -> Result<(), String> {
        let SweepConfig { clusters, seeds, hidden, epochs } = &self.sweep;
        within("the last number of sweep.clusters", clusters.last, 3, MAX_CLUSTERS)?;
        within("sweep.seeds", *seeds, 2, 1000)?;
        positive("sweep.epochs", *epochs)?;
        hidden.iter().try_for_each(|&width| within("a value of sweep.hidden", width, 1, 1 << 14))
    }

    fn validate_inputs(&self) -> Result<(), String> {
        require(!self.sets.is_empty(), || {
            "sets is empty: add at least one [[sets]] with a folder of slides".to_owned()
        })?;
        require(self.sets.iter().any(|from| !from.held_out), || {
            "every one of the sets is held_out: none is left to train on".to_owned()
        })?;
        require(!self.stains.is_empty(), || "stains is empty".to_owned())?;
        for (i, stain) in self.stains.iter().enumerate() {
            let name = &stain.name;
            require(!name.trim().is_empty(), || format!("stain number {} has no name", i + 1))?;
            let twice = self.stains[..i].iter().any(|other| other.name.eq_ignore_ascii_case(name));
            require(!twice, || format!("stain {name:?} is listed twice"))?;
        }
        require(self.stains.iter().any(|stain| stain.name == self.reference), || {
            format!("reference = {:?} is not one of the stains", self.reference)
        })?;
        let patches = &self.patches;
        within("patches.patch_px", patches.patch_px, *PATCH_PX.start(), *PATCH_PX.end())?;
        // With a larger stride, some tissue would be in no patch.
        within("patches.stride_px", patches.stride_px, 1, patches.patch_px)?;
        positive("patches.per_set", patches.per_set)?;
        let held_out = patches.held_out_fraction;
        require(held_out > 0.0 && held_out <= 0.5, || {
            format!("patches.held_out_fraction = {held_out} must be above 0 and at most 0.5")
        })?;
        let tissue = patches.min_tissue_fraction;
        require(tissue > 0.0 && tissue <= 1.0, || {
            format!("patches.min_tissue_fraction = {tissue} must be above 0 and at most 1")
        })
    }
}

fn require(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

fn within(key: &str, value: u32, least: u32, most: u32) -> Result<(), String> {
    require((least..=most).contains(&value), || format!("{key} = {value} must lie between {least} and {most}"))
}

fn positive(key: &str, value: u32) -> Result<(), String> {
    require(value > 0, || format!("{key} must be at least 1"))
}
