//! Free loopback ports that stay reserved while a server is down.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;

use anyhow::{Result, bail};

/// Below the ephemeral range. If a client keeps connecting to a port of that range while its server
/// is down, the kernel may choose the same port as the source. The client is then connected to
/// itself, and the server cannot bind to its port.
const RANGE: Range<u16> = 15_000..32_000;

/// A TCP port on 127.0.0.1 that no other stack uses while this value lives.
#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    /// Marks the port as used while no server listens on TCP, because UDP ports are a separate name
    /// space. The kernel releases it however this process ends.
    _mark: UdpSocket,
}

impl ReservedPort {
    /// Picks a free port.
    pub fn find() -> Result<Self> {
        for _ in 0..500 {
            let number = rand::random_range(RANGE);
            let Ok(mark) = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self {
                    number,
                    _mark: mark,
                });
            }
        }
        bail!(
            "found no free port between {} and {} on 127.0.0.1",
            RANGE.start,
            RANGE.end
        )
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}
