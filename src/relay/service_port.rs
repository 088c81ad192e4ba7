//! A client port that leads to a service of a device that has a name.

use crate::address::Address;
use crate::identity::{Name, NameError};
use crate::protocol::v2::Part;

/// A client port, and the service of a device to which it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Where clients connect.
    pub listen: Address,
    /// Whose service it is. The device need not be there, nor known yet.
    pub device: Name,
    /// The service, by its name or its number. A number that no service of the device has is that port of the device
    /// itself.
    pub service: Part,
}

/// Why a text does not say to which service of which device a port leads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServicePortError {
    /// There is no colon behind the device's name.
    #[error("'{0}' names no service; write DEVICE:SERVICE, for example pump-3:ssh or pump-3:22")]
    NoService(String),
    /// The number is none from 1 to 65,535.
    #[error("port '{0}' is not a number from 1 to 65535")]
    BadPort(String),
    /// One of the names is none.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// How much of a wrong value an error shows, in characters.
const SHOWN: usize = 80;

impl ServicePort {
    /// A port for clients of `to`, which is `DEVICE:SERVICE` or `DEVICE:NUMBER`.
    ///
    /// # Errors
    /// [`ServicePortError`]: `to` is nothing of that.
    pub fn new(listen: Address, to: &str) -> Result<Self, ServicePortError> {
        let shown = |text: &str| text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        let (device, service) = to.split_once(':').ok_or_else(|| ServicePortError::NoService(shown(to)))?;
        let device = Name::device(device)?;
        // No name begins with a digit.
        let service = if service.starts_with(|c: char| c.is_ascii_digit()) {
            let port = service.parse().ok().filter(|&port| port > 0);
            Part::Port(port.ok_or_else(|| ServicePortError::BadPort(shown(service)))?)
        } else {
            Part::Service(Name::service(service)?)
        };
        Ok(Self { listen, device, service })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> Result<ServicePort, String> {
        let listen = Address::listen("127.0.0.1:0").expect("an address");
        ServicePort::new(listen, text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_service_is_named_or_numbered_behind_its_device() {
        let port = to("pump-3:ssh").expect("a service");
        assert_eq!(
            (port.device.as_str(), port.service),
            ("pump-3", Part::Service(Name::service("ssh").expect("a name")))
        );
        assert_eq!(to("pump-3:22").expect("a number").service, Part::Port(22));
    }

    #[test]
    fn an_error_says_what_to_write() {
        let error = |text| to(text).expect_err(text);
        assert_eq!(
            error("pump-3\n"),
            "'pump-3\\n' names no service; write DEVICE:SERVICE, for example pump-3:ssh or pump-3:22"
        );
        assert_eq!(error("pump-3:0"), "port '0' is not a number from 1 to 65535");
        assert_eq!(error("pump-3:65536"), "port '65536' is not a number from 1 to 65535");
        assert!(error("pump-3:").starts_with("service name '' is empty"), "{}", error("pump-3:"));
        assert!(error("Pump:ssh").starts_with("device name 'Pump' has 'P'"), "{}", error("Pump:ssh"));
        assert!(error("[::1]:22").starts_with("device name '['"), "{}", error("[::1]:22"));
    }
}
