// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds what a guest needs, as `longpin image build` does, and prints where it is and how long each part took.
//! `cargo run -p longpin-images --example build-images -- INIT [EXTRA...]` takes INIT (a static program) as the guest's
//! /init, and adds programs that a guest has on demand, such as fio.

use longpin_images::{InitramfsSpec, Store, report};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let built = match arguments.next() {
        Some(init) => build(&init, arguments.collect()),
        None => Err("usage: build-images INIT [EXTRA...]".into()),
    };
    match built {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn build(init: &str, programs: Vec<String>) -> Result<(), Box<dyn std::error::Error>> {
    let agent = std::fs::read(init).map_err(|error| format!("cannot read {init}: {error}"))?;
    let store = Store::open_default()?;
    let reporter = report::for_stderr();
    let began = Instant::now();
    let say = |what: &str, path: &Path| {
        println!("{what:10} {:>8.3} s  {}", began.elapsed().as_secs_f64(), path.display());
    };
    let root = store.tool_root(&*reporter)?;
    say("tool root", &root.path());
    let kernel = store.kernel(&root, &*reporter)?;
    say("kernel", kernel.vmlinuz());
    let module = store.module(&root, &kernel, None, &*reporter)?;
    store.keep_kernel(&root, &kernel)?;
    say("module", module.path());
    let modules = vec![module.path().to_owned()];
    let spec = InitramfsSpec { agent, modules, programs, ..InitramfsSpec::default() };
    let initramfs = store.initramfs(&root, &kernel, &spec, &*reporter)?;
    say("initramfs", &initramfs.path());
    for entry in store.list()? {
        println!("{:10} {} {:?}", entry.id.kind, entry.id.key, entry.state);
    }
    Ok(())
}
