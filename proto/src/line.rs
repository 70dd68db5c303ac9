// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Framing: one JSON document a line. A line has a length limit, so a peer gone mad cannot fill our memory.

use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, BufRead, Read, Write};

/// Longest line in bytes (8 MiB): a fact that carries a file's cells or a kernel log stays far below.
pub const MAX_LINE_BYTES: u64 = 8 << 20;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The stream failed.
    #[error("channel failed: {0}")]
    Io(#[from] io::Error),
    /// End of stream between two lines.
    #[error("channel closed by the peer")]
    Closed,
    /// No newline within [`MAX_LINE_BYTES`], or the stream ended inside a line.
    #[error("line is cut off or longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not the expected document.
    #[error("line is not a valid message: {source}: {excerpt}")]
    Syntax {
        /// What serde says.
        source: serde_json::Error,
        /// Start of the line.
        excerpt: String,
    },
}

/// Write one message and its newline, in one `write` where the stream allows it.
pub fn send<T: Serialize>(out: &mut impl Write, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Read one message. Blocks until a line is there.
pub fn receive<T: DeserializeOwned>(input: &mut impl BufRead) -> Result<T, LineError> {
    let mut line = Vec::new();
    if input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
        return Err(LineError::Closed);
    }
    if line.last() != Some(&b'\n') {
        return Err(LineError::TooLong);
    }
    parse(&line)
}

/// Parse one line that has been read already.
pub fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, LineError> {
    serde_json::from_slice(line).map_err(|source| LineError::Syntax {
        source,
        excerpt: String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_line() {
        let mut wire = Vec::new();
        send(&mut wire, &vec![1u32, 2]).unwrap();
        send(&mut wire, &vec![3u32]).unwrap();
        let mut input = &wire[..];
        assert_eq!(receive::<Vec<u32>>(&mut input).unwrap(), [1, 2]);
        assert_eq!(receive::<Vec<u32>>(&mut input).unwrap(), [3]);
        assert!(matches!(receive::<Vec<u32>>(&mut input), Err(LineError::Closed)));
    }

    #[test]
    fn garbage_and_cut_lines_are_named() {
        assert!(matches!(receive::<u32>(&mut &b"\x00\xffgarbage\n"[..]), Err(LineError::Syntax { .. })));
        assert!(matches!(receive::<u32>(&mut &b"12"[..]), Err(LineError::TooLong)));
    }
}
