//! Man pages and completions of the two programs, from the same definitions that parse their command lines. Each program
//! writes its own: whoever has the program has its pages, also without this repository.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::{self, Exit, Failure};
use crate::job::Fault;

/// `completions`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tissuemapctl completions bash > ~/.local/share/bash-completion/completions/tissuemapctl
")]
pub struct CompletionsArgs {
    pub shell: Shell,
}

/// `man`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tissuemapctl man /usr/share/man/man1
")]
pub struct ManArgs {
    /// The folder for the pages; it must be there
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Prints what the shell needs to complete this program's command line.
///
/// # Errors
/// Standard output cannot be written.
pub fn completions(mut program: Command, shell: Shell) -> Result<(), Failure> {
    let (name, mut script) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut program, name, &mut script);
    exit::print_own(&String::from_utf8_lossy(&script))
}

/// Writes a page for the program and for each of its commands.
///
/// # Errors
/// The folder cannot be written.
pub fn man(program: Command, folder: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(program, folder).map_err(|error| {
        let reason = format!("{}: {error}", folder.display());
        Exit::Unavailable.with(Fault::new(reason, "make the folder first, writable for you"))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory;

    use super::*;
    use crate::ctl::Cli;

    #[test]
    fn every_command_has_a_page_with_its_examples_and_hidden_ones_have_none() {
        let folder = tempfile::tempdir().expect("tempdir");
        man(Cli::command(), folder.path()).expect("written");
        let page = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a page");
        assert!(page("tissuemapctl.1").contains("Research use only"));
        assert!(page("tissuemapctl-models-activate.1").contains("tissuemapctl models activate mouse"));
        assert!(page("tissuemapctl-queue.1").contains("Examples"));
        assert!(!folder.path().join("tissuemapctl-man.1").exists());
        assert!(man(Cli::command(), Path::new("/nonexistent/man")).is_err());
    }
}
