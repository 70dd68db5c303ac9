// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds what a guest needs, as `longpin image build` does, and prints where it is and how long each part took.
//! `cargo run -p longpin-images --example build-images -- INIT` takes INIT (a static program) as the guest's /init.

use longpin_images::{Store, report};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open_default()?;
    let reporter = report::for_stderr();
    let began = Instant::now();
    let root = store.tool_root(&*reporter)?;
    println!("tool root  {:>8.3} s  {}", began.elapsed().as_secs_f64(), root.path().display());
    let began = Instant::now();
    let kernel = store.kernel(&root, &*reporter)?;
    println!("kernel     {:>8.3} s  {}", began.elapsed().as_secs_f64(), kernel.vmlinuz().display());
    Ok(())
}
