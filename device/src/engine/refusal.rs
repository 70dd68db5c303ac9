// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ways in which the engine says no, and the status that a driver gets for each.

use super::MAX_PROGRAMS;
use crate::ledger::LedgerError;
use crate::mem::BadAddress;
use crate::region::RegionError;
use longpin_wire::dma;
use std::sync::Arc;

/// Why a request was refused, or a program ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// About the region.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Not in guest memory.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The program's range is not in its region.
    #[error("range {offset}+{length} is not in region {region}")]
    OutsideRegion {
        /// Region.
        region: u32,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// A program of this name runs.
    #[error("program {0} runs already")]
    ProgramExists(u64),
    /// No such program runs.
    #[error("there is no program {0}")]
    NoProgram(u64),
    /// [`MAX_PROGRAMS`].
    #[error("{MAX_PROGRAMS} programs run already")]
    TooManyPrograms,
    /// The driver gave no page.
    #[error("page fault refused with errno {0}")]
    Fault(u32),
    /// The device is being reset.
    #[error("the device is being reset")]
    Resetting,
    /// The ledger does not take entries.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The host gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(Arc<std::io::Error>),
}

impl Refusal {
    /// The `dma::STATUS_` constant for the driver.
    pub fn status(&self) -> u32 {
        match self {
            Self::Region(RegionError::Exists(_) | RegionError::Incomplete(_) | RegionError::Closing(_)) => {
                dma::STATUS_BUSY
            }
            Self::Region(RegionError::NotFound(_)) | Self::NoProgram(_) => dma::STATUS_NOT_FOUND,
            Self::Region(
                RegionError::Contradiction(_) | RegionError::Length { .. } | RegionError::NotRevocable(_),
            ) => dma::STATUS_INVALID,
            Self::Region(RegionError::Limit) | Self::TooManyPrograms => dma::STATUS_LIMIT,
            Self::Address(_) | Self::OutsideRegion { .. } => dma::STATUS_BAD_ADDRESS,
            Self::ProgramExists(_) => dma::STATUS_BUSY,
            Self::Resetting | Self::Ledger(LedgerError::Stopped) => dma::STATUS_STOPPED,
            Self::Fault(_) => dma::STATUS_FAULT,
            Self::Ledger(_) | Self::Thread(_) => dma::STATUS_DEVICE_ERROR,
        }
    }
}
