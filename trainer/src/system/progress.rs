//! Progress bars on standard error.

use std::env;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over `total` steps on stderr; hidden if stderr is not a terminal or `NO_PROGRESS` is set.
pub(crate) fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if env::var_os("NO_PROGRESS").is_some() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {bar:30} {pos}/{len} {eta}  {msg}") {
        bar.set_style(style);
    }
    bar
}
