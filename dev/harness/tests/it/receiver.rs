//! An HTTP server that accepts every request and keeps it.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Receiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let all = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, Arc::clone(&all)));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests so far, each with its head and body.
    pub(crate) fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().clone()
    }
}

/// Reads one request and answers 200. A request with a body must have `Content-Length`.
async fn take(mut stream: TcpStream, all: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut request = Vec::new();
    let is_whole = |request: &[u8]| {
        let head = String::from_utf8_lossy(request).to_lowercase();
        let end = request.windows(4).position(|four| four == b"\r\n\r\n");
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok());
        end.is_some_and(|end| request.len() >= end + 4 + length.unwrap_or(0))
    };
    while !is_whole(&request) {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    all.lock().push(request);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(answer).await.unwrap();
}
