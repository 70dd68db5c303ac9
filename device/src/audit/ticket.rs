// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One request from its submission to its answer: what the watch knows of it, and the three looks at a write.
//!
//! A write that no rule keeps is looked at twice: its bytes are taken once, so what was submitted is by definition
//! what goes to the image, and only the look before completion can differ. A write that is held or delayed is looked
//! at three times, unless its bytes are taken early. What changes there and back between two looks is not seen.

use super::findings::Pages;
use super::history::History;
use super::instruments::Instruments;
use super::look::Look;
use super::pages::{Piece, pieces};
use super::pool::{Buffer, Charge};
use super::record::{About, Disk, Event};
use crate::clock;
use crate::engine::PinnedBy;
use crate::mem::{BadAddress, Gpa, View};
use longpin_proto::disk::{Author, Change, Fetch, Hit, Op, PAGE_BYTES};
use std::sync::Arc;
use virtio_bindings::virtio_blk::VIRTIO_BLK_S_OK;

/// Has requests wait.
pub(super) trait Keeper: Send + Sync {
    /// A request that has waited is over.
    fn forget(&self, request: u64);
}

/// What the disk does with a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Execute it.
    Go,
    /// Answer VIRTIO_BLK_S_IOERR; touch nothing.
    Fail,
    /// Forget it: the driver has let go of the queue.
    Dropped,
}

/// Called once for each request, from the thread that submitted it or from one of the watch, under no lock of the
/// watch.
pub type Resumed = Box<dyn FnOnce(Ticket, Resume) + Send>;

/// A request that the watch knows. The disk carries it from [`super::Resumed`] to the answer. One that is dropped
/// instead of completed is forgotten without a last look.
pub struct Ticket {
    pub(super) instruments: Arc<Instruments>,
    pub(super) disk: Arc<Disk>,
    pub(super) about: About,
    pub(super) submitted_ns: u64,
    pub(super) segments: Vec<(Gpa, u32)>,
    /// Who is told when it is over, if it waited for a rule.
    keeper: Option<Arc<dyn Keeper>>,
    /// A read into which the device has written.
    pub(super) filled: bool,
    /// When its bytes are taken, if it waits.
    pub(super) fetch: Fetch,
    /// Its bytes at submission, if they are to be used.
    pub(super) early: Option<Arc<Buffer>>,
    /// What its waiting costs its disk.
    room: Option<Charge>,
    audit: Option<Audit>,
}

/// A request that was looked at for the last time. With its drop it counts as completed: whoever has released it and
/// waits goes on.
pub struct Completed {
    /// Its drop does the rest.
    _ticket: Ticket,
}

/// The audited part of a write.
struct Audit {
    pieces: Vec<Piece>,
    /// Who pinned each piece at submission; empty: nobody any.
    pins: Vec<Option<PinnedBy>>,
    first: Option<Look>,
    copy: Option<Look>,
    fetched_ns: u64,
}

/// The last look.
#[derive(Default)]
struct Seen {
    changed: Vec<Changed>,
    /// Pieces whose memory has left the guest.
    unread: u64,
    /// Pieces to which DMA has written, whether that changed them or not.
    touched: u64,
}

/// A piece that is not what it was.
struct Changed {
    index: usize,
    last: Vec<u8>,
}

impl Ticket {
    pub(super) fn new(
        instruments: &Arc<Instruments>,
        disk: Arc<Disk>,
        about: About,
        segments: Vec<(Gpa, u32)>,
        audited: bool,
    ) -> Self {
        let audit = (audited && about.op == Op::Write).then(|| Audit::begin(instruments, &segments));
        // After the pages were entered into the trace: what comes from here on is in it.
        let submitted_ns = disk.record(&about, Event::Submit);
        Self {
            instruments: instruments.clone(),
            disk,
            about,
            submitted_ns,
            segments,
            keeper: None,
            filled: false,
            fetch: Fetch::Early,
            early: None,
            room: None,
            audit,
        }
    }

    /// Number, unique in the daemon's life.
    pub fn id(&self) -> u64 {
        self.about.id
    }

    /// A read whose memory was written to while it was held: it is completed without reading the image.
    pub fn filled(&self) -> bool {
        self.filled
    }

    /// The bytes of a write as they shall go to the image, in a buffer that starts at a page boundary. `None`: the
    /// disk takes them out of the guest's memory itself, now.
    pub fn fetch(&mut self, view: &View<'_>) -> Result<Option<Arc<Buffer>>, BadAddress> {
        if self.about.op != Op::Write {
            return Ok(None);
        }
        let bytes = self.bytes(view)?;
        let fetched_ns = match self.fetch {
            // Recorded when it was done.
            Fetch::Early if self.keeper.is_some() => self.submitted_ns,
            _ => self.disk.record(&self.about, Event::Fetch),
        };
        if let (Some(audit), Some(bytes)) = (&mut self.audit, &bytes) {
            let look = Look::Bytes(bytes.clone());
            audit.first.get_or_insert_with(|| look.clone());
            (audit.copy, audit.fetched_ns) = (Some(look), fetched_ns);
        }
        Ok(bytes)
    }

    /// The bytes that a fetch would give now.
    pub(super) fn bytes(&self, view: &View<'_>) -> Result<Option<Arc<Buffer>>, BadAddress> {
        match (self.fetch, &self.early) {
            (Fetch::Early, Some(early)) => Ok(Some(early.clone())),
            (Fetch::Split, Some(early)) => {
                let mut bytes = self.instruments.pool.copy(view, &self.segments)?;
                for piece in pieces(&self.segments) {
                    let half =
                        (PAGE_BYTES as usize / 2).saturating_sub(piece.start()).min(piece.len as usize);
                    let first_half = piece.at..piece.at + half;
                    bytes.bytes_mut()[first_half.clone()].copy_from_slice(&early[first_half]);
                }
                Ok(Some(Arc::new(bytes)))
            }
            _ if self.audit.is_some() => {
                Ok(Some(Arc::new(self.instruments.pool.copy(view, &self.segments)?)))
            }
            _ => Ok(None),
        }
    }

    /// Whether there is room for it to wait.
    pub(super) fn may_wait(&mut self) -> bool {
        let len = self.segments.iter().map(|(_, len)| u64::from(*len)).sum();
        self.room = self.disk.waiting.charge(len);
        self.room.is_some()
    }

    /// The request will wait; `data` is what it carried when it came.
    pub(super) fn wait(&mut self, keeper: Arc<dyn Keeper>, fetch: Fetch, data: Option<Arc<Buffer>>) {
        (self.keeper, self.fetch) = (Some(keeper), fetch);
        if let (Some(audit), Some(data)) = (&mut self.audit, &data) {
            audit.first = Some(if data.is_charged() {
                Look::Bytes(data.clone())
            } else {
                Look::hashed(data, &audit.pieces)
            });
        }
        if fetch == Fetch::Early && data.is_some() {
            self.disk.record(&self.about, Event::Fetch);
        }
        self.early = data.filter(|_| fetch != Fetch::Late);
    }

    /// The last look at the request's memory. Called just before the answer goes into the ring; what comes back is
    /// dropped when it is there.
    pub fn complete(mut self, view: &View<'_>, status: u8) -> Completed {
        if self.about.op == Op::Read && status == VIRTIO_BLK_S_OK as u8 && !self.filled {
            // The disk is a device too, and has written to these pages: they may be on their way in a write.
            let pieces = pieces(&self.segments);
            let written = pieces.iter().map(|piece| (piece.gpa, piece.len));
            self.instruments.trace.record_read(written, clock::monotonic_ns());
        }
        if let Some(audit) = self.audit.take() {
            self.last_look(&audit, view);
            audit.end(&self.instruments);
        }
        self.disk.record(&self.about, Event::Complete(status));
        Completed { _ticket: self }
    }

    fn last_look(&self, audit: &Audit, view: &View<'_>) {
        let (Some(first), Some(copy)) = (&audit.first, &audit.copy) else {
            return; // It failed before its bytes were taken.
        };
        let Seen { changed, unread, touched } = self.changed(audit, first, copy, view);
        let completed_ns = clock::monotonic_ns();
        let (mut settled, mut two_guests) = (false, None);
        let hits = changed.iter().filter_map(|Changed { index, last }| {
            let history = History { piece: &audit.pieces[*index], index: *index, first, copy, last };
            let change = history.change()?;
            let same = self.instruments.guests.check_page(&self.disk.ram, history.piece.gpa);
            let one_guest = same.map_err(|found| two_guests = Some(found)).is_ok();
            let author = if one_guest { self.author(&history, &mut settled) } else { Author::Unknown };
            let pin = audit.pins.get(*index).copied().flatten().filter(|_| one_guest);
            let written = || self.instruments.trace.covered(history.piece.page(), self.submitted_ns);
            let torn = change == Change::AfterFetch && one_guest && history.is_copy_torn(written);
            let change = if torn { Change::Torn } else { change };
            let dma = one_guest && author.by_dma();
            Some(self.hit(audit, &history, change, author, (pin, dma), completed_ns))
        });
        let hits = hits.collect();
        let pages = Pages { read: audit.pieces.len() as u64 - unread, unread, touched };
        self.disk.counters.audited(pages.read);
        let mut findings = self.instruments.findings.lock();
        findings.add(self.about.case, pages, hits);
        if let Some(found) = two_guests {
            findings.add_two_guests(self.about.case, found);
        }
    }

    /// Count, record and describe a piece that changed.
    fn hit(
        &self,
        audit: &Audit,
        history: &History<'_>,
        change: Change,
        author: Author,
        (pin, dma): (Option<PinnedBy>, bool),
        completed_ns: u64,
    ) -> Hit {
        let piece = history.piece;
        // A page that was pinned after the submission is known by the DMA that went there.
        let trace = &self.instruments.trace;
        let writer = dma.then(|| trace.written_by(piece.gpa, piece.len, self.submitted_ns)).flatten();
        let byte = self.about.byte.saturating_add(piece.at as u64);
        self.disk.counters.hit(author);
        self.disk.record_hit(&self.about, author, byte, piece.len.into(), piece.gpa.0);
        let (generation_before, generation_after) = history.generations();
        let (differing_bytes, spans) = history.spans();
        Hit {
            request: self.about.id,
            disk: self.disk.index,
            byte,
            gpa: piece.gpa.0,
            region: pin.and_then(|pin| pin.region).or(writer.map(|writer| writer.region)),
            file_offset: pin
                .and_then(|pin| pin.file_offset)
                .or_else(|| history.file_offset())
                .or(writer.map(|writer| writer.file_offset)),
            change,
            author,
            hashes: history.hashes(),
            generation_before,
            generation_after,
            differing_bytes,
            spans,
            submitted_ns: self.submitted_ns,
            fetched_ns: audit.fetched_ns,
            completed_ns,
        }
    }

    /// Pieces that were not the same at all looks, with what they hold now.
    fn changed(&self, audit: &Audit, first: &Look, copy: &Look, view: &View<'_>) -> Seen {
        let mut page = [0; PAGE_BYTES as usize];
        let mut seen = Seen::default();
        for (index, piece) in audit.pieces.iter().enumerate() {
            // A private copy: others may write to the page while it is compared.
            let last = &mut page[..piece.len as usize];
            if let Err(error) = view.read(piece.gpa, last) {
                log::debug!("request {} of disk {}: {error}", self.about.id, self.disk.index);
                seen.unread += 1;
                continue;
            }
            let touched = self.instruments.trace.touched(piece.gpa, piece.len, self.submitted_ns);
            seen.touched += u64::from(touched);
            if !(copy.had(index, piece, last) && first.agrees(copy, index, piece)) {
                seen.changed.push(Changed { index, last: last.to_vec() });
            }
        }
        seen
    }

    /// Bytes that no recorded DMA explains may come from one that is just being recorded: wait for it, once for all
    /// pages, which have been read by now.
    fn author(&self, history: &History<'_>, settled: &mut bool) -> Author {
        let trace = &self.instruments.trace;
        let covered = || trace.covered(history.piece.page(), self.submitted_ns);
        let author = history.author(&covered());
        if author == Author::Dma || *settled {
            return author;
        }
        *settled = true;
        trace.settle();
        history.author(&covered())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(audit) = self.audit.take() {
            audit.end(&self.instruments);
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.forget(self.about.id);
        }
    }
}

impl Audit {
    fn begin(instruments: &Instruments, segments: &[(Gpa, u32)]) -> Self {
        let pieces = pieces(segments);
        instruments.trace.enter(pieces.iter().map(Piece::page));
        let pins = match instruments.pins.read() {
            Some(pins) => pieces.iter().map(|piece| pins.of(piece.gpa, piece.len).next()).collect(),
            None => Vec::new(),
        };
        Self { pieces, pins, first: None, copy: None, fetched_ns: 0 }
    }

    fn end(&self, instruments: &Instruments) {
        instruments.trace.leave(self.pieces.iter().map(Piece::page));
    }
}
