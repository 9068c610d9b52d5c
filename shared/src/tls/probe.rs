//! Makes one handshake with an address to find out why a client cannot connect. Clients only report
//! that a connection was closed, for example if the port uses another protocol.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Tls, cause};

/// Maximum duration of a handshake.
const LIMIT: Duration = Duration::from_secs(2);

/// Time in which a server can refuse the client's certificate, which TLS 1.3 verifies after the
/// handshake.
const VERDICT: Duration = Duration::from_millis(500);

/// The result of a handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandshakeAnswer {
    Fine,
    /// The server uses TLS, but one side does not trust the other, as the message explains.
    Fault(String),
    /// The server answered, but not in TLS.
    PlainText,
    /// The server did not answer, or does not exist.
    Silent,
}

impl Tls {
    pub(crate) async fn probe(&self, host: &str, port: u16) -> HandshakeAnswer {
        match timeout(LIMIT, self.handshake(host, port)).await {
            Ok(Ok(())) => HandshakeAnswer::Fine,
            Ok(Err(error)) => match cause(&error) {
                Some(rustls::Error::InvalidMessage(_)) => HandshakeAnswer::PlainText,
                Some(reason) => HandshakeAnswer::Fault(self.sentence(reason)),
                None => HandshakeAnswer::Silent,
            },
            Err(_) => HandshakeAnswer::Silent,
        }
    }

    async fn handshake(&self, host: &str, port: u16) -> io::Result<()> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = self.client_config().map_err(io::Error::other)?;
        let connection = TcpStream::connect((host, port)).await?;
        let mut stream = TlsConnector::from(config).connect(name, connection).await?;
        match timeout(VERDICT, stream.read(&mut [0; 1])).await {
            Ok(Err(error)) if cause(&error).is_some() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a server responds in plain text like Redis.
pub(crate) async fn speaks_plain_redis(host: &str, port: u16) -> bool {
    let ask = async {
        let mut connection = TcpStream::connect((host, port)).await?;
        connection.write_all(b"PING\r\n").await?;
        let mut answer = [0; 1];
        connection.read_exact(&mut answer).await?;
        io::Result::Ok(matches!(answer, [b'+' | b'-']))
    };
    timeout(LIMIT, ask)
        .await
        .is_ok_and(|answer| answer.unwrap_or(false))
}
