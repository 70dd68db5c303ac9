// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What must survive a power cut once it is said to be there: content first, then the name.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Writes a file anew, so that after a power cut it has the old content or the new.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    let written =
        File::create(&partial).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(Error::io("write", &partial))?;
    rename(&partial, path)
}

/// Gives a finished directory its final name. Everything in it goes to the disk first, by one syncfs: an fsync for each
/// of a tool root's 20,000 files would take minutes.
pub(crate) fn publish(partial: &Path, dir: &Path) -> Result<()> {
    let opened = File::open(partial).map_err(Error::io("open", partial))?;
    rustix::fs::syncfs(&opened).map_err(|errno| Error::io("write to the disk", partial)(errno.into()))?;
    rename(partial, dir)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(Error::io("rename into place", to))?;
    let parent = to.parent().unwrap_or(Path::new("/"));
    let synced = File::open(parent).and_then(|dir| dir.sync_all());
    synced.map_err(Error::io("write to the disk", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for text in ["old", "new"] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
