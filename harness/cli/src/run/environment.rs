// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a run takes place: versions of everything that can change a verdict.

use crate::guest::{Guest, Machine};
use crate::images::{Brought, Driver};
use anyhow::Context as _;
use longpin_core::report::{
    AddedModule, AdditionsInfo, Environment, HostInfo, KernelInfo, ModuleInfo, OverlayInfo, PinnerInfo,
    ProgramInfo, QemuInfo,
};
use std::path::Path;

/// What is known before the first boot.
pub fn collect(machine: &Machine, seed: u32) -> anyhow::Result<Environment> {
    let images = &machine.images;
    Ok(Environment {
        kernel: KernelInfo {
            release: images.kernel.release().to_owned(),
            version: String::new(),
            source: images.kernel.origin(),
            key: images.kernel.key().to_string(),
            stock: !images.kernel.is_brought(),
            page_state: String::new(),
            absent_modules: images.lacks().modules.into_iter().collect(),
        },
        qemu: QemuInfo { version: String::new(), path: machine.qemu.origin() },
        accel: machine.accel.to_string(),
        deadline_percent: machine.patience.percent(),
        disk: machine.disk.as_str().to_owned(),
        module: module_info(&images.driver)?,
        tool_root: images.tool_root.key().to_string(),
        tool_root_packages: images.tool_root.packages_hash()?.to_owned(),
        longpin: ProgramInfo { version: env!("CARGO_PKG_VERSION").to_owned(), hash: own_hash()? },
        device: ProgramInfo { version: String::new(), hash: machine.device.hash()? },
        additions: additions(machine)?,
        seed: u64::from(seed),
        host: host(),
    })
}

fn additions(machine: &Machine) -> anyhow::Result<AdditionsInfo> {
    let text = |path: &Path| path.display().to_string();
    let Brought { overlay, driver, modules, pinner } = &machine.images.brought;
    let overlay = overlay.as_ref();
    let modules =
        modules.iter().map(|module| (module, false)).chain(driver.iter().map(|module| (module, true)));
    let modules = modules.map(|(module, driver)| {
        let (path, params) = (text(&module.path), module.params.clone());
        Ok(AddedModule { path, hash: hash_of(&module.path)?, params, driver })
    });
    Ok(AdditionsInfo {
        modules: modules.collect::<anyhow::Result<_>>()?,
        append: machine.additions.kernel_words.clone(),
        qemu_args: machine.additions.qemu_args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        overlay: overlay
            .map(|overlay| OverlayInfo { path: text(overlay.dir()), hash: overlay.hash().to_owned() }),
        device_program: machine.device.given().map(text),
        pinner: pinner.as_ref().map(|pinner| PinnerInfo { path: text(&pinner.path), hash: pinner.hash() }),
    })
}

fn hash_of(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

fn module_info(driver: &Driver) -> anyhow::Result<ModuleInfo> {
    let path = match driver {
        Driver::Module(module) => module.path(),
        Driver::Missing(why) => {
            return Ok(ModuleInfo { missing: Some(why.clone()), ..ModuleInfo::default() });
        }
    };
    Ok(ModuleInfo {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        hash: hash_of(path)?,
        missing: None,
    })
}

/// Add what the first guest told.
pub fn complete(environment: &mut Environment, guest: &Guest) {
    environment.kernel.release = guest.hello().kernel_release.clone();
    environment.kernel.page_state = guest.hello().page_state.as_str().to_owned();
    environment.kernel.version = guest.hello().kernel_version.clone();
    environment.qemu.version = guest.qemu_version().to_owned();
    environment.device.version = guest.device_version().to_owned();
}

/// Of the program that runs, whatever has its name meanwhile.
fn own_hash() -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open("/proc/self/exe").and_then(|file| hasher.update_reader(file).map(drop));
    read.context("our own program cannot be read")?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Of this host; empty if it does not say.
pub fn cpu_model() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    field(&cpuinfo, "model name").unwrap_or_default().to_owned()
}

fn host() -> HostInfo {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    HostInfo {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpu: cpu_model(),
        cpus: std::thread::available_parallelism().map_or(0, |n| n.get() as u32),
        memory_kib: field(&meminfo, "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .unwrap_or(0),
    }
}

/// Value of the first `NAME : VALUE` line.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: Some CPU: fast\nMemTotal:  1024 kB\n";
        assert_eq!(field(text, "model name"), Some("Some CPU: fast"));
        assert_eq!(field(text, "MemTotal"), Some("1024 kB"));
        assert_eq!(field(text, "absent"), None);
    }

    #[test]
    fn our_own_hash_is_that_of_the_running_program() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(own_hash().unwrap(), blake3::hash(&bytes).to_hex().as_str());
    }

    #[test]
    fn this_host_is_described() {
        let host = host();
        assert!(!host.kernel.is_empty() && host.cpus > 0 && host.memory_kib > 0, "{host:?}");
    }
}
