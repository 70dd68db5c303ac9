// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Virtio-serial ports by name.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the kernel lists them: `vport0p1/name`.
const CLASS: &str = "/sys/class/virtio-ports";

/// Open a port for reading and writing. Waits for it to appear until the deadline: ports are announced one by one,
/// some time after the driver was bound. A port can be open once.
pub fn open(name: &str, timeout: Duration) -> io::Result<File> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(device) = find(Path::new(CLASS), name).filter(|device| device.exists()) {
            return File::options().read(true).write(true).open(device);
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no virtio-serial port `{name}`; give QEMU -device virtserialport,name={name}"),
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn find(class: &Path, name: &str) -> Option<PathBuf> {
    let ports = std::fs::read_dir(class).ok()?.flatten();
    let mut of_name = ports.filter(|port| {
        std::fs::read_to_string(port.path().join("name")).is_ok_and(|text| text.trim_end() == name)
    });
    of_name.next().map(|port| Path::new("/dev").join(port.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        for (port, name) in [("vport0p1", "longpin.agent\n"), ("vport0p2", "longpin.shell\n")] {
            std::fs::create_dir(class.path().join(port)).unwrap();
            std::fs::write(class.path().join(port).join("name"), name).unwrap();
        }
        std::fs::create_dir(class.path().join("vport1p0")).unwrap();
        assert_eq!(find(class.path(), "longpin.shell"), Some("/dev/vport0p2".into()));
        assert_eq!(find(class.path(), "longpin"), None);
        assert_eq!(find(&class.path().join("gone"), "longpin.agent"), None);
    }
}
