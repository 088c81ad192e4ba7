//! The relay: devices connect to it from one side, clients from the other.

mod config;

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

pub use config::{Config, Mapping};

use crate::Error;
use crate::address::Address;

/// Placeholder.
#[derive(Debug)]
pub struct Server {
    device: TcpListener,
    stop: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

/// Placeholder.
#[derive(Clone, Debug)]
pub struct Stopper(mpsc::Sender<()>);

/// Placeholder.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Clients that were open at the end.
    pub clients_cut: u64,
}

impl Server {
    /// Placeholder.
    pub fn bind(config: Config) -> Result<Self, Error> {
        let bind = |address: &Address| {
            TcpListener::bind((address.host(), address.port()))
                .map_err(|reason| Error::System { what: format!("cannot listen at {address}"), reason })
        };
        let device = bind(&config.device)?;
        tracing::info!("waiting for a device at {}", device.local_addr().expect("placeholder"));
        for mapping in &config.mappings {
            bind(&mapping.client)?;
        }
        Ok(Self { device, stop: mpsc::channel() })
    }

    /// Placeholder.
    pub fn device_addr(&self) -> SocketAddr {
        self.device.local_addr().expect("placeholder")
    }

    /// Placeholder.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.0.clone())
    }

    /// Placeholder.
    pub fn run(self) -> Result<Outcome, Error> {
        self.stop.1.recv().expect("placeholder");
        Ok(Outcome { clients_cut: 0 })
    }
}

impl Stopper {
    /// Placeholder.
    pub fn stop(&self) {
        let _ = self.0.send(());
    }
}
