use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A message bus of our own, ended with the test.
pub(crate) struct Bus {
    process: Child,
    pub(crate) address: String,
}

impl Bus {
    /// One that allows everything, as a user's session has it.
    pub(crate) fn session() -> Self {
        Self::start("--session".into())
    }

    /// One that this file describes.
    pub(crate) fn configured(file: &Path) -> Self {
        let mut argument = OsString::from("--config-file=");
        argument.push(file);
        Self::start(argument)
    }

    fn start(kind: OsString) -> Self {
        let mut process = Command::new("dbus-daemon")
            .arg(kind)
            .args(["--print-address", "--nofork", "--nopidfile"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon is installed (package dbus)");
        let mut address = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut address).expect("its address");
        Self { process, address: address.trim().to_owned() }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
