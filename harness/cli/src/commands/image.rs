// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `longpin image build|list|gc`.

use crate::args::{Format, ImageCommand};
use crate::error::Result;
use crate::images::Images;
use anyhow::Context as _;
use longpin_core::exit_code::ExitCode;
use longpin_images::{Entry, State, Store};
use serde_json::json;

/// Do it.
pub fn image(command: ImageCommand) -> Result<ExitCode> {
    match command {
        ImageCommand::Build => build(),
        ImageCommand::List { format } => list(format),
        ImageCommand::Gc { all } => gc(all),
    }
}

fn build() -> Result<ExitCode> {
    let images = Images::ensure()?;
    println!("tool root  {}", images.tool_root.path().display());
    println!("kernel     {} ({})", images.kernel.vmlinuz().display(), images.kernel.release());
    println!("module     {}", images.module.path().display());
    println!("initramfs  {}", images.initramfs.path().display());
    Ok(ExitCode::Good)
}

fn list(format: Format) -> Result<ExitCode> {
    let store = Store::open_default().context("image store cannot be opened")?;
    let entries = store.list().context("image store cannot be listed")?;
    match format {
        Format::Json => {
            let documents: Vec<_> = entries.iter().map(document).collect();
            let text = serde_json::to_string_pretty(&documents).context("list cannot be printed")?;
            println!("{text}");
        }
        Format::Table => {
            entries.iter().for_each(|entry| println!("{}", row(entry)));
            let total: u64 = entries.iter().map(|entry| entry.manifest.size_bytes).sum();
            println!("{} images, {} MiB, in {}", entries.len(), total >> 20, store.path().display());
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
    format!("{:<34} {size:>6} MiB {hours:>5} h  {}", entry.id.to_string(), state(entry))
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
    collected.removed.iter().for_each(|entry| println!("removed {}", entry.id));
    collected.busy.iter().for_each(|entry| println!("kept    {}: in use", entry.id));
    println!(
        "{} images and {} leftovers removed, {} MiB freed",
        collected.removed.len(),
        collected.leftovers,
        collected.freed_bytes >> 20
    );
    Ok(ExitCode::Good)
}
