// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device's ledger file, read as it grows.

use anyhow::{Context as _, bail};
use longpin_wire::ledger::{Entry, Header, MAGIC, VERSION};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

/// Reads each entry of a ledger once. Entries of the accelerator and of the disks have the same size, and their label
/// at the same place: the reader need not tell them apart.
#[derive(Debug)]
pub struct LedgerReader {
    path: PathBuf,
    entries_read: u64,
}

impl LedgerReader {
    /// A reader at the start of the file, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), entries_read: 0 }
    }

    /// The entries of `run` among those that have come since the last call, up to entry number `end` of the file.
    /// Entries of other runs are passed over: an earlier case's stragglers are not this case's evidence.
    pub fn read(&mut self, run: u64, end: u64) -> anyhow::Result<Vec<Entry>> {
        let name = self.path.display();
        let mut file = BufReader::new(File::open(&self.path).with_context(|| format!("ledger {name}"))?);
        check_header(&mut file).with_context(|| format!("ledger {name}"))?;
        file.seek(SeekFrom::Start(
            (size_of::<Header>() as u64) + self.entries_read * size_of::<Entry>() as u64,
        ))?;
        let mut found = Vec::new();
        while self.entries_read < end {
            let mut entry = Entry::new_zeroed();
            match file.read_exact(entry.as_mut_bytes()) {
                Ok(()) => self.entries_read += 1,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    bail!(
                        "ledger {name} ends after {} entries; the device announced {end}",
                        self.entries_read
                    )
                }
                Err(error) => return Err(error).with_context(|| format!("ledger {name} cannot be read")),
            }
            if entry.run == run {
                found.push(entry);
            }
        }
        Ok(found)
    }
}

fn check_header(file: &mut impl std::io::Read) -> anyhow::Result<()> {
    let mut bytes = [0u8; size_of::<Header>()];
    file.read_exact(&mut bytes).context("is shorter than its header")?;
    let header = Header::read_from_bytes(&bytes).ok().context("has no header")?;
    if header.magic != MAGIC {
        bail!("is not a ledger: it begins with {:02x?}", header.magic);
    }
    if header.version != VERSION || header.entry_bytes as usize != size_of::<Entry>() {
        bail!(
            "has version {} with entries of {} bytes; this harness reads version {VERSION} with {} bytes",
            header.version,
            header.entry_bytes,
            size_of::<Entry>()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn header(version: u32) -> Header {
        Header { magic: MAGIC, version, entry_bytes: 64, realtime_ns: 1, monotonic_ns: 1, reserved: [0; 4] }
    }

    fn entry(run: u64, generation: u64) -> Entry {
        Entry { run, generation, ..Entry::new_zeroed() }
    }

    fn file(version: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(header(version).as_bytes()).unwrap();
        file
    }

    #[test]
    fn each_entry_is_read_once_and_only_by_its_run() {
        let mut ledger = file(VERSION);
        let mut reader = LedgerReader::new(ledger.path());
        for e in [entry(1, 10), entry(2, 20), entry(1, 11)] {
            ledger.write_all(e.as_bytes()).unwrap();
        }
        let generations = |entries: Vec<Entry>| entries.iter().map(|e| e.generation).collect::<Vec<_>>();
        assert_eq!(generations(reader.read(1, 3).unwrap()), [10, 11]);
        assert!(reader.read(2, 3).unwrap().is_empty(), "entry 2 has been passed over");
        ledger.write_all(entry(2, 21).as_bytes()).unwrap();
        assert_eq!(generations(reader.read(2, 4).unwrap()), [21]);
    }

    #[test]
    fn a_ledger_that_lacks_announced_entries_or_has_another_format_is_named() {
        let short = file(VERSION);
        let text = LedgerReader::new(short.path()).read(1, 1).unwrap_err().to_string();
        assert!(text.ends_with("ends after 0 entries; the device announced 1"), "{text}");
        let newer = file(VERSION + 1);
        let text = format!("{:#}", LedgerReader::new(newer.path()).read(1, 0).unwrap_err());
        assert!(text.contains(&format!("has version {}", VERSION + 1)), "{text}");
    }
}
