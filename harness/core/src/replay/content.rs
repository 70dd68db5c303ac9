// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Contents of cells, and their words.

use longpin_proto::facts::{CellState, Source};
use serde::{Deserialize, Serialize};
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
        CellState::Unreadable { errno } => errno_name(*errno),
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

/// Name of an errno that a read of damaged data gives, or a page fault of the device.
pub fn errno_name(errno: i32) -> String {
    match errno {
        1 => "EPERM".into(),
        5 => "EIO".into(),
        14 => "EFAULT".into(),
        16 => "EBUSY".into(),
        84 => "EILSEQ".into(),
        117 => "EUCLEAN".into(),
        other => format!("errno {other}"),
    }
}
