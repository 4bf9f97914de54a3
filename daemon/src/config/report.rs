//! `[leds]`, `[metrics]`, `[audit]`: where else the daemon tells what it does.

use std::path::PathBuf;

use serde::Deserialize;

/// Lights and a push button. What is not named is not there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Leds {
    pub ready: Option<Light>,
    pub busy: Option<Light>,
    pub attention: Option<Light>,
    pub button: Option<Pin>,
    /// Where the kernel shows its LEDs.
    pub class_folder: PathBuf,
}

impl Default for Leds {
    fn default() -> Self {
        Self { ready: None, busy: None, attention: None, button: None, class_folder: "/sys/class/leds".into() }
    }
}

impl Leds {
    /// Ready, busy, attention.
    pub fn lights(&self) -> [Option<&Light>; 3] {
        [self.ready.as_ref(), self.busy.as_ref(), self.attention.as_ref()]
    }
}

/// A pin of a Raspberry Pi, in BCM's numbers: `gpio17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pin(pub u8);

impl TryFrom<String> for Pin {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let number = name.strip_prefix("gpio").and_then(|number| number.parse().ok());
        number.map(Self).ok_or("must be a pin such as \"gpio23\"")
    }
}

/// Where a light is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Light {
    Gpio(Pin),
    /// One of the kernel's LEDs, by its name.
    Class(String),
}

impl TryFrom<String> for Light {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        if let Ok(pin) = Pin::try_from(name.clone()) {
            return Ok(Self::Gpio(pin));
        }
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err("must be a pin such as \"gpio17\", or the name of an LED as in /sys/class/leds");
        }
        Ok(Self::Class(name))
    }
}

/// Figures for Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where they are written, if anywhere.
    pub file: Option<PathBuf>,
}

/// The audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Without this, it lies in the state folder.
    pub file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_light_is_a_pin_or_a_name_without_a_way_out_of_its_folder() {
        let light = |name: &str| Light::try_from(name.to_owned()).ok();
        assert_eq!(light("gpio17"), Some(Light::Gpio(Pin(17))));
        assert_eq!(light("tissuemap:green:status"), Some(Light::Class("tissuemap:green:status".into())));
        assert_eq!(light("gpio-leds"), Some(Light::Class("gpio-leds".into())));
        for outside in ["", "..", "../../etc", "/dev/sda"] {
            assert_eq!(light(outside), None, "{outside:?}");
        }
        assert!(Pin::try_from("input3".to_owned()).is_err(), "a button is a pin");
    }
}
