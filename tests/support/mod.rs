//! What the tests share: worlds, a client, devices.

#![allow(dead_code, reason = "each test uses a part")]

pub mod batch;
pub mod device;
pub mod fault_module;
pub mod faults;
pub mod http;
pub mod keeper;
pub mod plants;
pub mod recipient;
pub mod replica;
pub mod ticket;
pub mod tls;
pub mod world;
