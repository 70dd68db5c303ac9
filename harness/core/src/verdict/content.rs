// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each cell of a file should hold, by everything that was done to the file; and what a cell that holds
//! something else shows.

use super::Observation;
use longpin_proto::facts::{CellState, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Content of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "content")]
pub enum Content {
    /// Zero bytes: a hole, or never written.
    Zero,
    /// A stamp of this case.
    Stamp {
        /// DMA or CPU.
        source: Source,
        /// Generation.
        generation: u64,
    },
}

impl Content {
    /// Generation of a stamp.
    pub fn generation(self) -> Option<u64> {
        match self {
            Self::Zero => None,
            Self::Stamp { generation, .. } => Some(generation),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("zeros"),
            Self::Stamp { source, generation } => {
                write!(f, "{} generation {generation}", source_word(*source))
            }
        }
    }
}

fn source_word(source: Source) -> &'static str {
    match source {
        Source::Dma => "DMA",
        Source::Cpu => "CPU",
        Source::Planted => "planted",
        Source::Unknown => "unknown",
    }
}

/// A found cell in words.
pub fn describe(state: &CellState, run: u64) -> String {
    match state {
        CellState::Zero => "zeros".into(),
        CellState::Whole(writer) if writer.run != run => format!("bytes of another case ({:#x})", writer.run),
        CellState::Whole(writer) => {
            format!("{} generation {}", source_word(writer.source), writer.generation)
        }
        CellState::Displaced { writer, stamped_offset } => {
            format!(
                "{} generation {} of byte {stamped_offset}",
                source_word(writer.source),
                writer.generation
            )
        }
        CellState::Torn { writer, first_bad_byte } => {
            let source = source_word(writer.source);
            format!("a torn cell: {source} generation {} up to byte {first_bad_byte}", writer.generation)
        }
        CellState::Foreign { head } => format!("foreign bytes {}...", &head[..head.len().min(16)]),
        CellState::Unreadable { errno } => format!("errno {errno}"),
        CellState::Absent => "nothing: the file ends before".into(),
    }
}

/// A found cell as content of this case, if it is one.
pub fn content(state: &CellState, run: u64) -> Option<Content> {
    match state {
        CellState::Zero => Some(Content::Zero),
        CellState::Whole(writer) if writer.run == run => {
            Some(Content::Stamp { source: writer.source, generation: writer.generation })
        }
        _ => None,
    }
}

/// History of a cell.
#[derive(Debug, Clone, Default)]
struct CellHistory {
    past: Vec<Content>,
    now: Option<Content>,
}

/// A file as it should be.
#[derive(Debug, Clone)]
pub struct FileContent {
    cell_bytes: u64,
    size: u64,
    cells: BTreeMap<u64, CellHistory>,
}

impl FileContent {
    pub fn new(cell_bytes: u32) -> Self {
        Self { cell_bytes: u64::from(cell_bytes), size: 0, cells: BTreeMap::new() }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// A write of `len` bytes that was completed.
    pub fn write(&mut self, offset: u64, len: u64, content: Content) {
        let mut at = offset - offset % self.cell_bytes;
        while at < offset + len {
            let cell = self.cells.entry(at).or_default();
            let before = cell.now.replace(content).unwrap_or(Content::Zero);
            cell.past.push(before);
            at += self.cell_bytes;
        }
    }

    /// A write that also makes the file longer, as `write(2)` does and a store or DMA does not.
    pub fn append(&mut self, offset: u64, len: u64, content: Content) {
        self.write(offset, len, content);
        self.size = self.size.max(offset + len);
    }

    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            self.write(size, self.size - size, Content::Zero);
        }
        self.size = size;
    }

    /// What the cell should hold.
    pub fn wanted(&self, offset: u64) -> Content {
        self.cells.get(&offset).and_then(|cell| cell.now).unwrap_or(Content::Zero)
    }

    /// First cell whose last write was a DMA.
    pub fn first_dma(&self) -> Option<u64> {
        let is_dma =
            |cell: &CellHistory| matches!(cell.now, Some(Content::Stamp { source: Source::Dma, .. }));
        self.cells.iter().find(|(_, cell)| is_dma(cell)).map(|(offset, _)| *offset)
    }

    /// What a found cell shows; none: it is as it should be.
    pub fn judge(&self, offset: u64, state: &CellState, run: u64) -> Option<Observation> {
        let inside = offset < self.size;
        let wanted = self.wanted(offset);
        match (state, content(state, run)) {
            (CellState::Absent, _) => inside.then_some(Observation::Lost),
            (CellState::Unreadable { .. }, _) => Some(Observation::Detected),
            (CellState::Torn { .. } | CellState::Foreign { .. }, _) => Some(Observation::Torn),
            (_, Some(found)) if found == wanted => None,
            // Old content of a page that was written since is a loss; old content of a page that was cut off since
            // is data in the wrong place.
            (_, Some(found)) if wanted != Content::Zero && self.held(offset, found) => {
                Some(Observation::Lost)
            }
            (_, Some(Content::Zero)) => Some(Observation::Lost),
            _ => Some(Observation::Bleed),
        }
    }

    fn held(&self, offset: u64, content: Content) -> bool {
        self.cells.get(&offset).is_some_and(|cell| cell.past.contains(&content))
    }
}
