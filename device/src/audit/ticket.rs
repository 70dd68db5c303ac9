// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One request from its submission to its answer, as the watch sees it.

use super::pool::{Buffer, Pool};
use crate::mem::{BadAddress, Gpa, View};
use std::sync::Arc;

/// A request that the watch knows. The disk carries it from [`super::Resumed`] to the answer.
pub struct Ticket {
    pub(super) pool: Arc<Pool>,
    pub(super) id: u64,
    pub(super) segments: Vec<(Gpa, u32)>,
    pub(super) audited: bool,
    pub(super) filled: bool,
}

impl Ticket {
    /// Number, unique in the daemon's life.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The bytes of a write as they shall go to the image, in a buffer that starts at a page boundary. `None`: the
    /// disk takes them out of the guest's memory itself, now.
    pub fn fetch(&mut self, view: &View<'_>) -> Result<Option<Arc<Buffer>>, BadAddress> {
        if !self.audited {
            return Ok(None);
        }
        Ok(Some(Arc::new(self.pool.copy(view, &self.segments)?)))
    }

    /// A read whose memory was written to while it was held: it is completed without reading the image.
    pub fn filled(&self) -> bool {
        self.filled
    }

    /// The last look at the request's memory. Called just before the answer goes into the ring.
    pub fn complete(self, view: &View<'_>, status: u8) {
        let _ = (view, status);
    }
}
