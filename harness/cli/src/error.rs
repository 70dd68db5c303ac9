// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a command ends with when it does not end well. Everything that is neither the user's mistake nor an
//! interruption is an infrastructure error.

/// Why a command gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong usage, or a faulty scenario file: each line is one fault.
    #[error("{0}")]
    Usage(String),
    /// A signal asked us to stop.
    #[error("interrupted")]
    Interrupted,
    /// Anything else.
    #[error("{0:#}")]
    Infra(#[from] anyhow::Error),
}

/// Result of a command.
pub type Result<T> = std::result::Result<T, Error>;
