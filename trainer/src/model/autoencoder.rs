//! The convolutional autoencoder: patch → latent → patch.
//!
//! Encoder: one stride-2 convolution with BatchNorm and ReLU per entry of `widths`, then a fully connected layer to the
//! latent, which is standardised (BatchNorm without scale): the perturbations of IMSAT then mean the same whatever the
//! encoder's scale, and joint fine-tuning cannot shrink the latent to make them vanish. Decoder: the mirror image.

use tch::nn::Path;
use tch::{Kind, Tensor};

use crate::config::AutoencoderShape;
use crate::model::layers::{Activation, Layer, Mode, Operator, chain};

/// Encoder, decoder, and the input normalisation between uint8 and what they work on.
#[derive(Debug)]
pub struct Autoencoder {
    shape: AutoencoderShape,
    mean: Tensor,
    deviation: Tensor,
    encoder: Vec<Layer>,
    to_latent: Layer,
    from_latent: Layer,
    decoder: Vec<Layer>,
}

impl Autoencoder {
    /// Parameters below `path`. `mean` and `deviation`: one value per channel, in uint8 units, measured on training patches.
    pub fn new(path: &Path<'_>, shape: &AutoencoderShape, mean: &[f32], deviation: &[f32]) -> Self {
        let per_channel = |name: &str, values: &[f32]| {
            let mut constant = path.zeros_no_train(name, &[1, shape.channels, 1, 1]);
            constant.copy_(&Tensor::from_slice(values).view([1, -1, 1, 1]));
            constant
        };
        let inputs = || std::iter::once(shape.channels).chain(shape.widths.iter().copied());
        let steps: Vec<(i64, i64)> = inputs().zip(shape.widths.iter().copied()).collect();
        let encoder = steps
            .iter()
            .enumerate()
            .map(|(i, &(from, to))| Layer::new(&(path / "encoder" / i), Operator::Conv, from, to, Activation::NormRelu))
            .collect();
        let decoder = steps
            .iter()
            .enumerate()
            .rev()
            .map(|(i, &(to, from))| {
                let activation = if i == 0 { Activation::None } else { Activation::NormRelu };
                Layer::new(&(path / "decoder" / i), Operator::ConvTranspose, from, to, activation)
            })
            .collect();
        let inner = shape.inner_len();
        Self {
            shape: shape.clone(),
            mean: per_channel("mean", mean),
            deviation: per_channel("deviation", deviation),
            encoder,
            to_latent: Layer::new(
                &(path / "to_latent"),
                Operator::Linear,
                inner,
                shape.latent_dim,
                Activation::Standardise,
            ),
            from_latent: Layer::new(
                &(path / "from_latent"),
                Operator::Linear,
                shape.latent_dim,
                inner,
                Activation::Relu,
            ),
            decoder,
        }
    }

    /// uint8 `[N, C, P, P]` → float `[N, C, P, P]` in normalised units: zero mean, unit variance per channel over the
    /// training patches.
    pub fn normalise(&self, patches: &Tensor) -> Tensor {
        (patches.to_device(self.mean.device()).to_kind(Kind::Float) - &self.mean) / &self.deviation
    }

    /// Normalised patches → latent `[N, D]`.
    pub fn encode(&self, normalised: &Tensor, mode: Mode) -> Tensor {
        let features = chain(&self.encoder, normalised, mode);
        self.to_latent.forward(&features.flatten(1, -1), mode)
    }

    /// Latent `[N, D]` → patches in normalised units.
    pub fn decode(&self, latent: &Tensor, mode: Mode) -> Tensor {
        let side = self.shape.inner_px();
        let features = self.from_latent.forward(latent, mode).view([-1, self.shape.inner_channels(), side, side]);
        chain(&self.decoder, &features, mode)
    }

    /// Mean squared difference per patch in normalised units: `[N]`.
    pub fn reconstruction_error(normalised: &Tensor, decoded: &Tensor) -> Tensor {
        (decoded - normalised).square().mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float)
    }

    /// The shape it was built with.
    pub fn shape(&self) -> &AutoencoderShape {
        &self.shape
    }

    /// Mean and standard deviation per channel, each `[1, C, 1, 1]`, in uint8 units.
    pub fn normalisation(&self) -> (&Tensor, &Tensor) {
        (&self.mean, &self.deviation)
    }

    /// Layers of the encoder in order, the last one giving the latent.
    pub fn encoder_layers(&self) -> impl Iterator<Item = &Layer> {
        self.encoder.iter().chain([&self.to_latent])
    }

    /// Layers of the decoder in order, the first one taking the latent.
    pub fn decoder_layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.from_latent).chain(&self.decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tch::nn::VarStore;

    #[test]
    fn shapes_fit_for_one_and_five_stains_and_both_patch_sizes() {
        let _turn = crate::testing::seeded(1);
        for (stains, patch_px, widths) in
            [(1, 64, vec![4, 8]), (5, 64, vec![4, 8, 8, 8]), (5, 128, vec![2, 4, 4, 4, 4])]
        {
            let shape = AutoencoderShape { channels: 3 * stains, patch_px, widths, latent_dim: 6 };
            let store = VarStore::new(Device::Cpu);
            let channels = vec![128.0; 3 * stains as usize];
            let net = Autoencoder::new(&store.root(), &shape, &channels, &channels);
            let patches = Tensor::randint(256, [3, shape.channels, patch_px, patch_px], (Kind::Uint8, Device::Cpu));
            let x = net.normalise(&patches);
            let latent = net.encode(&x, Mode::Train);
            assert_eq!(latent.size(), [3, 6]);
            let decoded = net.decode(&latent, Mode::Train);
            assert_eq!(decoded.size(), x.size());
            assert_eq!(Autoencoder::reconstruction_error(&x, &decoded).size(), [3]);
        }
    }

    #[test]
    fn normalised_units_are_zero_mean_and_unit_variance_where_the_constants_say_so() {
        let shape = AutoencoderShape { channels: 3, patch_px: 4, widths: vec![2], latent_dim: 2 };
        let store = VarStore::new(Device::Cpu);
        let net = Autoencoder::new(&store.root(), &shape, &[100.0, 0.0, 255.0], &[50.0, 1.0, 5.0]);
        let patches = Tensor::full([1, 3, 4, 4], 150, (Kind::Uint8, Device::Cpu));
        let x = net.normalise(&patches).amax([0i64, 2, 3].as_slice(), false);
        assert_eq!(Vec::<f32>::try_from(&x).expect("floats"), [1.0, 150.0, -21.0]);
    }
}
