//! `tissuemapctl models`: which models serve, and having others serve.

use std::fmt::Write;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde_json::json;
use tissuemap::escape::for_people;

use super::bus::{connect, refused, unavailable};
use super::status::view::in_words;
use crate::config::BusKind;
use crate::exit::{self, Failure};
use crate::status::PROVING;
use crate::status::dbus::ModelEntry;

/// `tissuemapctl models`
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the models that the daemon knows
    #[command(after_help = "Examples:
  tissuemapctl models list
  tissuemapctl models list --json | jq -r '.[] | select(.state == \"active\") | .sha256'
")]
    List(ListArgs),
    /// Have a model serve from the next section set on; first it must prove itself, which may take minutes
    #[command(after_help = "Examples:
  tissuemapctl models activate mouse-2.onnx
  tissuemapctl models activate 3f9a01
")]
    Activate(ActivateArgs),
    /// Have the model serve again that was replaced last
    #[command(after_help = "Examples:\n  tissuemapctl models rollback")]
    Rollback,
    /// Have a model repeat its golden patches on this machine; what serves stays as it is
    #[command(after_help = "Examples:\n  tissuemapctl models verify mouse-2.onnx")]
    Verify(VerifyArgs),
}

/// `tissuemapctl models list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// `tissuemapctl models activate`
#[derive(Debug, Args)]
pub struct ActivateArgs {
    /// Its file name, or at least four digits of its SHA-256
    #[arg(value_name = "MODEL")]
    pub model: String,
}

/// `tissuemapctl models verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Its file name, or at least four digits of its SHA-256
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Print a JSON object: sha256, name, provider, golden
    #[arg(long)]
    pub json: bool,
}

/// Asks the daemon about its models, or for another one to serve, of which the SHA-256 is printed.
///
/// # Errors
/// There is no daemon, or it refuses.
pub async fn run(kind: BusKind, command: ModelsCommand) -> Result<(), Failure> {
    let daemon = connect(kind).await?;
    match command {
        ModelsCommand::List(ListArgs { json }) => {
            let models = daemon.list_models().await.map_err(unavailable)?;
            if json {
                return exit::print(&exit::json(&models)?);
            }
            let waits = daemon.waits().await.map_err(unavailable)?;
            let proving = waits.iter().filter(|(what, ..)| what.starts_with(PROVING));
            let now = SystemTime::now();
            exit::print(&proving.fold(table(&models), |text, wait| text + &in_words(wait, now) + "\n"))
        }
        ModelsCommand::Activate(ActivateArgs { model }) => {
            exit::say("the model is proving itself on this machine");
            exit::print(&(daemon.activate_model(&model).await.map_err(refused)? + "\n"))
        }
        ModelsCommand::Rollback => {
            exit::say("the model before is proving itself on this machine");
            exit::print(&(daemon.rollback().await.map_err(refused)? + "\n"))
        }
        ModelsCommand::Verify(VerifyArgs { model, json }) => {
            let (sha256, name, provider, golden) = daemon.verify_model(&model).await.map_err(refused)?;
            exit::print(&if json {
                exit::json(&json!({ "sha256": sha256, "name": name, "provider": provider, "golden": golden }))?
            } else {
                exit::lines([format!("{name} sha256:{sha256} on {provider}: {golden}")].into_iter())
            })
        }
    }
}

fn table(models: &[ModelEntry]) -> String {
    let shown = |text: &str| for_people(text).to_string();
    let shown = |model: &ModelEntry| ModelEntry {
        name: shown(&model.name),
        stains: model.stains.iter().map(|stain| shown(stain)).collect(),
        reason: shown(&model.reason),
        ..model.clone()
    };
    let models: Vec<ModelEntry> = models.iter().map(shown).collect();
    let name = models.iter().map(|model| model.name.chars().count()).chain([4]).max().unwrap_or_default();
    let mut out =
        format!("{:<8}  {:<name$}  {:<12}  {:>5}  {:>6}  STAINS\n", "STATE", "NAME", "SHA-256", "DONE", "FAILED");
    for model in &models {
        let state = if model.on_trial { "trial" } else { &model.state };
        let sha256 = model.sha256.get(..12).unwrap_or(&model.sha256);
        let stains = model.stains.join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{state:<8}  {:<name$}  {sha256:<12}  {:>5}  {:>6}  {stains}",
            model.name, model.jobs_done, model.jobs_failed
        );
        if !model.reason.is_empty() {
            let _ = writeln!(out, "{:<8}  {}", "", model.reason);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_one_line_and_why_it_is_so_another() {
        let model = |name: &str, state: &str, on_trial, reason: &str| ModelEntry {
            sha256: "0123456789abcdef".into(),
            name: name.into(),
            state: state.into(),
            since: 0,
            reason: reason.into(),
            stains: vec!["HE".into(), "CD31".into()],
            revision: -1,
            provider: "cpu".into(),
            golden: String::new(),
            on_trial,
            jobs_done: 12,
            jobs_failed: 0,
        };
        let models =
            [model("mouse-2.onnx", "active", true, ""), model("m.onnx", "rejected", false, "no golden patches")];
        assert_eq!(
            table(&models),
            "STATE     NAME          SHA-256        DONE  FAILED  STAINS\n\
             trial     mouse-2.onnx  0123456789ab     12       0  HE, CD31\n\
             rejected  m.onnx        0123456789ab     12       0  HE, CD31\n\
             \x20         no golden patches\n"
        );
    }
}
