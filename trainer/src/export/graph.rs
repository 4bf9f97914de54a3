//! Writes a network as an ONNX graph: cast, normalise, encode, cluster, decode, compare.

use std::collections::BTreeSet;

use tch::{Kind, Tensor};
use tissuemap::contract::graph::{FLOAT, FLOAT16, GraphBuilder, int, ints};
use tissuemap::contract::onnx::AttributeProto;
use tissuemap::contract::{CLUSTER_PROBS, INPUT, LATENT, Precision, RECONSTRUCTION_ERROR, Signature};

use crate::export::network::{Network, NetworkLayer, StoredWeights};
use crate::export::quantisation::{Quantisation, half_bits};
use crate::model::layers::{KERNEL, Operator, PADDING, STRIDE};
use crate::system::error::TrainError;
use crate::system::tensors::to_vec;

impl Network {
    /// The graph. Normalisation, softmax and the reconstruction error are float32 in every precision.
    pub(super) fn graph(&self, signature: Signature) -> Result<GraphBuilder, TrainError> {
        let graph = GraphBuilder::new("autoencoder with IMSAT clusterer", signature);
        let mut writer = Writer { graph, is_half: self.precision == Precision::Fp16, quantised: BTreeSet::new() };
        writer.constant("mean", &self.mean)?;
        writer.constant("deviation", &self.deviation)?;
        writer.graph.node("Cast", &[INPUT], "values", &[int("to", FLOAT)]);
        writer.graph.node("Sub", &["values", "mean"], "centred", &[]);
        writer.graph.node("Div", &["centred", "deviation"], "normalised", &[]);

        let mut value = writer.narrowed("normalised");
        let last = self.encoder.len() - 1;
        for (i, step) in self.encoder.iter().enumerate() {
            let name = if i < last { format!("encoder_{i}") } else { writer.before_output(LATENT) };
            value = writer.step(step, &value, &name, step.operator == Operator::Linear)?;
        }
        let latent = value.clone();
        writer.widen(&latent, LATENT);
        for (i, step) in self.clusterer.iter().enumerate() {
            value = writer.step(step, &value, &format!("clusterer_{i}"), false)?;
        }
        let logits = writer.widened(&value);
        writer.graph.node("Softmax", &[&logits], CLUSTER_PROBS, &[int("axis", 1)]);

        let (channels, side) = (self.shape.inner_channels(), self.shape.inner_px());
        writer.graph.ints("inner_shape", &[4], &[-1, channels, side, side]);
        value = latent;
        for (i, step) in self.decoder.iter().enumerate() {
            value = writer.step(step, &value, &format!("decoder_{i}"), false)?;
            if step.operator == Operator::Linear {
                writer.graph.node("Reshape", &[&value, "inner_shape"], "inner", &[]);
                "inner".clone_into(&mut value);
            }
        }
        let decoded = writer.widened(&value);
        writer.graph.ints("all_values", &[3], &[1, 2, 3]);
        writer.graph.node("Sub", &[&decoded, "normalised"], "difference", &[]);
        writer.graph.node("Mul", &["difference", "difference"], "squared", &[]);
        writer.graph.node("ReduceMean", &["squared", "all_values"], RECONSTRUCTION_ERROR, &[int("keepdims", 0)]);
        Ok(writer.graph)
    }
}

struct Writer {
    graph: GraphBuilder,
    /// Whether steps read and give float16.
    is_half: bool,
    /// Values that are there as codes and as the numbers of their grid, too.
    quantised: BTreeSet<String>,
}

impl Writer {
    /// Adds a step that reads `input`, flattened first or not; returns the name of what it computes, which is `name` without
    /// a ReLU.
    fn step(&mut self, step: &NetworkLayer, input: &str, name: &str, flatten: bool) -> Result<String, TrainError> {
        let grid = match &step.kept {
            StoredWeights::Quantised { input, .. } => *input,
            StoredWeights::Single | StoredWeights::Half => None,
        };
        // Flattening codes instead of numbers leaves ONNX Runtime the patterns that it turns into integer kernels.
        let mut value = grid.map_or_else(|| input.to_owned(), |grid| self.codes(input, grid));
        if flatten {
            self.graph.node("Flatten", &[&value], "features", &[int("axis", 1)]);
            "features".clone_into(&mut value);
        }
        if let Some(grid) = grid {
            value = self.numbers(&value, grid);
        }
        let (weight, bias) = self.weights(step, name)?;
        let (operator, attributes) = match step.operator {
            Operator::Linear => ("Gemm", vec![int("transB", 1)]),
            Operator::Conv => ("Conv", convolution()),
            Operator::ConvTranspose => ("ConvTranspose", convolution()),
        };
        self.graph.node(operator, &[&value, &weight, &bias], name, &attributes);
        if !step.relu {
            return Ok(name.to_owned());
        }
        let output = format!("{name}_relu");
        self.graph.node("Relu", &[name], &output, &[]);
        Ok(output)
    }

    /// Weight and bias as the operator reads them.
    fn weights(&mut self, step: &NetworkLayer, name: &str) -> Result<(String, String), TrainError> {
        let (weight, bias) = (format!("{name}_weight"), format!("{name}_bias"));
        match &step.kept {
            StoredWeights::Single => {
                self.constant(&weight, &step.weight)?;
                self.constant(&bias, &step.bias)?;
            }
            StoredWeights::Half => {
                self.graph.halves(&weight, &dims(&step.weight), &half_bits(&step.weight)?);
                self.graph.halves(&bias, &dims(&step.bias), &half_bits(&step.bias)?);
            }
            StoredWeights::Quantised { input, steps } => {
                let axis = match step.operator {
                    Operator::ConvTranspose => 1,
                    Operator::Conv | Operator::Linear => 0,
                };
                let codes = (&step.weight / steps.view(step.operator.output_axis())).round().to_kind(Kind::Int8);
                self.graph.int8s(&format!("{weight}_codes"), &dims(&codes), &Vec::try_from(codes.reshape([-1]))?);
                self.dequantised(&weight, steps, axis)?;
                if let Some(grid) = input {
                    let steps = steps * f64::from(grid.step);
                    let codes = Vec::try_from((&step.bias / &steps).round().to_kind(Kind::Int))?;
                    self.graph.int32s(&format!("{bias}_codes"), &dims(&step.bias), &codes);
                    self.dequantised(&bias, &steps, 0)?;
                } else {
                    self.constant(&bias, &step.bias)?;
                }
            }
        }
        Ok((weight, bias))
    }

    /// The constant `name` from its codes; these are centred on 0.
    fn dequantised(&mut self, name: &str, steps: &Tensor, axis: i64) -> Result<(), TrainError> {
        let (codes, step) = (format!("{name}_codes"), format!("{name}_step"));
        self.constant(&step, steps)?;
        self.graph.node("DequantizeLinear", &[&codes, &step], name, &[int("axis", axis)]);
        Ok(())
    }

    /// `value` as codes of its grid.
    fn codes(&mut self, value: &str, grid: Quantisation) -> String {
        let codes = format!("{value}_codes");
        if self.quantised.insert(codes.clone()) {
            let (step, zero) = self.grid(&codes, grid);
            self.graph.node("QuantizeLinear", &[value, &step, &zero], &codes, &[]);
        }
        codes
    }

    /// The numbers that `codes` stand for.
    fn numbers(&mut self, codes: &str, grid: Quantisation) -> String {
        let numbers = format!("{codes}_numbers");
        if self.quantised.insert(numbers.clone()) {
            let (step, zero) = self.grid(&numbers, grid);
            self.graph.node("DequantizeLinear", &[codes, &step, &zero], &numbers, &[]);
        }
        numbers
    }

    fn grid(&mut self, name: &str, grid: Quantisation) -> (String, String) {
        let (step, zero) = (format!("{name}_step"), format!("{name}_zero"));
        self.graph.floats(&step, &[], &[grid.step]);
        self.graph.uint8s(&zero, &[], &[grid.zero]);
        (step, zero)
    }

    fn constant(&mut self, name: &str, tensor: &Tensor) -> Result<(), TrainError> {
        self.graph.floats(name, &dims(tensor), &to_vec(tensor)?);
        Ok(())
    }

    /// A float32 value as the steps read it.
    fn narrowed(&mut self, value: &str) -> String {
        self.cast_if_half(value, &format!("{value}_half"), FLOAT16)
    }

    /// What a step gave, as float32.
    fn widened(&mut self, value: &str) -> String {
        self.cast_if_half(value, &format!("{value}_single"), FLOAT)
    }

    fn cast_if_half(&mut self, value: &str, name: &str, to: i64) -> String {
        if !self.is_half {
            return value.to_owned();
        }
        self.graph.node("Cast", &[value], name, &[int("to", to)]);
        name.to_owned()
    }

    /// What a step must be named so that [`Writer::widen`] can make `output` of it.
    fn before_output(&self, output: &str) -> String {
        if self.is_half { format!("{output}_half") } else { output.to_owned() }
    }

    fn widen(&mut self, value: &str, output: &str) {
        self.cast_if_half(value, output, FLOAT);
    }
}

fn dims(tensor: &Tensor) -> Vec<usize> {
    tensor.size().into_iter().map(|dim| dim as usize).collect()
}

fn convolution() -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &[KERNEL; 2]), ints("strides", &[STRIDE; 2]), ints("pads", &[PADDING; 4])]
}
