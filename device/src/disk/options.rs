// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `--disk` option: `key=value` pairs, separated by commas; a comma in a value is doubled, as QEMU has it.

use super::config_space::ID_BYTES;
use std::path::PathBuf;
use std::str::FromStr;

/// Most queues: the vhost-user library has one bit for each in a 64-bit mask.
pub const MAX_QUEUES: usize = 64;
/// Largest ring: a chain then still fits one vector of the host's kernel (UIO_MAXIOV is 1024).
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// One disk, as the user asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOptions {
    /// Where its front-end connects.
    pub socket: PathBuf,
    /// Raw file or block device.
    pub image: PathBuf,
    /// Answer to VIRTIO_BLK_T_GET_ID; by default `longpin-N` with the disk's index.
    pub serial: Option<String>,
    /// Virtqueues.
    pub queues: usize,
    /// Descriptors of each.
    pub queue_size: u16,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// The driver may not write.
    pub read_only: bool,
    /// Writes are watched byte by byte.
    pub audited: bool,
}

/// Why a `--disk` option cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No `=`.
    #[error("`{0}` is not key=value; double a comma that belongs to a value")]
    Pair(String),
    /// Unknown key.
    #[error(
        "key `{0}` is unknown; use socket, image, serial, queues, queue-size, block-size, read-only, audit"
    )]
    Key(String),
    /// A key came twice.
    #[error("key `{0}` is given twice")]
    Twice(String),
    /// A value that its key does not take.
    #[error("{key}={value}: use {wanted}")]
    Value {
        /// Key.
        key: String,
        /// What was given.
        value: String,
        /// What would do.
        wanted: String,
    },
    /// `socket` or `image` is missing.
    #[error("{0}=PATH is missing")]
    Missing(&'static str),
}

impl FromStr for DiskOptions {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut options = Self {
            socket: PathBuf::new(),
            image: PathBuf::new(),
            serial: None,
            queues: 2,
            queue_size: 256,
            block_bytes: 512,
            read_only: false,
            audited: true,
        };
        let mut seen = Vec::new();
        for pair in split(text) {
            let (key, value) = pair.split_once('=').ok_or_else(|| OptionError::Pair(pair.clone()))?;
            if seen.contains(&key.to_owned()) {
                return Err(OptionError::Twice(key.into()));
            }
            seen.push(key.to_owned());
            options.set(key, value)?;
        }
        for (name, path) in [("socket", &options.socket), ("image", &options.image)] {
            if path.as_os_str().is_empty() {
                return Err(OptionError::Missing(name));
            }
        }
        Ok(options)
    }
}

impl DiskOptions {
    fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        let refuse = |wanted: String| OptionError::Value { key: key.into(), value: value.into(), wanted };
        let one_of = |words: [&str; 2]| match words.iter().position(|word| *word == value) {
            Some(index) => Ok(index == 0),
            None => Err(refuse(words.join(" or "))),
        };
        let size = value.parse::<u16>().ok();
        match key {
            "socket" => self.socket = value.into(),
            "image" => self.image = value.into(),
            "serial" => {
                let fits =
                    (1..=ID_BYTES).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
                fits.then_some(()).ok_or_else(|| refuse(format!("1 to {ID_BYTES} printable characters")))?;
                self.serial = Some(value.into());
            }
            "queues" => {
                let queues = size.map(usize::from).filter(|n| (1..=MAX_QUEUES).contains(n));
                self.queues = queues.ok_or_else(|| refuse(format!("1 to {MAX_QUEUES}")))?;
            }
            "queue-size" => {
                // Four descriptors make the smallest ring that holds a request: header, data, status.
                let size = size.filter(|n| n.is_power_of_two() && (4..=MAX_QUEUE_SIZE).contains(n));
                self.queue_size =
                    size.ok_or_else(|| refuse(format!("a power of two, 4 to {MAX_QUEUE_SIZE}")))?;
            }
            "block-size" => self.block_bytes = if one_of(["512", "4096"])? { 512 } else { 4096 },
            "read-only" => self.read_only = one_of(["on", "off"])?,
            "audit" => self.audited = one_of(["writes", "off"])?,
            _ => return Err(OptionError::Key(key.into())),
        }
        Ok(())
    }
}

/// Cut at single commas; a doubled one is a comma.
fn split(text: &str) -> Vec<String> {
    let mut pairs = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            pairs.push(String::new());
        } else if let Some(pair) = pairs.last_mut() {
            pair.push(c);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<DiskOptions>().unwrap_err().to_string()
    }

    #[test]
    fn paths_alone_give_the_defaults() {
        let options: DiskOptions = "socket=/s,image=/i".parse().unwrap();
        assert_eq!((options.socket, options.image), ("/s".into(), "/i".into()));
        assert_eq!((options.queues, options.queue_size, options.block_bytes), (2, 256, 512));
        assert_eq!((options.read_only, options.audited, options.serial), (false, true, None));
    }

    #[test]
    fn each_key_is_understood() {
        let text =
            "serial=a-1,queues=4,queue-size=128,block-size=4096,read-only=on,audit=off,socket=s,image=i";
        let options: DiskOptions = text.parse().unwrap();
        assert_eq!((options.queues, options.queue_size, options.block_bytes), (4, 128, 4096));
        assert_eq!((options.read_only, options.audited, options.serial), (true, false, Some("a-1".into())));
    }

    #[test]
    fn a_doubled_comma_is_a_comma() {
        let options: DiskOptions = "socket=/a,,b,image=/c,,,,d".parse().unwrap();
        assert_eq!((options.socket, options.image), ("/a,b".into(), "/c,,d".into()));
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_remedy() {
        assert_eq!(error("socket=s"), "image=PATH is missing");
        assert_eq!(error("image=i"), "socket=PATH is missing");
        assert!(error("socket=s,image=i,").starts_with("`` is not key=value"));
        assert!(error("socket=s,image=i,colour=red").starts_with("key `colour` is unknown; use socket"));
        assert_eq!(error("socket=s,socket=t,image=i"), "key `socket` is given twice");
        assert_eq!(error("queues=0"), "queues=0: use 1 to 64");
        assert_eq!(error("queues=65"), "queues=65: use 1 to 64");
        assert_eq!(error("queue-size=100"), "queue-size=100: use a power of two, 4 to 1024");
        assert_eq!(error("queue-size=2048"), "queue-size=2048: use a power of two, 4 to 1024");
        assert_eq!(error("block-size=1024"), "block-size=1024: use 512 or 4096");
        assert_eq!(error("read-only=yes"), "read-only=yes: use on or off");
        assert_eq!(error("audit=on"), "audit=on: use writes or off");
        assert_eq!(error("serial="), "serial=: use 1 to 20 printable characters");
        assert!(error("serial=123456789012345678901").contains("use 1 to 20"));
    }
}
