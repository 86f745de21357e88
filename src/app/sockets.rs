//! Sockets that somebody else opened and keeps open (`sd_listen_fds(3)`), so that a restart refuses no
//! connection: who connects while no process is there waits in the kernel for the next one.

use std::net::SocketAddr;
use std::net::TcpListener;

use anyhow::Context;
use listenfd::ListenFd;

/// Those that are not in use yet.
pub(super) struct Sockets(Vec<(SocketAddr, TcpListener)>);

impl Sockets {
    /// What this process was started with; nothing, as a rule. One for an address where nothing is to listen
    /// is an error: stations would wait in it for ever.
    pub(super) fn handed_over(listening: &[SocketAddr]) -> anyhow::Result<Self> {
        let mut from = ListenFd::from_env();
        let mut found = Vec::new();
        for place in 0..from.len() {
            let socket = from.take_tcp_listener(place);
            let socket = socket.context("a socket that was handed over listens to no TCP port")?;
            let Some(socket) = socket else { continue };
            let address = socket.local_addr()?;
            if !listening.contains(&address) {
                anyhow::bail!(
                    "a socket was handed over for {address}, where nothing is configured to listen: [http] listen and [repository] listen say where"
                );
            }
            socket.set_nonblocking(true)?;
            found.push((address, socket));
        }
        Ok(Self(found))
    }

    /// The socket of a configured address.
    pub(super) fn take(&mut self, listen: SocketAddr) -> Option<TcpListener> {
        let place = self.0.iter().position(|(address, _)| *address == listen)?;
        Some(self.0.swap_remove(place).1)
    }
}
