//! What the service manager is told (`sd_notify(3)`): ready, reloading, alive, stopping. Without one,
//! nothing is told to nobody.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use sd_notify::NotifyState;
use tokio::net::TcpStream;

/// The service answers. `status` is one line for `systemctl status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
    }
}

/// The service ends, after `longest` at the latest: the service manager's own patience with it may be shorter.
pub fn stopping(longest: Duration) {
    let longest = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(longest),
    ]);
}

/// Tells that the service is alive, as often as is asked for (`WatchdogSec=`), each time after it was
/// seen to answer `/livez` at `operations`: a process that does not answer any more is started anew.
pub fn keep_alive(operations: SocketAddr) {
    let Some(within) = sd_notify::watchdog_enabled() else {
        return;
    };
    // A look and the pause before it take half of it at most (sd_watchdog_enabled(3)): one answer may be late.
    let every = within / 4;
    tokio::spawn(async move {
        loop {
            match tokio::time::timeout(every, answers(operations)).await {
                Ok(Ok(())) => tell(&[NotifyState::Watchdog]),
                Ok(Err(reason)) => tracing::error!(reason, "/livez does not answer"),
                Err(_) => tracing::error!("/livez does not answer in time"),
            }
            tokio::time::sleep(every).await;
        }
    });
}

async fn answers(operations: SocketAddr) -> Result<(), String> {
    let stream = TcpStream::connect(operations);
    let stream = stream.await.map_err(|error| error.to_string())?;
    let exchange = http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = exchange.await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/livez")
        .header("host", operations.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await;
    connection.abort();
    let status = answer.map_err(|error| error.to_string())?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("status {status}"))
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "the service manager cannot be told");
    }
}
