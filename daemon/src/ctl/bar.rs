//! How a command that takes long tells how far it is.

use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use tissuemap::escape::for_people;
use tissuemap::road::{Progress, Stage};

use crate::exit;
use crate::status::stage_name;

/// A progress bar on standard error; lines of text where that is not a terminal.
pub(super) struct Bar {
    bar: ProgressBar,
    stage: Mutex<&'static str>,
}

impl Bar {
    /// `name` says what is being worked on.
    pub(super) fn new(name: &str) -> Self {
        let style = ProgressStyle::with_template("{prefix} {msg:<9} {wide_bar} {percent:>3} %")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            bar: ProgressBar::new(1).with_style(style).with_prefix(for_people(name).to_string()),
            stage: Mutex::new(""),
        }
    }

    /// `done` of `total` steps of `stage`.
    pub(super) fn show(&self, stage: &'static str, done: u64, total: u64) {
        let mut last = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != stage {
            *last = stage;
            self.bar.set_message(stage);
            if self.bar.is_hidden() {
                exit::say(&format!("{}: {stage}", self.bar.prefix()));
            }
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Replaces the bar by a line.
    pub(super) fn end(&self, words: &str) {
        let line = format!("{}: {words}", self.bar.prefix());
        if self.bar.is_hidden() {
            exit::say(&line);
        } else {
            self.bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bar.abandon_with_message(for_people(&line).to_string());
        }
    }
}

impl Progress for Bar {
    fn stage(&self, stage: Stage, done: u64, total: u64) {
        self.show(stage_name(stage), done, total);
    }
}
