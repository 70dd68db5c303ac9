// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line. Only what was typed; `main` makes a `Config` of it.

use clap::{ArgGroup, Parser, ValueEnum};
use longpin_device::disk::DiskOptions;
use longpin_device::ledger::MAX_FILE_BYTES;
use longpin_device::translations::{DEFAULT_BOUND, Eviction, MAX_BOUND};
use longpin_proto::control::Fault;
use std::path::PathBuf;

/// Virtual hardware for QEMU by vhost-user: an accelerator that writes into pinned guest pages, and auditing disks.
#[derive(Debug, Parser)]
#[command(name = "longpin-device", version, after_help = AFTER_HELP)]
#[command(group(ArgGroup::new("socket").args(["socket_path", "fd"])))]
#[command(group(ArgGroup::new("device").required(true).multiple(true).args(["socket_path", "fd", "disks"])))]
pub struct Args {
    /// Listen here for the accelerator's front-end (QEMU). A dead socket is replaced, a live one is refused
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<PathBuf>,

    /// Listen for it on this inherited file descriptor, a listening unix stream socket
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,

    /// Serve a disk: socket=PATH,image=PATH[,serial=ID][,queues=N][,queue-size=N][,block-size=512|4096]
    /// [,read-only=on|off][,audit=writes|off]. Can be repeated. A comma in a value is doubled
    #[arg(long = "disk", value_name = "KEY=VALUE,...")]
    pub disks: Vec<DiskOptions>,

    /// Serve the control protocol (JSON lines) on this unix socket
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Record every pin, release, DMA and disk request in this new file. Without it, entries are only counted
    #[arg(long, value_name = "PATH")]
    pub ledger: Option<PathBuf>,

    /// Let that file grow to so many bytes; one entry more fails it
    #[arg(long, value_name = "BYTES", requires = "ledger", default_value_t = MAX_FILE_BYTES)]
    pub ledger_limit: u64,

    /// Let the device know so many pages of each revocable region at once; one more, and it forgets another
    #[arg(long, value_name = "PAGES", default_value_t = DEFAULT_BOUND, value_parser = parse_bound)]
    pub translation_cache: usize,

    /// Which page it forgets
    #[arg(long, value_name = "WHICH", value_enum, default_value_t)]
    pub translation_eviction: EvictionArg,

    /// Misbehave so from the beginning, as the control protocol's `fault` says: kept-pages is a device that answers an
    /// invalidation and goes on with the pages
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub fault: Fault,

    /// Write "ready" and a newline to this inherited file descriptor, and close it, when the sockets are served
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<i32>,

    /// Wait for other front-ends when the last one has gone, instead of ending
    #[arg(long)]
    pub persist: bool,

    /// What to log on standard error: error, warn, info, debug, trace, or filters as in RUST_LOG
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "info")]
    pub log_level: String,
}

/// `--translation-eviction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EvictionArg {
    /// The one that it has known for longest
    #[default]
    Oldest,
    /// One by pseudo-random numbers, the same in each run
    Random,
}

impl From<EvictionArg> for Eviction {
    fn from(which: EvictionArg) -> Self {
        match which {
            EvictionArg::Oldest => Self::Oldest,
            EvictionArg::Random => Self::Random,
        }
    }
}

fn parse_bound(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(pages) if (1..=MAX_BOUND).contains(&pages) => Ok(pages),
        _ => Err(format!("use a number of pages from 1 to {MAX_BOUND}")),
    }
}

const AFTER_HELP: &str = "\
QEMU (10.2 or later) takes it with:
  -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem
  -chardev socket,id=acc,path=PATH
  -device vhost-user-test-device-pci,chardev=acc,virtio-id=38,num_vqs=4,vq_size=256,config_size=64
and a disk with:
  -chardev socket,id=disk,path=PATH -device vhost-user-blk-pci,chardev=disk,num-queues=2

Exit codes:
  0  all front-ends have gone, or SIGTERM, SIGINT or a shutdown request came
  1  could not start, or failed while serving: standard error says why
  2  wrong usage
  3  served to the end, but the ledger is incomplete";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn one_device_is_required() {
        assert!(Args::try_parse_from(["longpin-device"]).is_err());
        let disk = ["--disk", "socket=s,image=i"];
        let args = Args::try_parse_from(["longpin-device"].iter().chain(&disk).chain(&disk)).unwrap();
        assert_eq!(args.disks.len(), 2);
        assert!(Args::try_parse_from(["longpin-device", "--fd", "3"].iter().chain(&disk)).is_ok());
        let error = Args::try_parse_from(["longpin-device", "--disk", "socket=s"]).unwrap_err();
        assert!(error.to_string().contains("image=PATH is missing"), "{error}");
    }

    #[test]
    fn the_translation_cache_has_a_size() {
        let args = |more: &[&str]| Args::try_parse_from(["longpin-device", "--fd", "3"].iter().chain(more));
        assert_eq!(args(&["--translation-cache", "1"]).unwrap().translation_cache, 1);
        for bad in ["0", "4194305", "many"] {
            let error = args(&["--translation-cache", bad]).unwrap_err().to_string();
            assert!(error.contains("from 1 to 4194304"), "{error}");
        }
        let random = args(&["--translation-eviction", "random"]).unwrap().translation_eviction;
        assert_eq!(Eviction::from(random), Eviction::Random);
    }

    #[test]
    fn a_fault_has_the_name_that_the_control_protocol_gives_it() {
        let args = |more: &[&str]| Args::try_parse_from(["longpin-device", "--fd", "3"].iter().chain(more));
        assert_eq!(args(&[]).unwrap().fault, Fault::None);
        assert_eq!(args(&["--fault", "kept-pages"]).unwrap().fault, Fault::KeptPages);
        let error = args(&["--fault", "kept"]).unwrap_err().to_string();
        assert!(error.contains("unknown variant `kept`") && error.contains("`kept-pages`"), "{error}");
    }

    #[test]
    fn the_accelerator_listens_in_one_way() {
        assert!(Args::try_parse_from(["longpin-device", "--socket-path", "s", "--fd", "3"]).is_err());
        assert!(Args::try_parse_from(["longpin-device", "--fd", "3"]).is_ok());
    }
}
