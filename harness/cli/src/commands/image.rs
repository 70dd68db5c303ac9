// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin image build|list|gc`.

use crate::args::{Format, ImageCommand, MachineArgs};
use crate::device::Program;
use crate::error::{Error, Result};
use crate::guest::{BootError, Guest};
use crate::images::{Brought, Driver, Images};
use crate::kernel_choice::KernelChoice;
use crate::output;
use crate::run::{self, Prepared};
use crate::vm::additions::Additions;
use anyhow::Context as _;
use longpin_core::exit_code::ExitCode;
use longpin_core::scenario::MachineNeeds;
use longpin_images::{Entry, State, Store};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// Do it.
pub fn image(command: ImageCommand) -> Result<ExitCode> {
    match command {
        ImageCommand::Build { refresh, kernel } => build(refresh, &kernel),
        ImageCommand::BuildModule { dir, kernel } => build_module(&dir, &kernel),
        ImageCommand::List { format } => list(format),
        ImageCommand::Gc { all } => gc(all),
    }
}

fn build(refresh: bool, kernel: &KernelChoice) -> Result<ExitCode> {
    let usual = BTreeSet::new();
    let images = match (refresh, kernel) {
        (true, KernelChoice::Stock) => newest().map_err(kept_as_it_was)?,
        (true, own) if !own.is_of_archive() => {
            return Err(Error::Usage(
                "--refresh asks the distribution's archive, from which this kernel is not".into(),
            ));
        }
        _ => Images::ensure(kernel, Brought::default(), refresh, [usual.clone()])?,
    };
    let module = match &images.driver {
        Driver::Module(module) => module.path().display().to_string(),
        Driver::Missing(why) => why.clone(),
    };
    output::text(&format!(
        "tool root  {}\nkernel     {} ({})\nmodule     {}\ninitramfs  {}\n",
        images.tool_root.path().display(),
        images.kernel.vmlinuz().display(),
        images.kernel.release(),
        module,
        images.initramfs(&usual)?.path().display()
    ))?;
    Ok(ExitCode::Good)
}

fn build_module(dir: &Path, kernel: &KernelChoice) -> Result<ExitCode> {
    let images = Images::ensure(kernel, Brought::default(), false, [])?;
    let include = tempfile::tempdir().context("no directory for a header")?;
    let built = images.build_modules(dir, include.path()).map_err(|error| match error {
        longpin_images::Error::UnfitKernel { .. } | longpin_images::Error::Unreadable { .. } => {
            Error::Usage(error.to_string())
        }
        error => Error::Infra(error.into()),
    })?;
    output::text(&built.iter().map(|path| format!("{}\n", path.display())).collect::<String>())?;
    Ok(ExitCode::Good)
}

/// The newest kernel, once a guest has booted it and loaded the driver.
fn newest() -> Result<Images> {
    let (images, device) = (Images::newest()?, Program::open()?);
    let Prepared { machine, notices, interrupt } =
        run::machine(&MachineArgs::usual(), images, device, Additions::default())?;
    notices.iter().for_each(|text| output::note(text));
    output::note(&format!("booting kernel {} once", machine.images.kernel.release()));
    let dir = tempfile::Builder::new().prefix("longpin-image-").tempdir().context("no directory for logs")?;
    let needs = MachineNeeds::default();
    let mut guest = Guest::boot(&machine, &needs, dir.path(), false, &interrupt).map_err(boot_error)?;
    guest.load_driver().map_err(boot_error)?;
    guest.power_off();
    machine.images.keep()?;
    Ok(machine.images)
}

fn kept_as_it_was(error: Error) -> Error {
    match error {
        Error::Infra(error) => {
            Error::Infra(error.context("no other kernel is taken, and what was used before stays in use"))
        }
        other => other,
    }
}

fn boot_error(error: BootError) -> Error {
    match error {
        BootError::Interrupted => Error::Interrupted,
        BootError::Failed(error) => Error::Infra(error),
    }
}

fn list(format: Format) -> Result<ExitCode> {
    let store = Store::open_default().context("image store cannot be opened")?;
    let entries = store.list().context("image store cannot be listed")?;
    match format {
        Format::Json => output::json(&entries.iter().map(document).collect::<Vec<_>>())?,
        Format::Table => {
            let total: u64 = entries.iter().map(|entry| entry.manifest.size_bytes).sum();
            let place = store.path().display();
            let end = format!("{} images, {} MiB, in {place}\n", entries.len(), total >> 20);
            output::text(&entries.iter().map(row).chain([end]).collect::<String>())?;
        }
    }
    Ok(ExitCode::Good)
}

fn document(entry: &Entry) -> serde_json::Value {
    json!({
        "id": entry.id.to_string(),
        "path": entry.path,
        "state": state(entry),
        "manifest": entry.manifest,
    })
}

fn row(entry: &Entry) -> String {
    let hours = entry.age().as_secs() / 3600;
    let size = entry.manifest.size_bytes >> 20;
    format!("{:<34} {size:>6} MiB {hours:>5} h  {}\n", entry.id.to_string(), state(entry))
}

fn state(entry: &Entry) -> String {
    match &entry.state {
        State::Current => "current".to_owned(),
        State::Stale(why) => format!("stale: {why}"),
    }
}

fn gc(all: bool) -> Result<ExitCode> {
    let store = Store::open_default().context("image store cannot be opened")?;
    let collected = store.gc(all).context("image store cannot be cleaned")?;
    let removed = collected.removed.iter().map(|entry| format!("removed {}\n", entry.id));
    let busy = collected.busy.iter().map(|entry| format!("kept    {}: in use\n", entry.id));
    let end = format!(
        "{} images and {} leftovers removed, {} MiB freed\n",
        collected.removed.len(),
        collected.leftovers,
        collected.freed_bytes >> 20
    );
    output::text(&removed.chain(busy).chain([end]).collect::<String>())?;
    Ok(ExitCode::Good)
}
