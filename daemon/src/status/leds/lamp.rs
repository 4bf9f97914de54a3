//! Lights and buttons as things. One that is not there is a warning, never the end of a daemon.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::config::{self, Leds};
use crate::job::Fault;

/// One light.
pub trait Lamp: Send {
    /// On or off.
    ///
    /// # Errors
    /// The light is gone.
    fn set(&mut self, lit: bool) -> io::Result<()>;
}

/// A push button that is listened to as long as this lives.
pub struct Button {
    /// One message a push; a push while the last one is being obeyed is no second one.
    pub(super) pushes: mpsc::Receiver<()>,
    #[cfg(feature = "rppal")]
    _pin: rppal::gpio::InputPin,
}

/// The configured lights that are there: ready, busy, attention. Those that are not are named in the log.
pub fn lamps(leds: &Leds) -> [Option<Box<dyn Lamp>>; 3] {
    leds.lights().map(|light| {
        let opened = match light? {
            config::Light::Gpio(pin) => gpio::lamp(*pin),
            config::Light::Class(name) => ClassLed::open(&leds.class_folder, name),
        };
        told(opened)
    })
}

/// The configured push button, if it is there.
pub fn button(leds: &Leds) -> Option<Button> {
    told(gpio::button(leds.button?))
}

/// Whether a light or button is there, without touching it: the daemon may be driving it.
///
/// # Errors
/// It is not, or may not be used by whoever asks.
pub fn look(light: &config::Light, leds: &Leds) -> Result<(), Fault> {
    match light {
        config::Light::Gpio(pin) => gpio::look(*pin),
        config::Light::Class(name) => {
            let folder = leds.class_folder.join(name);
            let open = || fs::OpenOptions::new().write(true).open(folder.join("brightness"));
            open().map(drop).map_err(|error| class_fault(&folder, &error))
        }
    }
}

fn class_fault(folder: &Path, error: &io::Error) -> Fault {
    let reason = format!("light {}: {error}", folder.display());
    Fault::new(reason, "see `ls /sys/class/leds`, and that tissuemapd may write there")
}

fn told<T>(opened: Result<T, Fault>) -> Option<T> {
    opened.inspect_err(|fault| tracing::warn!(reason = fault.reason(), hint = fault.hint(), "Not lit")).ok()
}

/// A LED that the kernel drives, as a folder with files in it.
struct ClassLed {
    brightness: PathBuf,
    most: String,
}

impl ClassLed {
    fn open(folder: &Path, name: &str) -> Result<Box<dyn Lamp>, Fault> {
        let folder = folder.join(name);
        let open = || -> io::Result<Self> {
            // Else the kernel goes on driving it by itself. Not every LED has triggers.
            let trigger = folder.join("trigger");
            if trigger.exists() {
                fs::write(trigger, "none")?;
            }
            let most = fs::read_to_string(folder.join("max_brightness"))?.trim().to_owned();
            let mut led = Self { brightness: folder.join("brightness"), most };
            led.set(false)?;
            Ok(led)
        };
        open().map(|led| Box::new(led) as Box<dyn Lamp>).map_err(|error| class_fault(&folder, &error))
    }
}

impl Lamp for ClassLed {
    fn set(&mut self, lit: bool) -> io::Result<()> {
        fs::write(&self.brightness, if lit { &self.most } else { "0" })
    }
}

#[cfg(feature = "rppal")]
mod gpio {
    use std::io;
    use std::time::Duration;

    use rppal::gpio::{Gpio, OutputPin, Trigger};
    use tokio::sync::mpsc;

    use super::{Button, Lamp};
    use crate::config::Pin;
    use crate::job::Fault;

    /// Contacts bounce for some milliseconds; nobody pushes twice within this.
    const DEBOUNCE: Duration = Duration::from_millis(200);

    pub(super) fn lamp(pin: Pin) -> Result<Box<dyn Lamp>, Fault> {
        let opened = Gpio::new().and_then(|gpio| gpio.get(pin.0));
        opened.map(|pin| Box::new(pin.into_output_low()) as Box<dyn Lamp>).map_err(|error| fault(pin, &error))
    }

    pub(super) fn look(pin: Pin) -> Result<(), Fault> {
        Gpio::new().and_then(|gpio| gpio.get(pin.0)).map(drop).map_err(|error| fault(pin, &error))
    }

    pub(super) fn button(pin: Pin) -> Result<Button, Fault> {
        let open = || {
            let (sender, pushes) = mpsc::channel(1);
            let mut input = Gpio::new()?.get(pin.0)?.into_input_pullup();
            input.set_async_interrupt(Trigger::FallingEdge, Some(DEBOUNCE), move |_| {
                let _ = sender.try_send(());
            })?;
            Ok(Button { pushes, _pin: input })
        };
        open().map_err(|error| fault(pin, &error))
    }

    impl Lamp for OutputPin {
        fn set(&mut self, lit: bool) -> io::Result<()> {
            if lit {
                self.set_high();
            } else {
                self.set_low();
            }
            Ok(())
        }
    }

    fn fault(pin: Pin, error: &rppal::gpio::Error) -> Fault {
        Fault::new(
            format!("pin gpio{}: {error}", pin.0),
            "pins need a Raspberry Pi, and /dev/gpiomem or /dev/gpiochip0 open to tissuemapd",
        )
    }
}

#[cfg(not(feature = "rppal"))]
mod gpio {
    use super::{Button, Lamp};
    use crate::config::Pin;
    use crate::job::Fault;

    pub(super) fn lamp(pin: Pin) -> Result<Box<dyn Lamp>, Fault> {
        Err(not_built(pin))
    }

    pub(super) fn look(pin: Pin) -> Result<(), Fault> {
        Err(not_built(pin))
    }

    pub(super) fn button(pin: Pin) -> Result<Button, Fault> {
        Err(not_built(pin))
    }

    fn not_built(pin: Pin) -> Fault {
        Fault::new(
            format!("pin gpio{}: this tissuemapd was built without pins", pin.0),
            "build it with its feature `rppal`, or use an LED of the kernel (`dtoverlay=gpio-led`)",
        )
    }
}
