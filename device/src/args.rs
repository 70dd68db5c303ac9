// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The command line. Only what was typed; `main` makes a `Config` of it.

use clap::{ArgGroup, Parser};
use std::path::PathBuf;

/// Virtual accelerator for QEMU: a vhost-user device that writes into pinned guest pages.
#[derive(Debug, Parser)]
#[command(name = "longpin-device", version, after_help = AFTER_HELP)]
#[command(group(ArgGroup::new("socket").required(true).args(["socket_path", "fd"])))]
pub struct Args {
    /// Listen here for the vhost-user front-end (QEMU). A dead socket is replaced, a live one is refused
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<PathBuf>,

    /// Listen on this inherited file descriptor, a listening unix stream socket
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,

    /// Serve the control protocol (JSON lines) on this unix socket
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Record every pin, release and DMA in this new file. Without it, entries are only counted
    #[arg(long, value_name = "PATH")]
    pub ledger: Option<PathBuf>,

    /// Write "ready" and a newline to this inherited file descriptor, and close it, when the sockets are served
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<i32>,

    /// Wait for another front-end when one has gone, instead of ending
    #[arg(long)]
    pub persist: bool,

    /// What to log on standard error: error, warn, info, debug, trace, or filters as in RUST_LOG
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "info")]
    pub log_level: String,
}

const AFTER_HELP: &str = "\
QEMU (10.2 or later) takes it with:
  -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem
  -chardev socket,id=acc,path=PATH
  -device vhost-user-test-device-pci,chardev=acc,virtio-id=38,num_vqs=2,vq_size=256,config_size=64

Exit codes:
  0  the front-end has gone, or SIGTERM, SIGINT or a shutdown request came
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
    fn exactly_one_way_to_listen_is_required() {
        assert!(Args::try_parse_from(["longpin-device"]).is_err());
        assert!(Args::try_parse_from(["longpin-device", "--socket-path", "s", "--fd", "3"]).is_err());
        assert!(Args::try_parse_from(["longpin-device", "--fd", "3"]).is_ok());
    }
}
