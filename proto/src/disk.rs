// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The auditing disk over the control socket: rules, held requests, and what the audit found.
//!
//! A disk answers each request as a virtio-blk device does, and watches the bytes of each write on their way. A rule
//! says what shall be done otherwise with requests that meet its condition; the first rule that accepts a request
//! counts. Held requests wait for [`crate::control::Request::ReleaseHeld`], or for the rule's cap.

use serde::{Deserialize, Serialize};

/// Bytes of a page, the unit of the audit.
pub const PAGE_BYTES: u64 = 4096;
/// Longest time that a rule may hold or delay a request, milliseconds.
pub const MAX_HOLD_MS: u64 = 600_000;
/// Hold of a rule that says nothing else, milliseconds.
pub const DEFAULT_HOLD_MS: u64 = 20_000;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// VIRTIO_BLK_T_IN.
    Read,
    /// VIRTIO_BLK_T_OUT.
    Write,
    /// VIRTIO_BLK_T_FLUSH.
    Flush,
    /// VIRTIO_BLK_T_DISCARD.
    Discard,
    /// VIRTIO_BLK_T_WRITE_ZEROES.
    WriteZeroes,
}

/// Which requests a rule is for. All conditions that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// Only this kind.
    pub op: Option<Op>,
    /// The request touches this range of the disk: first byte and length.
    pub range: Option<(u64, u64)>,
    /// One of its guest pages is pinned by a region with this label (`MapRequest::run`); 0: by any region.
    pub pinned: Option<u64>,
    /// One of its 512-byte sectors begins with a stamp of this label. Writes only; found wherever the file system
    /// puts the file's bytes, copy-on-write and journals included.
    pub stamped: Option<u64>,
}

/// When the disk takes the bytes of a write out of the guest's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fetch {
    /// When the hold or the delay is over: a device that fetches late. What the page then holds goes to the disk.
    #[default]
    Late,
    /// When the request is taken from the ring: what bouncing in the block layer would give.
    Early,
    /// The first half of each page early, the second late: a fetch that overlaps with the change.
    Split,
}

/// What a rule does with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Nothing: no later rule is asked.
    Observe,
    /// Keep it until it is released, at most `cap_ms`. A read fills the guest's memory only after the release.
    Hold {
        /// See [`Fetch`].
        fetch: Fetch,
        /// Milliseconds; 1 to [`MAX_HOLD_MS`].
        cap_ms: u64,
    },
    /// Keep it for a time.
    Delay {
        /// See [`Fetch`].
        fetch: Fetch,
        /// Milliseconds; 1 to [`MAX_HOLD_MS`].
        ms: u64,
    },
    /// Answer VIRTIO_BLK_S_IOERR; nothing is written or read.
    Fail,
}

/// One rule of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name, unique among the rules of all disks.
    pub name: String,
    /// Index of the disk, in the order of the daemon's `--disk` options.
    pub disk: u32,
    /// Which requests.
    pub matching: Match,
    /// What is done.
    pub action: Action,
    /// It ends after so many requests; 0: never.
    pub limit: u64,
}

/// A guest page of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// Byte on the disk.
    pub byte: u64,
    /// Guest physical address of the first byte.
    pub gpa: u64,
    /// Bytes in the page that belong to the request.
    pub len: u32,
    /// Region that pins it, if one does.
    pub region: Option<u32>,
    /// Offset of the page in its file: by the region, else by the stamp that it carried when it was taken.
    pub file_offset: Option<u64>,
}

/// A request that is being held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Number, unique in the daemon's life.
    pub request: u64,
    /// Disk.
    pub disk: u32,
    /// Rule that holds it.
    pub rule: String,
    /// Kind.
    pub op: Op,
    /// First byte on the disk.
    pub byte: u64,
    /// Bytes.
    pub len: u64,
    /// When it was taken from the ring, CLOCK_MONOTONIC of the host, ns.
    pub submitted_ns: u64,
    /// Its pages.
    pub pages: Vec<PageRef>,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldEnd {
    /// It was released by request.
    Released,
    /// The cap was reached.
    Cap,
    /// The power cut, or the driver let go of the queue.
    Dropped,
}

/// A hold that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Rule.
    pub rule: String,
    /// Request.
    pub request: u64,
    /// Disk.
    pub disk: u32,
    /// Kind.
    pub op: Op,
    /// First byte on the disk.
    pub byte: u64,
    /// Bytes.
    pub len: u64,
    /// When it was taken from the ring.
    pub submitted_ns: u64,
    /// When the hold ended.
    pub ended_ns: u64,
    /// How.
    pub end: HoldEnd,
}

/// When the content of a page changed, by its three hashes: at submission (h1), of the copy that went to the image
/// (h2), just before completion (h3). A change there and back between two of them is invisible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// h1 != h2 = h3: the disk has the new content, which nobody submitted.
    BeforeFetch,
    /// h1 = h2 != h3: the disk has what was submitted, the page has moved on.
    AfterFetch,
    /// h2 equals neither, or the copy of a write that was copied once has cells that DMA wrote to meanwhile: the disk has
    /// a content that the page may never have had.
    Torn,
    /// h1 = h3 != h2: there and back.
    Back,
}

/// Who changed a page in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Author {
    /// Every byte that differs lies in a DMA write of ours between submission and completion.
    Dma,
    /// The bytes that differ carry stamps of a CPU, or no DMA of ours touched the page.
    Other,
    /// Both.
    Mixed,
    /// What was kept of the page does not say: DMA of ours wrote to a part of it, and it is not known which bytes
    /// changed, or the record of DMA has a gap. Proves nothing.
    Unknown,
}

impl Author {
    /// It is shown that DMA of ours changed some of the page.
    pub fn by_dma(self) -> bool {
        matches!(self, Self::Dma | Self::Mixed)
    }
}

/// Neighbouring bytes that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// First byte in the page.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// First bytes at submission, hex, at most 32.
    pub before: String,
    /// The same bytes before completion, hex.
    pub after: String,
}

/// A page that changed between submission and completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// Request.
    pub request: u64,
    /// Disk.
    pub disk: u32,
    /// Byte on the disk of the page's first byte.
    pub byte: u64,
    /// Guest physical address of the page's first byte.
    pub gpa: u64,
    /// Region that pinned the page at submission, else the one through which DMA changed it.
    pub region: Option<u32>,
    /// Offset of the page in its file, as in [`PageRef`].
    pub file_offset: Option<u64>,
    /// When.
    pub change: Change,
    /// Who.
    pub author: Author,
    /// h1, h2, h3, hex.
    pub hashes: [String; 3],
    /// Largest generation stamped in the page at submission.
    pub generation_before: Option<u64>,
    /// Largest generation stamped in the page before completion.
    pub generation_after: Option<u64>,
    /// Bytes that differ between submission and completion; 0 if the bytes of the submission were not kept.
    pub differing_bytes: u32,
    /// The first of them, at most 16.
    pub spans: Vec<Span>,
    /// When the request was taken from the ring, CLOCK_MONOTONIC of the host, ns.
    pub submitted_ns: u64,
    /// When its bytes were taken.
    pub fetched_ns: u64,
    /// When the third hash was taken.
    pub completed_ns: u64,
}

/// What the audit found since [`crate::control::Request::Case`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Label of the case.
    pub run: u64,
    /// Writes that were audited.
    pub writes: u64,
    /// Pages that were looked at to the end.
    pub pages: u64,
    /// Pages of audited writes whose memory had left the guest before the last look.
    #[serde(default)]
    pub pages_unread: u64,
    /// Pages to which DMA of ours wrote in flight, at least: also bytes that were there already.
    #[serde(default)]
    pub pages_touched: u64,
    /// Pages that changed in flight, in the order of completion.
    pub hits: Vec<Hit>,
    /// Hits beyond the daemon's limit, which were only counted.
    pub hits_left_out: u64,
    /// Holds that are over.
    pub holds: Vec<HoldReport>,
}

/// What a power cut does with writes that have not been completed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InFlight {
    /// None of their bytes are on the disk.
    #[default]
    Drop,
    /// Of each, the first half of its sectors is.
    Tear,
}

/// State of one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// Serial id.
    pub serial: String,
    /// The driver has set a queue up.
    pub driver_ready: bool,
    /// Bytes of the image.
    pub bytes: u64,
    /// Requests by kind.
    pub reads: u64,
    /// See `reads`.
    pub writes: u64,
    /// See `reads`.
    pub flushes: u64,
    /// Discards and write-zeroes.
    pub discards: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Requests with the disk now.
    pub in_flight: u32,
    /// Of these, held.
    pub held: u32,
    /// Pages hashed.
    pub pages_audited: u64,
    /// Pages that changed in flight, by DMA, and otherwise or by nobody knows whom.
    pub hits_by_dma: u64,
    /// See `hits_by_dma`.
    pub hits_by_others: u64,
    /// Last error of the image file, with its errno: ENOSPC, for instance; or what the disk could not do for its rules.
    pub last_error: Option<String>,
}
