//! The `evaluate` command: clusters vectors by several methods and numbers of clusters, and prints quality indices.
//!
//! The vectors are read from an .npy file: latent vectors of a model, or features of another program. The table on standard output
//! is CSV with one line per method and number of clusters.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use tissuemap::untrusted;

use crate::choose_k::choice::{Evidence, choose_by_rank};
use crate::config::ImsatConfig;
use crate::config::cluster_range;
use crate::model::imsat::vectors::{assign, fit_vectors};
use crate::system::device;
use crate::system::error::TrainError;
use crate::vectors::agreement::{Agreement, stability};
use crate::vectors::indices::{Indices, indices};
use crate::vectors::kmeans::kmeans;
use crate::vectors::labels::Labels;
use crate::vectors::mixture::mixture;
use crate::vectors::pca::Pca;
use crate::vectors::points::Points;
use crate::vectors::umap::{trustworthiness, umap};

/// Number of neighbours for the trustworthiness of a map.
const TRUSTED_NEIGHBOURS: usize = 15;

/// Arguments of `tissuemap-train evaluate`.
#[derive(Debug, Clone, clap::Args)]
pub struct EvaluateCommand {
    /// Vectors: a .npy file of floats, one row per sample.
    #[arg(long)]
    pub vectors: PathBuf,
    /// Known classes: a .npy file of whole numbers, one per sample.
    #[arg(long)]
    pub labels: Option<PathBuf>,
    /// Use this number of principal components instead of the vectors.
    #[arg(long)]
    pub components: Option<u16>,
    /// Numbers of clusters: one number, or the first and the last, as in 2-20.
    #[arg(long, value_parser = cluster_range, default_value = "2-20")]
    pub clusters: RangeInclusive<u32>,
    /// Clustering methods.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "kmeans,mixture,imsat")]
    pub methods: Vec<ClusteringMethod>,
    /// Number of fits of each method with each number of clusters; their seeds start at 1.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// File for the UMAP coordinates: .npy with two columns.
    #[arg(long)]
    pub map: Option<PathBuf>,
    /// Device on which IMSAT is trained: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Number of threads of libtorch.
    #[arg(long, default_value_t = 2)]
    pub cpu_threads: i32,
}

/// A clustering method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ClusteringMethod {
    /// k-means, best of several initialisations.
    Kmeans,
    /// Gaussian mixture with full covariances.
    Mixture,
    /// IMSAT with the published settings.
    Imsat,
}

/// One line of the table: one method with one number of clusters, over all seeds.
#[derive(Debug)]
struct Row {
    method: ClusteringMethod,
    evidence: Evidence,
    /// Mean and standard deviation of accuracy, NMI, ARI.
    agreement: Option<[(f64, f64); 3]>,
}

impl Row {
    const HEADER: &str = "method,clusters,silhouette,davies_bouldin,calinski_harabasz,dunn,generalised_dunn,xie_beni,\
        map_silhouette,map_davies_bouldin,map_calinski_harabasz,map_dunn,map_generalised_dunn,map_xie_beni,stability,\
        accuracy,accuracy_sd,nmi,nmi_sd,ari,ari_sd";

    /// Unknown values are empty.
    fn csv(&self) -> String {
        let six = |i: Indices| {
            [i.silhouette, i.davies_bouldin, i.calinski_harabasz, i.dunn, i.generalised_dunn, i.xie_beni].map(Some)
        };
        let agreement = self.agreement.map_or([None; 6], |pairs| {
            let [a, b, c] = pairs.map(|(mean, deviation)| [Some(mean), Some(deviation)]);
            [a[0], a[1], b[0], b[1], c[0], c[1]]
        });
        let Evidence { clusters, latent, umap: map, stability, .. } = self.evidence;
        let figures = [&six(latent)[..], &map.map_or([None; 6], six), &[stability], &agreement].concat();
        let fields = figures.iter().map(|figure| figure.map(|f| format!("{f:.6}")).unwrap_or_default());
        let name = format!("{:?}", self.method).to_lowercase();
        [name, clusters.to_string()].into_iter().chain(fields).collect::<Vec<_>>().join(",")
    }
}

/// The vectors with what is known about them.
struct Samples {
    vectors: Tensor,
    points: Points,
    map: Points,
    classes: Option<Labels>,
}

impl EvaluateCommand {
    /// Clusters and writes the table to `say`, line by line. The conclusions are logged.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn run(&self, say: &mut dyn io::Write) -> Result<(), TrainError> {
        let device = device::parse(&self.device)?;
        tch::set_num_threads(self.cpu_threads);
        let samples = self.samples()?;
        let mut print = |line: &str| {
            writeln!(say, "{line}")
                .map_err(|source| TrainError::File { path: Path::new("standard output").to_owned(), source })
        };
        print(Row::HEADER)?;
        for &method in &self.methods {
            let mut candidates = Vec::new();
            for clusters in self.clusters.clone() {
                let found = (1..=self.seeds).map(|seed| cluster(method, &samples, device, clusters, seed));
                let found: Vec<Labels> = found.collect::<Result<_, _>>()?;
                let Some(row) = row(method, clusters, &samples, &found) else {
                    tracing::warn!("{method:?} with {clusters} clusters: a fit found only one cluster; left out");
                    continue;
                };
                print(&row.csv())?;
                candidates.push(row.evidence);
            }
            if let (Some(choice), true) = (choose_by_rank(&candidates), candidates.len() > 1) {
                tracing::info!("{method:?}: {} clusters, by a margin of {:.3}", choice.clusters, choice.margin);
            }
        }
        Ok(())
    }

    fn samples(&self) -> Result<Samples, TrainError> {
        let mut vectors = read_npy(&self.vectors)?.to_kind(Kind::Float);
        let refuse = |path: &Path, reason: String| TrainError::Vectors { path: path.to_owned(), reason };
        if vectors.dim() != 2 {
            return Err(refuse(&self.vectors, format!("{} dimensions instead of 2", vectors.dim())));
        }
        let checked = |vectors: &Tensor| Points::from_tensor(vectors).map_err(|e| refuse(&self.vectors, e.to_string()));
        let mut points = checked(&vectors)?;
        let (count, most) = (points.count(), *self.clusters.end());
        if count <= most as usize || count <= 2 * TRUSTED_NEIGHBOURS {
            return Err(refuse(&self.vectors, format!("{count} samples are too few")));
        }
        let batch = ImsatConfig::default().batch as usize;
        if self.methods.contains(&ClusteringMethod::Imsat) && count < batch {
            return Err(refuse(&self.vectors, format!("{count} samples are less than one batch of IMSAT ({batch})")));
        }
        let classes = self.labels.as_ref().map(|path| {
            let numbers = Vec::<i64>::try_from(read_npy(path)?.to_kind(Kind::Int64).view([-1]))?;
            if numbers.len() != count {
                return Err(refuse(path, format!("{} labels for {count} samples", numbers.len())));
            }
            Ok(Labels::new(&numbers))
        });
        let classes = classes.transpose()?;
        if let Some(components) = self.components {
            vectors = Pca::fit(&vectors, i64::from(components.max(1)), 1)?.project(&vectors);
            points = checked(&vectors)?;
        }
        let map = umap(&points, 1)?;
        let trust = trustworthiness(&points, &map, TRUSTED_NEIGHBOURS);
        tracing::info!("UMAP: trustworthiness {trust:.4} ({TRUSTED_NEIGHBOURS} neighbours)");
        if let Some(path) = &self.map {
            map.to_tensor().write_npy(path)?;
        }
        Ok(Samples { vectors, points, map, classes })
    }
}

fn read_npy(path: &Path) -> Result<Tensor, TrainError> {
    untrusted::check(path)?;
    Tensor::read_npy(path).map_err(|e| TrainError::Vectors { path: path.to_owned(), reason: e.to_string() })
}

fn cluster(
    method: ClusteringMethod,
    samples: &Samples,
    device: Device,
    clusters: u32,
    seed: u64,
) -> Result<Labels, TrainError> {
    let numbers = match method {
        ClusteringMethod::Kmeans => kmeans(&samples.points, clusters as usize, seed).cluster,
        ClusteringMethod::Mixture => mixture(&samples.points, clusters as usize, seed)?.cluster,
        ClusteringMethod::Imsat => {
            let vectors = samples.vectors.to_device(device);
            let clusterer = fit_vectors(&vectors, clusters, &ImsatConfig::published(), seed, &mut |_, _| ());
            assign(&clusterer, &vectors)?
        }
    };
    Ok(Labels::new(&numbers))
}

/// None if a fit found only one cluster: it has no indices.
fn row(method: ClusteringMethod, clusters: u32, samples: &Samples, found: &[Labels]) -> Option<Row> {
    let mean = |points| Indices::mean(&indices(points, found).ok()?);
    let (latent, map) = (mean(&samples.points)?, mean(&samples.map));
    let evidence = Evidence {
        clusters,
        latent,
        umap: map,
        stability: stability(found),
        coherence: None,
        bic: None,
        regions: None,
    };
    let agreement = samples.classes.as_ref().map(|classes| {
        let all: Vec<Agreement> = found.iter().map(|labels| Agreement::new(classes, labels)).collect();
        Agreement::spread(&all)
    });
    Some(Row { method, evidence, agreement })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{gaussian_points, planted_points};

    fn command(folder: &Path) -> EvaluateCommand {
        EvaluateCommand {
            vectors: folder.join("vectors.npy"),
            labels: Some(folder.join("labels.npy")),
            components: None,
            clusters: 3..=5,
            methods: vec![ClusteringMethod::Kmeans, ClusteringMethod::Mixture],
            seeds: 2,
            map: Some(folder.join("map.npy")),
            device: "cpu".to_owned(),
            cpu_threads: 1,
        }
    }

    fn table(command: &EvaluateCommand) -> Result<Vec<Vec<String>>, TrainError> {
        let mut text = Vec::new();
        command.run(&mut text)?;
        let text = String::from_utf8(text).expect("text");
        Ok(text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect())
    }

    #[test]
    fn the_table_has_a_row_per_method_and_number_and_the_planted_number_is_right() {
        let folder = tempfile::tempdir().expect("folder");
        let (points, classes) = planted_points(1, 4, 400, 8, 3.0);
        let command = command(folder.path());
        points.to_tensor().write_npy(&command.vectors).expect("written");
        let numbers: Vec<i64> = classes.of().iter().map(|&class| i64::from(class)).collect();
        Tensor::from_slice(&numbers).write_npy(command.labels.as_ref().expect("path")).expect("written");
        let rows = table(&command).expect("runs");
        assert_eq!(rows.len(), 1 + 2 * 3);
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{rows:?}");
        for row in rows.iter().filter(|row| row[1] == "4") {
            let value = |name: &str| -> f64 {
                row[rows[0].iter().position(|column| column == name).expect(name)].parse().expect("number")
            };
            assert!(value("ari") > 0.99 && value("accuracy") > 0.99 && value("stability") > 0.99, "{row:?}");
        }
        assert_eq!(read_npy(&folder.path().join("map.npy")).expect("map").size(), [400, 2]);

        // The planted centres span three dimensions, so three components keep them all.
        let fewer = EvaluateCommand {
            components: Some(3),
            clusters: 4..=4,
            methods: vec![ClusteringMethod::Kmeans],
            ..command
        };
        let rows = table(&fewer).expect("runs");
        let ari = rows[0].iter().position(|column| column == "ari").expect("column");
        assert!(rows[1][ari].parse::<f64>().expect("number") > 0.99, "{rows:?}");
    }

    #[test]
    fn unusable_files_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("folder");
        let mut command = command(folder.path());
        let refusal = |command: &EvaluateCommand| table(command).expect_err("refused").to_string();
        assert!(refusal(&command).contains("vectors.npy"));
        gaussian_points(1, 100, 2).to_tensor().write_npy(&command.vectors).expect("written");
        Tensor::from_slice(&[1i64; 99]).write_npy(command.labels.as_ref().expect("path")).expect("written");
        assert!(refusal(&command).contains("99 labels for 100 samples"));
        command.methods = vec![ClusteringMethod::Imsat];
        assert!(refusal(&command).contains("less than one batch of IMSAT (250)"));
        gaussian_points(1, 5, 2).to_tensor().write_npy(&command.vectors).expect("written");
        assert!(refusal(&command).contains("5 samples are too few"));
    }

    #[test]
    fn numbers_of_clusters_are_one_or_a_range() {
        assert_eq!((cluster_range("7"), cluster_range("2-20")), (Ok(7..=7), Ok(2..=20)));
        for text in ["1", "5-3", "a", "2-", "-3", ""] {
            assert!(cluster_range(text).is_err(), "{text}");
        }
    }
}
