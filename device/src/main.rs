// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon `longpin-device`: command line, log, signals, exit code.
#![deny(unsafe_code)]

mod args;

use args::Args;
use clap::Parser as _;
use longpin_device::disk::{DiskConfig, DiskOptions, Image, ImageError};
use longpin_device::ledger::LedgerError;
use longpin_device::listener::{ListenError, SocketFile};
use longpin_device::stop::Stop;
use longpin_device::translations::CacheOptions;
use longpin_device::{Config, ServeError, panics, serve, sys};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::fs::File;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

/// Why the daemon does not run, or ended badly.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot use file descriptor {number}: {source}")]
    Descriptor { number: i32, source: io::Error },
    #[error("disk {index}: {source}")]
    Image { index: usize, source: ImageError },
    #[error("disk {index}: {source}")]
    DiskSocket { index: usize, source: ListenError },
    #[error("cannot set up signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl MainError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Serve(ServeError::Ledger(LedgerError::Failed(_))) => ExitCode::from(3),
            _ => ExitCode::from(1),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    // Whoever starts us by a descriptor of our file gave us its number for a name.
    let _ = rustix::thread::set_name(c"longpin-device");
    // The library's own words about a guest's rings have no bound; ours about the same have.
    let filters = format!("virtio_queue=off,{}", args.log_level);
    env_logger::Builder::new().parse_filters(&filters).init();
    panics::end_the_process();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            error.exit_code()
        }
    }
}

fn run(args: &Args) -> Result<(), MainError> {
    // Inherited descriptors first, before their numbers could be taken by files of our own.
    let ready = args.ready_fd.map(inherit).transpose()?.map(File::from);
    let accelerator = match (args.fd, &args.socket_path) {
        (Some(number), _) => Some(SocketFile::inherited(inherit(number)?.into(), number)?),
        (None, Some(path)) => Some(SocketFile::bind(path)?),
        (None, None) => None,
    };
    let disks = args.disks.iter().enumerate();
    let disks = disks.map(|(index, options)| open_disk(index, options)).collect::<Result<_, _>>()?;
    let control = args.control.as_deref().map(SocketFile::bind).transpose()?;
    let stop = Arc::new(Stop::new().map_err(MainError::Signals)?);
    stop_on_signals(stop.clone()).map_err(MainError::Signals)?;
    let (ledger, ledger_limit) = (args.ledger.clone(), Some(args.ledger_limit));
    let persist = args.persist;
    let cache = CacheOptions { bound: args.translation_cache, eviction: args.translation_eviction.into() };
    let fault = args.fault;
    let config = Config { accelerator, disks, control, ledger, ledger_limit, cache, fault, ready, persist };
    Ok(serve(config, &stop)?)
}

fn open_disk(index: usize, options: &DiskOptions) -> Result<DiskConfig, MainError> {
    let DiskOptions { image, block_bytes, read_only, .. } = options;
    let image =
        Image::open(image, *block_bytes, *read_only).map_err(|source| MainError::Image { index, source })?;
    let socket =
        SocketFile::bind(&options.socket).map_err(|source| MainError::DiskSocket { index, source })?;
    let DiskOptions { serial, queues, queue_size, audited, .. } = options.clone();
    Ok(DiskConfig { socket, image, serial, queues, queue_size, audited })
}

fn inherit(number: i32) -> Result<std::os::fd::OwnedFd, MainError> {
    sys::inherit(number).map_err(|source| MainError::Descriptor { number, source })
}

fn stop_on_signals(stop: Arc<Stop>) -> io::Result<()> {
    // SIGXFSZ would kill the process at a file size limit; caught, the write fails and the ledger says so.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGXFSZ])?;
    let body = move || {
        for signal in &mut signals {
            if signal == SIGXFSZ {
                log::warn!("file size limit reached");
            } else {
                log::info!("signal {signal}: ending");
                stop.request();
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(body).map(drop)
}
