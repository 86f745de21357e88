//! Sockets that somebody else opened and keeps open (`sd_listen_fds(3)`), so that a restart refuses no
//! connection: who connects while no process is there waits in the kernel for the next one.

use std::net::SocketAddr;
use std::net::TcpListener;

use anyhow::Context;
use listenfd::ListenFd;

/// Those that are not in use yet.
pub(super) struct Sockets(Vec<(SocketAddr, TcpListener)>);

impl Sockets {
    /// What this process was started with; nothing, as a rule.
    pub(super) fn handed_over() -> anyhow::Result<Self> {
        let mut from = ListenFd::from_env();
        let mut found = Vec::new();
        for place in 0..from.len() {
            let socket = from.take_tcp_listener(place);
            let socket = socket.context("a socket that was handed over listens to no TCP port")?;
            let Some(socket) = socket else { continue };
            socket.set_nonblocking(true)?;
            found.push((socket.local_addr()?, socket));
        }
        Ok(Self(found))
    }

    /// Whether there is one for this address.
    pub(super) fn holds(&self, listen: SocketAddr) -> bool {
        self.0.iter().any(|(address, _)| *address == listen)
    }

    /// The socket of a configured address.
    pub(super) fn take(&mut self, listen: SocketAddr) -> Option<TcpListener> {
        let place = self.0.iter().position(|(address, _)| *address == listen)?;
        Some(self.0.swap_remove(place).1)
    }

    /// Whether each was taken: one that was not would let stations wait for ever.
    pub(super) fn all_taken(&self) -> anyhow::Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((address, _)) => anyhow::bail!(
                "a socket was handed over for {address}, where nothing is configured to listen: [http] listen and [repository] listen say where"
            ),
        }
    }
}
